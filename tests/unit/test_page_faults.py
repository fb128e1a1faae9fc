"""What goes wrong under an open page: hostile names, gaps, lost servers, hours of updates."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from playwright.sync_api import Browser

from ai_how.dashboard import feeds
from ai_how.errors import HostError
from ai_how.monitoring.model import Event, Finding, Job, Snapshot
from ai_how.waiting import Deadline, wait_until
from made_up_life import MovingLife, ToldClusters
from seen_page import Seen, chromium, seen, served

HOSTILE = (
    '<img src=x onerror="document.title=1">',
    "</script><script>document.title='owned'</script>",
    "javascript:document.title=1",
    "{{7*7}}${7*7}",
    "a" * 4000,
    "\u202eevil\u2066\u0000\ufeff",
    "'\"><svg onload=document.title=1>",
    "<a href='https://example.com/'>x</a>",
)
LOST = ("Failed to load resource", "ERR_CONNECTION", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


def with_texts(now: Snapshot, texts: tuple[str, ...]) -> Snapshot:
    """The snapshot with hostile text wherever a user or a guest can write some."""
    assert now.slurm

    def poison(job: Job, text: str) -> Job:
        fields = ("name", "user", "account", "qos", "reason", "command", "output", "partition")
        return replace(job, **dict.fromkeys(fields, text))  # type: ignore[arg-type]

    count = len(texts)
    jobs = tuple(poison(one, texts[place % count]) for place, one in enumerate(now.slurm.jobs))
    nodes = tuple(
        replace(
            one,
            slurm=replace(one.slurm, reason=texts[place % count], reason_user=texts[0]),
            guest=replace(
                one.guest,
                failed_units=texts,
                services={texts[place % count]: "failed"},
            ),
        )
        if one.slurm and one.guest
        else one
        for place, one in enumerate(now.nodes)
    )
    findings = tuple(
        Finding(
            id=f"hostile-{place}",
            severity=text,
            subject=text,
            text=text,
            since=now.at,
            evidence=(text,),
            remedy=text,
        )
        for place, text in enumerate(texts)
    )
    sources = tuple(replace(one, trouble=texts[0]) for one in now.sources)
    return replace(
        now, slurm=replace(now.slurm, jobs=jobs), nodes=nodes, findings=findings, sources=sources
    )


class Unseen(ToldClusters):
    """Clusters that are known, and that cannot be watched."""

    def connect(self, name):
        raise HostError(f"{name} has no libvirt")


def test_a_cluster_that_cannot_be_watched_says_why(browser):
    with served(Unseen(MovingLife(name="lost"))) as one, seen(browser, one.address) as page:
        page.expected = LOST  # what it asks for meanwhile is refused
        page.wait("() => document.querySelector('#empty').innerText.includes('has no libvirt')")
        assert "Nothing is seen of it: lost has no libvirt." in page.text("#empty")


def test_hostile_text_is_shown_as_text(browser):
    now = time.time()
    happened = [Event(at=now - 9, kind=one[:40], subject=one, text=one) for one in HOSTILE]
    life = MovingLife(name="made-up", count=16, happened=happened)
    life.change = lambda seen: with_texts(seen, HOSTILE)
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.wait("() => document.querySelectorAll('#jobs-table tbody tr').length === 16")
        page.wait("() => document.querySelectorAll('#events li').length === 8")
        for job in ("1", "2", "3", "4"):
            page.page.locator("#jobs-table button", has_text=re.compile(f"^{job}$")).click()
            page.page.keyboard.press("Escape")
        page.page.locator("#nodes-table button", has_text="compute-01").click()
        page.page.locator("#drawer-facts").get_by_text("Failed units").wait_for()
        assert HOSTILE[0] in page.page.locator("#drawer-facts").inner_text()
        page.page.keyboard.press("Escape")
        assert HOSTILE[0] in page.page.locator("#jobs-table").text_content()
        made = page.page.evaluate(
            "document.querySelectorAll('main img, main script, main a, [onerror], [onload]').length"
        )
        assert made == 0
        assert "made-up" in page.page.title()
        # Not even the longest of them makes the page wider than the window.
        assert page.page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )


def troubled(name: str, why: str):
    def change(now: Snapshot) -> Snapshot:
        sources = tuple(
            replace(one, trouble=why, at=now.at - 120) if one.name == name else one
            for one in now.sources
        )
        return replace(now, sources=sources)

    return change


def test_a_gap_says_its_reason_and_what_is_old_is_not_shown_as_new(browser):
    life = MovingLife(name="made-up")
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.wait("() => document.querySelector('#live').textContent === '● Live'")
        assert page.page.locator("#gaps").is_hidden()
        chart = page.page.locator("#charts .plot").first
        label = "(what) => document.querySelector('#charts .plot')?.ariaLabel.includes(what)"
        page.wait(label, "compute-01: now")
        life.change = troubled("libvirt", "it has not answered for 5 s")
        life.tell()
        page.page.locator("#gaps").wait_for()
        assert "libvirt (it has not answered for 5 s; last seen 2 min ago)" in page.text("#gaps")
        assert "Live, with gaps: libvirt" in page.text("#live")
        words = page.page.locator("#picture .node").first.get_attribute("aria-label")
        assert "running, not sure" in words
        # The newest value of a line is none; the host's goes on.
        goes_on = re.compile("host: now \\d.*compute-01: now \u2013")

        def is_so() -> object:
            life.tell()
            return goes_on.search(chart.get_attribute("aria-label") or "")

        wait_until(is_so, Deadline.after(120), "the gap of a node alone", interval_s=1.0)
        life.change = lambda seen: seen
        life.tell()
        page.page.locator("#gaps").wait_for(state="hidden")
        page.wait("() => document.querySelector('#live').textContent === '● Live'")


def test_a_new_finding_is_said_once_and_when_it_is_over(browser):
    life = MovingLife(name="made-up")
    finding = Finding(
        id="x", severity="critical", subject="slurm", text="slurmctld is dead", since=time.time()
    )
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.wait("() => document.querySelector('#health').textContent.includes('Nothing')")
        page.wait("() => document.querySelector('#said').textContent === ''")
        life.findings = (finding,)
        life.tell()
        says = "(what) => document.querySelector('#said').textContent === what"
        page.wait(says, "critical: slurmctld is dead")
        assert page.page.title().startswith("(1) ")
        life.findings = ()
        life.tell()
        page.wait(says, "over: slurmctld is dead")


def test_a_page_stays_open_over_the_end_of_its_server(browser):
    life = MovingLife(name="made-up")
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.expected = LOST
        page.wait("() => document.querySelector('#live').textContent === '● Live'")
        one.stop()
        page.wait("() => document.querySelector('#live').textContent.includes('Not live since')")
        assert "trying again" in page.text("#live")
        assert page.page.locator("#nodes-table tbody tr").count() == 4
        life.happened.append(
            Event(at=time.time(), kind="heal", subject="compute-01", text="compute-01 was healed")
        )
        one.start()
        page.wait("() => document.querySelector('#live').textContent === '● Live'")
        # What happened meanwhile is there.
        page.page.locator("#events li", has_text="compute-01 was healed").wait_for()


def test_a_new_server_has_another_token_and_the_page_says_so(browser):
    clusters = ToldClusters(MovingLife(name="made-up"))
    with served(clusters) as one, seen(browser, one.address) as page:
        page.expected = LOST
        page.wait("() => document.querySelector('#live').textContent === '● Live'")
        one.stop()
        one.forget_keys()
        one.start()
        page.wait("() => document.querySelector('#live').textContent.includes('token')")


def test_a_cluster_that_is_gone_leaves_and_comes_back(browser):
    clusters = ToldClusters(MovingLife(name="made-up"))
    with served(clusters) as one, seen(browser, one.address) as page:
        page.expected = LOST  # of what was asked for at that moment
        page.wait("() => !document.querySelector('#content').hidden")
        gone = clusters.told.pop("made-up")
        page.page.get_by_text("No cluster", exact=True).wait_for()
        clusters.told["made-up"] = gone
        page.wait("() => !document.querySelector('#content').hidden")
        page.wait("() => document.querySelectorAll('#nodes-table tbody tr').length === 4")


def test_a_page_without_a_token_says_where_it_is(browser):
    clusters = ToldClusters(MovingLife(name="made-up"))
    with served(clusters) as one, seen(browser, one.address.partition("#")[0]) as page:
        page.expected = LOST
        page.page.get_by_text("This page needs its token").wait_for()
        assert "open the address that ai-how printed" in page.text("#empty")


def heap_mib(page: Seen) -> float:
    """What JavaScript holds after it was made to clean up."""
    session = page.page.context.new_cdp_session(page.page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    session.detach()
    return usage["usedSize"] / 2**20


@pytest.mark.parametrize(
    ("rounds", "warm"), [(24, 12), pytest.param(720, 720, marks=pytest.mark.long)]
)
def test_memory_is_bounded_over_an_hour_of_updates(browser, rounds, warm, monkeypatch):
    """720 rounds are an hour; the default run does two minutes after a shorter beginning."""
    clock = [time.time()]
    moved = SimpleNamespace(time=lambda: clock[0], monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(feeds, "time", moved)
    life = MovingLife(name="made-up", count=40, clock=lambda: clock[0])
    # Other jobs come all the time; those of before have ended, and leave the range.
    life.change = lambda now: renumbered(now, int(clock[0] - 1.7e9) // 20)
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.page.clock.install(time=clock[0])
        page.page.reload()
        page.wait("() => document.querySelectorAll('#jobs-table tbody tr').length > 1")
        page.page.locator("#ranges label", has_text="15 min").click()
        follow_clock(page, life, warm, clock)
        before = heap_mib(page)
        follow_clock(page, life, rounds, clock)
        after = heap_mib(page)
        assert after - before < 8
        events = page.page.locator("#events li").count()
        assert 10 < events <= 100


def renumbered(now: Snapshot, first: int) -> Snapshot:
    assert now.slurm
    jobs = tuple(
        replace(one, id=str(first + place), shown_id=str(first + place))
        for place, one in enumerate(now.slurm.jobs)
    )
    return replace(now, slurm=replace(now.slurm, jobs=jobs))


def follow_clock(page: Seen, life: MovingLife, rounds: int, clock: list[float]) -> None:
    for _ in range(rounds):
        clock[0] += 5
        life.happened.append(Event(at=clock[0], kind="heal", subject="x", text=f"at {clock[0]}"))
        page.page.clock.run_for(5000)
        life.tell()
        page.wait(
            "(at) => document.querySelector('#live-at').dataset.at === at", str(int(clock[0]))
        )
