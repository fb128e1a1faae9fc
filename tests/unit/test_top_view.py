"""The full-screen view, driven by keys, on made-up data."""

import asyncio
import re
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len

from ai_how.errors import HostError, StateError
from ai_how.monitoring.model import Finding, Snapshot, SourceState
from ai_how.top.app import TopApp
from ai_how.top.overview import Overview
from ai_how.top.pages import Pages
from ai_how.top.questions import Notice, Question
from made_up_cluster import make_snapshot
from made_up_feed import Feed, Hands, MadeUpSource

SIZE = (80, 24)
FINDING = Finding(
    id="agent-silent",
    severity="critical",
    subject="compute-02",
    text="compute-02: its agent is silent",
    since=0.0,
    evidence=("no answer in 20 s",),
    remedy="ai-how hpc console compute-02",
)


class View:
    """The view with its feed, and what is on its screen."""

    def __init__(self, app, pilot, feed, hands) -> None:
        self.app, self.pilot, self.feed, self.hands = app, pilot, feed, hands

    def strips(self):
        return self.app.screen._compositor.render_strips()

    @property
    def text(self) -> str:
        """The screen as it was drawn last."""
        size = self.app.size
        strips = self.strips()
        assert all(strip.cell_length == size.width for strip in strips)
        return "\n".join(strip.text.rstrip() for strip in strips)

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def line_with(self, word: str) -> str:
        return next(line for line in self.lines if word in line)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, word: str) -> None:
        """Wait until it is shown; what comes from threads takes a moment."""
        end = time.monotonic() + 30
        while word not in self.text:
            assert time.monotonic() < end, f"{word} is not in\n{self.text}"
            await self.pilot.pause(0.02)

    async def put(self, snapshot: Snapshot) -> None:
        """Have it seen."""
        self.feed.put(snapshot)
        end = time.monotonic() + 30
        while self.app._shown is None or self.app._shown.at != snapshot.at:
            assert time.monotonic() < end
            await self.pilot.pause(0.02)
        await self.pilot.pause()


def seen(*, at: float | None = None, **what) -> Snapshot:
    return make_snapshot(at=time.time() if at is None else at, **what)


def run(check, snapshot=None, *, size=SIZE, hands=None, failure=None, **looks) -> TopApp:
    """Run the view, and the check on it. What failed in a handler of the view is raised."""
    feed, hands = Feed(), hands or Hands()
    app = TopApp(
        MadeUpSource(feed, hands, failure),
        "made-up",
        is_plain=looks.get("is_plain", False),
        is_ascii=looks.get("is_ascii", False),
    )

    async def drive() -> None:
        async with app.run_test(size=size) as pilot:
            view = View(app, pilot, feed, hands)
            if snapshot is not None:
                await view.put(snapshot)
            await check(view)
        app.close_feed()

    asyncio.run(drive())
    return app


def test_before_the_first_answer_it_says_that_it_looks():
    async def check(view) -> None:
        assert view.lines[0].startswith("made-up looking…")
        assert "0/0" in view.lines[-1]

    run(check)


def test_in_80_by_24_there_are_nodes_jobs_findings_and_keys():
    async def check(view) -> None:
        assert view.lines[0].startswith("made-up ready  3/3 nodes on  SLURM 24.11.5  1 finding")
        assert "cpu 6.5/16" in view.lines[1]
        assert "psi cpu 1.5% mem 0.0% io 0.4%" in view.lines[1]
        assert view.lines[2].startswith("jobs 2 running, 2 waiting  allotted cpus 2/8")
        node = view.line_with("compute-01 running mixed").split()
        assert node[3] == "2.1/4" or node[3] == "2.0/4"
        assert "4 8" in " ".join(node)
        job = view.line_with("4    bob").split()
        assert job == [
            "4",
            "bob",
            "compute",
            "running",
            "compute-01",
            "5:00",
            "1:00:00",
            "40%",
            "21%",
            "job-4",
        ]
        at = next(n for n, line in enumerate(view.lines) if line.startswith("critical"))
        assert view.lines[at + 1].strip() == "→ /opt/ai-how hpc console compute-02"
        assert "? help" in view.lines[-1]
        assert "q quit" in view.lines[-1]

    run(check, seen(jobs=8, findings=(FINDING,)))


@pytest.mark.parametrize("size", [(1, 1), (10, 3), (20, 8), (40, 12), (79, 5), (300, 100)])
def test_no_size_is_too_small(size):
    async def check(view) -> None:
        assert len(view.lines) == size[1]
        for key in ("down", "tab", "right", "z", "z", "x", "question_mark", "escape", "escape"):
            await view.press(key)
        await view.press("enter")
        await view.press("i")
        assert len(view.lines) == size[1]
        await view.pilot.resize_terminal(*SIZE)
        end = time.monotonic() + 30
        while {one.cell_length for one in view.strips()} != {SIZE[0]}:
            assert time.monotonic() < end
            await view.pilot.pause(0.02)
        assert len(view.lines) == SIZE[1]

    run(check, seen(jobs=8, findings=(FINDING,)), size=size)


def test_what_is_not_known_is_no_zero():
    async def check(view) -> None:
        bare = view.line_with("compute-01")
        assert bare.split()[:3] == ["compute-01", "-", "-"]
        assert "0" not in bare.replace("compute-01", "")
        assert view.lines[1].startswith("host -")
        assert view.lines[2].startswith("jobs -")
        assert "SLURM has not answered yet" in view.text

    whole = seen(jobs=4)
    nodes = tuple(replace(one, vm=None, guest=None, slurm=None) for one in whole.nodes)
    run(check, replace(whole, nodes=nodes, slurm=None, host=None))


def test_what_is_old_is_marked_and_its_source_named():
    async def check(view) -> None:
        assert re.search(r"^libvirt silent for \d+ s: it does not answer", view.text, re.MULTILINE)
        row = view.line_with("compute-01 running?")
        assert "mixed " in row
        assert "2.1/4?" in row or "2.0/4?" in row
        assert "was ready" in view.lines[0]

    at = time.time()
    whole = seen(jobs=8, at=at)
    sources = tuple(
        SourceState(name="libvirt", every_s=5, at=at - 40.5, trouble="it does not answer")
        if one.name == "libvirt"
        else one
        for one in whole.sources
    )
    run(check, replace(whole, sources=sources))


def test_a_source_that_misses_its_answers_is_silent_without_a_word_of_it():
    async def check(view) -> None:
        assert "slurm silent for 2 min" in view.text
        assert "running?" in view.line_with("bob")

    at = time.time()
    whole = seen(jobs=8, at=at)
    slurm = SourceState(name="slurm", every_s=15, at=at - 150)
    run(check, replace(whole, sources=(*whole.sources[:2], slurm)))


def test_any_column_sorts_by_key_and_by_click():
    async def check(view) -> None:
        jobs = view.app.screen.jobs
        await view.press("tab")
        orders = {}
        for _ in jobs.columns:
            await view.press("greater_than_sign")
            orders[jobs.sorted_by.key] = list(jobs.keys)
        assert set(orders) == {column.key for column in jobs.columns}
        assert orders["job"] == [str(number) for number in range(1, 13)]
        assert orders["time"][0] == "12"  # the largest first; what has not started last
        assert orders["time"][-3:] == ["1", "5", "9"]
        jobs.sort_by("job")
        await view.press("I")
        assert jobs.keys[0] == "12"
        top = next(n for n, line in enumerate(view.lines) if line.startswith("JOB"))
        await view.pilot.click(offset=(view.lines[top].index("USER") + 1, top))
        assert jobs.sorted_by.key == "user"
        assert view.lines[top].count("▲") == 1
        assert "USER▲" in view.lines[top]
        await view.press("P")
        assert jobs.sorted_by.key == "cpu"

    run(check, seen(jobs=12), size=(120, 40))


def test_a_filter_takes_effect_while_it_is_typed_and_is_dropped_by_escape():
    async def check(view) -> None:
        jobs = view.app.screen.jobs
        await view.press("tab", "slash", *"ALI")
        assert {jobs._rows[key].job.user for key in jobs.keys} == {"alice"}
        await view.press("enter")
        assert "jobs 1/4 of 12 with: ALI" in view.lines[-1]
        assert view.app.focused is jobs
        await view.press("slash", "x", "escape")
        assert jobs.count == 12
        await view.press("slash", "z", "z", "z", "enter")
        assert jobs.count == 0
        await view.press("x", "enter", "escape")
        assert jobs.count == 12

    run(check, seen(jobs=12))


def test_an_update_leaves_the_cursor_on_its_row_and_at_its_place():
    async def check(view) -> None:
        jobs = view.app.screen.jobs
        await view.press("tab", *["down"] * 30)
        key, place = jobs.key(), jobs._cursor - jobs._top
        snapshot = seen(jobs=300)
        slurm = replace(snapshot.slurm, jobs=tuple(reversed(snapshot.slurm.jobs))[50:])
        await view.put(replace(snapshot, slurm=slurm))
        assert jobs.key() == key
        assert jobs._cursor - jobs._top == place
        # If its row is gone, it stays where it is.
        left = tuple(one for one in slurm.jobs if one.id != key)
        await view.put(replace(snapshot, at=snapshot.at + 1, slurm=replace(slurm, jobs=left)))
        assert jobs.key() != key
        assert jobs._cursor - jobs._top == place

    run(check, seen(jobs=300))


def test_what_is_new_and_worse_comes_into_sight_where_nobody_looks_around():
    async def check(view) -> None:
        worse = replace(FINDING, id="x", text="compute-01: its disk is full")
        await view.put(seen(findings=(*notices, worse)))
        assert "compute-01: its disk is full" in view.text
        findings = view.app.screen.findings
        await view.press("shift+tab", "down", "down")
        key = findings.key()
        await view.put(seen(findings=(*notices, worse, replace(worse, id="y"))))
        assert findings.key() == key

    notices = tuple(
        replace(FINDING, id=f"n{number}", severity="notice", text=f"notice {number}")
        for number in range(8)
    )
    run(check, seen(findings=notices))


def test_a_node_has_its_journal_its_serial_line_and_details():
    async def check(view) -> None:
        await view.press("down", "enter")
        await view.until("journal compute-01")
        await view.until("3/3 following")
        await view.press("s")
        await view.until("serial compute-01")
        await view.press("i")
        assert "VM             made-up-compute-01 running (booted)" in view.text
        assert "services       munge active, slurmd active" in view.text
        await view.press("escape")
        assert isinstance(view.app.screen, Overview)

    run(check, seen(jobs=8))


def test_a_job_has_its_output_its_script_and_details():
    async def check(view) -> None:
        await view.press("tab", "enter")
        await view.until("output 4")
        await view.press("tab")
        await view.until("script 4")
        await view.press("i")
        assert "cpu time       2:00, 40% of what it has" in view.text
        assert "memory peak    104M/500M, 21% of what it asked for" in view.text
        later = seen(jobs=8)
        await view.put(replace(later, slurm=replace(later.slurm, jobs=())))
        assert "SLURM has forgotten it" in view.text
        await view.press("q")
        assert isinstance(view.app.screen, Overview)

    run(check, seen(jobs=8))


def test_a_page_that_cannot_be_had_says_why():
    async def check(view) -> None:
        await view.press("down", "l")
        await view.until("compute-01 is off: ai-how hpc start compute-01")

    hands = Hands(refusal=HostError("compute-01 is off", hint="ai-how hpc start compute-01"))
    run(check, seen(), hands=hands)


def test_a_long_journal_is_followed_until_it_is_scrolled_and_can_be_filtered():
    async def check(view) -> None:
        await view.press("down", "l")
        await view.until("line 8999")
        assert "5000/5000 following" in view.lines[-1]
        await view.press("pageup")
        assert "following" not in view.lines[-1]
        await view.press("slash", *"line 8123", "enter")
        assert "line 8123" in view.text
        assert "1/1" in view.lines[-1]
        await view.press("escape", "end")
        assert "following" in view.lines[-1]

    hands = Hands(lines=tuple(f"line {number}" for number in range(9000)))
    run(check, seen(), hands=hands)


@pytest.mark.parametrize(
    ("keys", "question", "done"),
    [
        (("tab", "x"), "Cancel job 4 (job-4) of bob?", ("cancel", "4")),
        (("tab", "down", "down", "h"), "Hold job 1 (job-1) of bob?", ("hold", "1")),
    ],
)
def test_a_change_is_made_only_after_a_yes(keys, question, done):
    async def check(view) -> None:
        await view.press(*keys)
        assert question in view.text
        assert not view.hands.done
        await view.press("n")
        assert "nothing was changed" in view.lines[-1]
        for other in ("escape", "q"):
            await view.press(keys[-1], other)
            assert isinstance(view.app.screen, Overview)
        await view.press(keys[-1], "enter")
        assert isinstance(view.app.screen, Question)
        assert not view.hands.done
        await view.press("y")
        await view.until(f"job {done[1]}")
        end = time.monotonic() + 30
        while not view.hands.done:
            assert time.monotonic() < end
            await view.pilot.pause(0.02)
        assert view.hands.done == [done]

    run(check, seen(jobs=8))


def test_what_was_asked_for_is_marked_until_slurm_says_the_same():
    async def check(view) -> None:
        await view.press("tab", "x", "y")
        await view.until("cancelling…")
        assert "job 4 (job-4) of bob is cancelled" in view.lines[-1]
        before = time.time() - 20
        await view.put(seen(jobs=8, at=before))
        assert "cancelling…" in view.text
        await view.put(seen(jobs=8, at=time.time() + 30))
        assert "cancelling…" not in view.text

    run(check, seen(jobs=8))


def test_a_held_job_is_released_and_no_other():
    async def check(view) -> None:
        await view.press("tab", "u")
        assert "job 4 is not held" in view.lines[-1]
        await view.press("down", "u")
        assert "Release job 1" in view.text
        await view.press("escape", "h")
        assert "job 1 is held already" in view.lines[-1]
        await view.press("u", "y")
        await view.until("job 1 is released")
        assert view.hands.done == [("release", "1")]

    whole = seen(jobs=4)
    jobs = tuple(replace(one, reason="JobHeldUser") for one in whole.slurm.jobs[:1])
    run(check, replace(whole, slurm=replace(whole.slurm, jobs=jobs + whole.slurm.jobs[3:])))


def test_a_node_is_drained_with_a_reason_and_resumed():
    async def check(view) -> None:
        await view.press("d")
        assert "controller runs no jobs" in view.lines[-1]
        await view.press("down", "d")
        assert "Drain compute-01? No new job starts there." in view.text
        assert "2 jobs there go on until the end: 4, 8." in view.text
        await view.press("enter")
        assert not view.hands.done
        await view.press(*"fan 2 ['x]", "enter")
        await view.until("draining…")
        assert view.hands.done == [("drain", "compute-01", "fan 2 ['x]")]
        slurm = tuple(
            replace(one, states=("mixed", "drain"), reason="fan 2", reason_user="root")
            for one in whole.slurm.nodes
        )
        nodes = tuple(replace(one, slurm=slurm[0] if one.slurm else None) for one in whole.nodes)
        later = time.time() + 60
        sources = tuple(replace(one, at=later) for one in whole.sources)
        await view.put(replace(whole, at=later, sources=sources, nodes=nodes))
        assert "not ready: compute-01 is mixed, drained and 1 more" in view.lines[0]
        assert "(fan 2)" in view.line_with("compute-01 running mixed+drain")
        await view.press("d")
        assert "drained already: fan 2" in view.lines[-1]
        await view.press("u")
        assert "It is mixed+drain: fan 2 (root)." in view.text
        await view.press("y")
        await view.until("compute-01 is back in service")
        assert view.hands.done[-1] == ("resume", "compute-01")

    whole = seen(jobs=8)
    run(check, whole, size=(120, 30))


@pytest.mark.parametrize("state", ["shut_off", "absent"])
def test_a_node_that_is_off_by_its_file_keeps_no_cluster_from_being_ready(state):
    async def check(view) -> None:
        assert "made-up ready  2/3 nodes on" in view.lines[0]

    whole = seen()
    *rest, last = whole.nodes
    off = replace(last, auto_start=False, slurm=None, vm=replace(last.vm, state=state))
    run(check, replace(whole, nodes=(*rest, off)))


def test_a_refused_change_is_shown_with_its_details():
    async def check(view) -> None:
        await view.press("tab", "x", "y")
        await view.until("scancel refused")
        assert "Access/permission denied" in view.text
        assert "hint: /opt/ai-how hpc ssh" in view.text
        await view.press("escape")
        assert isinstance(view.app.screen, Overview)
        assert "cancelling…" not in view.text

    refusal = HostError(
        "scancel refused", details="Access/permission denied", hint="ai-how hpc ssh"
    )
    run(check, seen(jobs=8), hands=Hands(refusal=refusal))


HOSTILE = (
    "[red]no markup[/red]",
    "\x1b[2J\x1b]0;title\x07 escapes",
    "line\nbreak\r\ttab\x00nul",
    "wide 中文字" * 8,
    "e\u0301" * 60 + "\u200b\u202e\ufeff\ud800",
    "[@click=app.quit]click[/]",
    "x" * 5000,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_guests_is_shown_as_it_is_and_does_nothing(text):
    async def check(view) -> None:
        shown = view.text
        assert "\x1b" not in shown
        assert "\x00" not in shown
        assert all(cell_len(line) <= SIZE[0] for line in view.lines)
        if text.startswith("["):
            assert text[:6] in view.line_with("4  ")
        await view.press("tab", "x")
        assert isinstance(view.app.screen, Question)
        if text.startswith("["):
            assert text in view.text
        await view.press("n", "i")
        await view.press("escape")
        await view.press("enter")
        await view.until("output 4")
        await view.press("escape", "tab", "i", "escape")
        assert "\x1b" not in view.text

    whole = seen(jobs=4, findings=(replace(FINDING, text=text, evidence=(text,)),))
    jobs = tuple(
        replace(one, name=text, user=text, reason=text, partition=text, output=text)
        for one in whole.slurm.jobs
    )
    nodes = tuple(
        replace(one, slurm=one.slurm and replace(one.slurm, reason=text, states=("idle", "drain")))
        for one in whole.nodes
    )
    slurm = replace(whole.slurm, jobs=jobs, version=text)
    run(check, replace(whole, nodes=nodes, slurm=slurm), hands=Hands(lines=(text,)))


def test_without_colours_the_cursor_and_the_trouble_can_still_be_seen():
    async def check(view) -> None:
        styles = [
            (segment.text, segment.style)
            for strip in view.app.screen._compositor.render_strips()
            for filtered in [view.app.get_line_filters()]
            for segment in _filtered(strip, filtered)
        ]
        assert not [s for _, s in styles if s and s.color and not s.color.is_default]
        assert any(s and s.reverse and "compute-01" in t for t, s in styles)

    async def moved(view) -> None:
        await view.press("down")
        await check(view)

    run(moved, seen(jobs=8, findings=(FINDING,)), is_plain=True)


def _filtered(strip, filters):
    segments = list(strip)
    for one in filters:
        segments = one.apply(segments, None)
    return segments


def test_in_ascii_every_sign_is_as_wide_as_what_it_stands_for():
    async def check(view) -> None:
        await view.press("tab", "x")
        for strip in view.app.screen._compositor.render_strips():
            text = "".join(one.text for one in _filtered(strip, view.app.get_line_filters()))
            assert text.isascii()
            assert len(text) == SIZE[0]

    whole = seen(jobs=8)
    jobs = tuple(replace(one, name="中文 é e\u0301…") for one in whole.slurm.jobs)
    run(check, replace(whole, slurm=replace(whole.slurm, jobs=jobs)), is_ascii=True)


def test_it_says_that_the_collector_is_gone_and_goes_on_when_it_is_back():
    async def check(view) -> None:
        view.feed.put(HostError("the collector has ended"))
        await view.until("the collector has ended")
        await view.put(seen(jobs=4))
        await view.until("q quit")
        assert "the collector has ended" not in view.text

    run(check, seen(jobs=8))


def test_a_cluster_that_is_off_is_shown_as_off():
    async def check(view) -> None:
        assert "off: its host is down" in view.lines[0]

    run(check, replace(seen(), is_up=False))


def test_the_keys_are_shown_and_fit_into_80_by_24():
    async def check(view) -> None:
        await view.press("question_mark")
        assert isinstance(view.app.screen, Notice)
        assert "x h u        cancel, hold, release" in view.text
        assert "is not known" in view.text
        await view.press("escape")
        assert isinstance(view.app.screen, Overview)

    run(check, seen(jobs=8))


def test_a_finding_opens_with_its_evidence_and_remedy():
    async def check(view) -> None:
        await view.press("shift+tab", "enter")
        assert isinstance(view.app.screen, Pages)
        assert "seen           no answer in 20 s" in view.text
        assert "remedy         /opt/ai-how hpc console compute-02" in view.text

    run(check, seen(findings=(FINDING,)))


def test_ended_jobs_can_be_left_out():
    async def check(view) -> None:
        await view.press("tab", "e")
        assert {row.job.state for row in view.app.screen.jobs._rows.values()} == {
            "running",
            "pending",
        }
        await view.press("e")
        assert view.app.screen.jobs.count == 8

    run(check, seen(jobs=8))


def test_a_table_alone_has_the_whole_screen_until_the_next_z():
    async def check(view) -> None:
        await view.press("tab", "z")
        assert not any(line.startswith("NODE") for line in view.lines)
        assert sum("compute" in line for line in view.lines) >= 18
        await view.press("z")
        assert any(line.startswith("NODE") for line in view.lines)

    run(check, seen(jobs=60))


def test_further_columns_come_into_sight_and_the_first_one_stays():
    async def check(view) -> None:
        await view.press(*["right"] * 20)
        head = view.line_with("QCOW2")
        assert head.startswith("NODE")
        assert "STEAL" in head
        assert "VM " not in head
        await view.press(*["left"] * 20)
        assert "VM " in view.line_with("NODE")

    run(check, seen(jobs=8))


@pytest.mark.parametrize("failure", [StateError("there is no cluster x"), ZeroDivisionError("bug")])
def test_what_keeps_it_from_opening_is_raised_by_its_caller(failure):
    async def check(view) -> None:
        end = time.monotonic() + 30
        while view.app.failure is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)

    if isinstance(failure, StateError):
        assert run(check, failure=failure).failure is failure


def test_a_click_chooses_a_row_and_two_open_it():
    async def check(view) -> None:
        at = next(n for n, line in enumerate(view.lines) if line.startswith("compute-02"))
        await view.pilot.click(offset=(3, at))
        assert view.app.screen.nodes.key() == "compute-02"
        await view.pilot.click(offset=(3, at), times=2)
        await view.until("journal compute-02")

    run(check, seen(jobs=8))
