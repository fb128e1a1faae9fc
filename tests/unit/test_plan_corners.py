"""The corners of a plan and its journal: how many at once, whose error it is, what is left open."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest
from plan_world import STEP_TYPES, Bench, Put, raise_at

from ai_how.errors import (
    HostError,
    InterruptedRunError,
    PlanFailedError,
    StateError,
    UndoIncompleteError,
)
from ai_how.plan.daemon_pool import DaemonPool
from ai_how.plan.executor import OnFailure, execute
from ai_how.plan.journal import Journal
from ai_how.plan.records import decode_line, encode_line
from ai_how.plan.step import Applied, Plan
from ai_how.plan.undo import GRACE_S, roll_back, undo

PATIENCE_S = 30


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def plain(count: int) -> Plan:
    return Plan("start", tuple(Put(f"s{number:02}") for number in range(count)))


class Most:
    """How many were inside at once; each stays until there were as many as are expected."""

    def __init__(self, expected: int) -> None:
        self.expected, self.now, self.most = expected, 0, 0
        self.changed = threading.Condition()

    def enter(self) -> None:
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.most >= self.expected, PATIENCE_S)
            # One more than there may be would come now.
            self.changed.wait_for(lambda: self.most > self.expected, 0.2)

    def leave(self) -> None:
        with self.changed:
            self.now -= 1


def test_eight_steps_run_at_once_unless_more_are_asked_for(bench):
    most = Most(8)
    bench.world.on = lambda moment, key: most.enter() if "before" in moment else most.leave()
    bench.run(plain(12))
    assert most.most == 8


@pytest.mark.parametrize("how", ["in the same run", "by the next run"])
def test_eight_steps_are_undone_at_once_unless_more_are_asked_for(bench, how):
    most, nodes = Most(8), plain(12)
    last = Put("last", tuple(step.key for step in nodes.steps))

    def on(moment, key):
        if (moment, key) == ("before apply", "last"):
            raise HostError("no")
        if "revert" in moment and key != "last":
            most.enter() if "before" in moment else most.leave()

    bench.world.on = on
    if how == "in the same run":
        with pytest.raises(PlanFailedError):
            bench.run(Plan("start", (*nodes.steps, last)))
    else:
        with bench.journal(nodes) as journal:
            journal.intent(nodes.steps)
        roll_back(bench.left(), bench.world, observer=bench.recorder, interrupts=bench.interrupts)
    assert most.most == 8
    assert bench.world.content == []


def test_no_step_is_begun_before_there_is_a_thread_for_it(bench):
    third_is_on, begun_then = threading.Event(), []

    def on(moment, key):
        if (moment, key) == ("before apply", "s01"):
            assert third_is_on.wait(PATIENCE_S)
        if (moment, key) == ("before apply", "s02"):
            begun_then.extend(step.key for step in bench.left().begun)
            third_is_on.set()

    bench.world.on = on
    bench.run(plain(5), workers=2)
    assert begun_then == ["s00", "s01", "s02"]


def test_the_first_error_is_the_cause_and_the_later_ones_are_told(bench):
    first_failed = threading.Event()

    def on(moment, key):
        if moment != "before apply":
            return
        if key == "b":
            assert first_failed.wait(PATIENCE_S)
        raise HostError(f"{key} broke", hint=f"mend {key}")

    bench.world.on = on
    bench.recorder.failed = lambda step, error: first_failed.set()
    with pytest.raises(PlanFailedError, match="a broke") as caught:
        bench.run(Plan("start", (Put("a"), Put("b"))))
    assert caught.value.__cause__.brief == "a broke"
    assert caught.value.hint == "mend a"
    assert caught.value.details.splitlines()[1] == "b broke (while applying b)"


def test_the_first_step_that_remains_is_the_cause_of_an_undo_that_failed(bench):
    def on(moment, key):
        if (moment, key) == ("before apply", "c"):
            raise HostError("c broke")
        if moment == "before revert":
            raise HostError(f"{key} is stuck")

    bench.world.on = on
    plan = Plan("start", (Put("a"), Put("b", ("a",)), Put("c", ("b",))))
    with pytest.raises(UndoIncompleteError) as caught:
        bench.run(plan)
    assert caught.value.__cause__.brief == "c broke"
    assert [line for line in caught.value.details.splitlines() if "(while" in line] == [
        "c broke (while applying c)",
        *(f"{key} is stuck (while reverting {key})" for key in "cba"),
    ]
    with pytest.raises(UndoIncompleteError) as caught:
        roll_back(bench.left(), bench.world, observer=bench.recorder, interrupts=bench.interrupts)
    assert caught.value.__cause__.brief == "c is stuck"
    assert "3 of its steps could not be undone" in caught.value.brief


def test_what_an_undo_did_is_heard(bench):
    def on(moment, key):
        if (moment, key) == ("after apply", "b"):
            raise HostError("b broke")
        if (moment, key) == ("before revert", "a"):
            raise HostError("a is stuck")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError):
        bench.run(Plan("start", (Put("a"), Put("b", ("a",)))), workers=1)
    assert bench.recorder.heard[-5:] == [
        ("failed", "b"),
        ("undoing", "b"),
        ("undone", "b"),
        ("undoing", "a"),
        ("undo failed", "a"),
    ]


@pytest.mark.fault("F07", "a wish to stop while a step, an undo or the evidence runs")
@pytest.mark.parametrize("moment", ["before apply", "before revert", "evidence"])
def test_a_wish_to_stop_is_acknowledged_while_something_runs(bench, moment):
    heard, was_heard = threading.Event(), []
    bench.recorder.interrupted = heard.set

    def wish() -> None:
        bench.interrupts.request()
        was_heard.append(heard.wait(PATIENCE_S))

    def on(now, key):
        if now == moment:
            wish()
        if now == "after apply":
            raise HostError("no")

    bench.world.on = on
    evidence = (lambda errors: wish()) if moment == "evidence" else None
    with pytest.raises(InterruptedRunError if moment == "before apply" else PlanFailedError):
        bench.run(plain(1), evidence=evidence)
    assert was_heard == [True]


def test_evidence_is_asked_for_only_where_there_are_errors(bench):
    seen = []
    bench.interrupts.request()
    with pytest.raises(InterruptedRunError) as caught:
        bench.run(plain(2), evidence=seen.append)
    assert seen == []
    assert caught.value.details is None
    assert caught.value.brief == "start was interrupted; all its changes were undone"


@pytest.mark.fault("F13", "the journal cannot be removed after a failure")
def test_a_journal_that_cannot_be_removed_is_told_with_the_failure(bench, monkeypatch):
    bench.world.on = raise_at("before apply", "s00", HostError("s00 broke"))

    real = os.unlink

    def refuse(path):
        if Path(path) == bench.journal_path and bench.journal_path.exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(path)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PlanFailedError, match="s00 broke") as caught:
        bench.run(plain(1))
    assert "Read-only file system" in caught.value.details
    assert bench.world.content == []
    assert bench.left().remaining == ()


def test_what_a_run_left_standing_is_told_with_what_it_never_began(bench):
    plan = Plan("stop", (Put("a"), Put("b", ("a",)), Put("c", ("b",))))
    bench.world.on = raise_at("before apply", "b", HostError("b broke"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(plan, on_failure=OnFailure.KEEP)
    assert caught.value.brief == "stop failed; its changes were not undone: b broke"
    assert caught.value.details.splitlines()[-1] == "not begun: c"
    assert bench.world.content == ["a"]


def test_nothing_is_said_of_what_never_began_where_all_began(bench):
    bench.world.on = raise_at("before apply", "s00", HostError("s00 broke"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(plain(1), on_failure=OnFailure.KEEP)
    assert "not begun" not in caught.value.details


def test_the_others_are_not_told_to_end_early_where_they_go_on(bench):
    stopped = []

    def on(moment, key):
        if (moment, key) == ("before apply", "s00"):
            raise HostError("s00 broke")
        stopped.append(bench.interrupts.stop.is_set())

    bench.world.on = on
    with pytest.raises(PlanFailedError):
        bench.run(plain(3), workers=1, on_failure=OnFailure.CONTINUE)
    assert stopped == [False] * 4


def test_a_journal_that_is_lost_is_told_once_and_nothing_begins_after(bench):
    lost = raise_at("before done", "s00", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(plain(3), workers=1, on_boundary=lost)
    assert "(while writing the journal)" in caught.value.details
    assert bench.world.keys("before apply") == ["s00"]
    assert bench.world.content == []
    with pytest.raises(PlanFailedError):
        bench.run(plain(3), workers=1, on_boundary=lost, on_failure=OnFailure.CONTINUE)
    assert bench.world.keys("before apply") == ["s00", "s00"]


@pytest.mark.parametrize("standing", [set(), {"s8"}], ids=["nothing", "the last"])
def test_an_undo_waits_only_while_something_is_being_undone(bench, monkeypatch, standing):
    late = []
    real = DaemonPool.wait

    def wait(crew, slice_s):
        late.append(len(bench.recorder.heard) != 1)
        return real(crew, slice_s)

    monkeypatch.setattr(DaemonPool, "wait", wait)
    steps = [Put(f"s{number}", (f"s{number - 1}",) if number else ()) for number in range(9)]
    with bench.journal(plain(0)) as journal:
        left = undo(
            steps,
            bench.world,
            journal,
            observer=bench.recorder,
            interrupts=bench.interrupts,
            needs_no_undo={step.key for step in steps} - standing,
            workers=2,
        )
    assert left == ()
    assert bench.recorder.heard == [
        (what, key) for key in standing for what in ("undoing", "undone")
    ]
    assert late == [False] * len(late)
    assert bool(late) == bool(standing)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long a roll-back would wait, each time; it does not."""
    told: list[float] = []

    def wait_until(is_over, deadline, what, **options):
        told.append(max(0, deadline.remaining_s - GRACE_S))

    monkeypatch.setattr("ai_how.plan.undo.wait_until", wait_until)
    return told


def cut_short(bench) -> None:
    """Of three steps the first was seen to end, the second was there, the third was cut short."""
    with bench.journal(plain(0)) as journal:
        journal.intent([Put("a"), Put("b"), Put("c", ("a",))])
        journal.done({"a": Applied.MADE, "b": Applied.KEPT})
    for name in "abc":
        (bench.world.root / name).touch()


def back(bench, **options) -> list[str]:
    """What a roll-back reverts, in its order."""
    roll_back(
        bench.left(),
        bench.world,
        observer=bench.recorder,
        interrupts=bench.interrupts,
        **options,
    )
    return bench.world.keys("after revert")


def test_what_was_not_seen_to_end_is_undone_again_once_it_must_have_ended(bench, waits):
    cut_short(bench)
    assert back(bench, settle_s=1000) == ["c", "a", "c"]
    assert len(waits) == 1
    assert 900 < waits[0] <= 1000
    assert bench.world.content == ["b"]
    assert not bench.journal_path.exists()


def test_what_was_asked_for_long_ago_is_not_waited_for(bench, waits):
    cut_short(bench)
    an_hour_ago = time.time() - 3600
    os.utime(bench.journal_path, (an_hour_ago, an_hour_ago))
    assert back(bench, settle_s=1000) == ["c", "a", "c"]
    assert waits == [0]


def test_a_clock_that_was_set_back_makes_no_wait_longer(bench, waits):
    cut_short(bench)
    in_an_hour = time.time() + 3600
    os.utime(bench.journal_path, (in_an_hour, in_an_hour))
    back(bench, settle_s=1000)
    assert 900 < waits[0] <= 1000


def test_nothing_is_undone_twice_where_all_was_seen_or_nothing_can_come_late(bench, waits):
    cut_short(bench)
    assert back(bench) == ["c", "a"]
    bench.world.log.clear()
    with bench.journal(plain(0)) as journal:
        journal.intent([Put("a")])
        journal.done({"a": Applied.MADE})
    assert back(bench, settle_s=1000) == ["a"]
    with bench.journal(plain(0)) as journal:
        journal.intent([Put("a"), Put("b")])
        journal.undone(["a"])
        journal.done({"b": Applied.KEPT})
    assert back(bench, settle_s=1000) == ["a"], "which is what it reverted before"
    assert waits == []


@pytest.mark.parametrize("time_of_trouble", [1, 2])
def test_what_remains_after_either_undo_is_told_at_once(bench, waits, time_of_trouble):
    cut_short(bench)

    def on(moment, key):
        times = bench.world.log.count(("before revert", "c"))
        if (moment, key) == ("before revert", "c") and times == time_of_trouble:
            raise HostError("c is stuck")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError, match="1 of its steps could not be undone"):
        back(bench, settle_s=1000)
    assert len(waits) == time_of_trouble - 1
    assert bench.journal_path.exists()


def test_what_a_step_needs_and_this_run_did_not_begin_is_left_alone(bench):
    with bench.journal(plain(0)) as journal:
        left = undo(
            [Put("b", ("a",))],
            bench.world,
            journal,
            observer=bench.recorder,
            interrupts=bench.interrupts,
            workers=1,
        )
    assert left == ()
    assert bench.world.keys("before revert") == ["b"]


def test_an_undo_whose_end_could_not_be_told_apart_from_a_failure_remains(bench):
    bench.world.on = raise_at("before apply", "s01", HostError("s01 broke"))
    odd = raise_at("before undone", "s00", RuntimeError("nobody thought of this"))
    with pytest.raises(UndoIncompleteError, match="1 of 2 steps could not be undone") as caught:
        bench.run(plain(2), workers=1, on_boundary=odd)
    assert "RuntimeError: nobody thought of this (while reverting s00)" in caught.value.details
    assert bench.world.content == []
    assert [step.key for step in bench.left().remaining] == ["s00"]


def test_a_journal_that_stays_is_written_no_more(bench):
    bench.world.on = lambda moment, key: refuse(0) if moment.startswith("before") else None
    journal = bench.journal(plain(1))
    with pytest.raises(UndoIncompleteError):
        execute(
            plain(1), bench.world, journal, observer=bench.recorder, interrupts=bench.interrupts
        )
    with pytest.raises(ValueError, match="is closed"):
        journal.undone(["s00"])


def test_a_journal_that_stays_tells_people_what_failed(bench):
    def on(moment, key):
        if moment in {"before apply", "before revert"}:
            raise HostError(f"{key} broke {moment}")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError):
        bench.run(plain(1))
    records = [
        decode_line(line) for line in bench.journal_path.read_bytes().splitlines(keepends=True)
    ]
    assert records[-1] == {"failed": {"s00": "HostError: s00 broke before apply"}}


def open_files() -> list[str]:
    descriptors = Path("/proc/self/fd").iterdir()
    return sorted(str(one.readlink()) for one in descriptors if one.is_symlink())


@pytest.fixture
def written(bench) -> Path:
    with bench.journal(plain(1)) as journal:
        journal.intent([Put("a"), Put("b")])
        journal.done({"a": Applied.MADE})
    return bench.journal_path


def test_a_journal_leaves_no_descriptor_open(bench, written, monkeypatch):
    before = open_files()
    with Journal.reopen(bench.left()) as journal:
        journal.undone(["b"])
        assert open_files() != before
    assert open_files() == before
    with Journal.reopen(bench.left()) as journal:
        journal.close()
    assert open_files() == before

    Journal.reopen(make_journal(bench)).close()
    assert open_files() == before
    seen = make_journal(bench)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StateError, match="Input/output error"):
        Journal.reopen(seen)
    assert open_files() == before
    written.unlink()
    with pytest.raises(StateError, match="Input/output error"):
        bench.journal(plain(1))
    assert open_files() == before


def refuse(descriptor):
    raise OSError(errno.EIO, "Input/output error")


def make_journal(bench):
    bench.journal(plain(1)).close_file()
    return bench.left()


def test_a_torn_tail_is_cut_off_for_good_before_more_is_written(bench, written, monkeypatch):
    seen = bench.left()
    with written.open("ab") as file:
        file.write(b"torn")
    sizes = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (sizes.append(os.fstat(number).st_size), real(number))
    )
    with Journal.reopen(seen):
        assert sizes == [seen.valid_bytes]


def test_a_descriptor_that_cannot_be_closed_is_let_go(bench, monkeypatch):
    real = os.close

    def close(descriptor):
        real(descriptor)
        refuse(descriptor)

    journal = bench.journal(plain(1))
    monkeypatch.setattr(os, "close", close)
    journal.close_file()
    assert journal._descriptor is None


def test_what_was_done_and_not_undone_is_told(bench):
    with bench.journal(plain(1)) as journal:
        journal.intent([Put("a"), Put("b"), Put("c"), Put("d")])
        journal.done({"a": Applied.MADE, "b": Applied.KEPT, "c": Applied.MADE})
        journal.undone(["c"])
    seen = bench.left()
    assert seen.done == {"a", "b"}
    assert seen.needs_no_undo == {"b", "c"}


def test_what_json_does_not_know_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_line({"a": float("nan")})


def test_a_journal_is_left_as_often_as_one_likes(bench):
    journal = bench.journal(plain(1))
    journal.close_file()
    journal.close_file()
    assert journal._descriptor is None


@pytest.mark.fault("S19", "a link put in the place of a journal")
def test_a_journal_is_not_continued_through_a_link(bench, written):
    seen = bench.left()
    elsewhere = written.with_name("elsewhere")
    elsewhere.write_bytes(written.read_bytes() + b"theirs")
    written.unlink()
    written.symlink_to(elsewhere)
    with pytest.raises(StateError, match="symbolic links") as caught:
        Journal.reopen(seen)
    assert caught.value.hint == f"df -h {written.parent}"
    assert elsewhere.read_bytes().endswith(b"theirs")


def test_a_journal_that_is_continued_is_written_at_its_end_whoever_writes(bench, written):
    """Appending is the kernel's: a second writer could only add, never overwrite."""
    with Journal.reopen(bench.left()) as journal:
        flags = fcntl.fcntl(journal._descriptor, fcntl.F_GETFL)
        assert flags & os.O_APPEND
        assert flags & os.O_ACCMODE == os.O_WRONLY
    written.unlink()
    with bench.journal(plain(0)) as journal:
        flags = fcntl.fcntl(journal._descriptor, fcntl.F_GETFL)
        assert flags & os.O_APPEND


def test_a_header_that_could_not_be_written_leaves_one_that_says_nothing(bench, monkeypatch):
    def short(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(StateError, match="No space left on device"):
            bench.journal(plain(1))
    assert bench.left() is None
    bench.journal(plain(1)).close_file()
    assert bench.left().begun == ()


def test_a_journal_that_cannot_be_made_is_told(bench):
    bench.directory = bench.directory / "absent"
    with pytest.raises(StateError, match="No such file or directory") as caught:
        bench.journal(plain(1))
    assert caught.value.hint == f"df -h {bench.directory}"


def test_the_end_is_written_before_the_journal_is_removed(bench, written, monkeypatch):
    seen = bench.left()
    content = []
    real = os.unlink
    monkeypatch.setattr(
        os, "unlink", lambda path: (content.append(Path(path).read_bytes()), real(path))
    )
    with Journal.reopen(seen) as journal:
        journal.close()
    last = decode_line(content[0].splitlines(keepends=True)[-1])
    assert list(last) == ["end"]
    assert not written.exists()


def test_a_journal_whose_end_cannot_be_written_is_removed_all_the_same(bench, written, monkeypatch):
    def refuse(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal.reopen(bench.left()) as journal:
        monkeypatch.setattr(os, "write", refuse)
        journal.close()
    assert not written.exists()


def test_a_journal_that_went_by_itself_is_closed(bench, written):
    with Journal.reopen(bench.left()) as journal:
        written.unlink()
        journal.close()


def test_its_removal_is_durable(bench, written, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    with Journal.reopen(bench.left()) as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        journal.close()
    assert synced == [written, written.parent]


def test_boundaries_are_told_before_and_after_each_record(bench):
    heard = []
    with bench.journal(plain(1), lambda moment, key: heard.append((moment, key))) as journal:
        journal.intent([Put("a"), Put("b")])
        journal.done({"a": Applied.MADE})
        journal.failed({"b": HostError("b broke")})
        journal.undone(["b"])
        journal.close()
    assert heard == [
        *((f"{when} intent", key) for when in ("before", "after") for key in "ab"),
        ("before done", "a"),
        ("after done", "a"),
        ("before failed", "b"),
        ("after failed", "b"),
        ("before undone", "b"),
        ("after undone", "b"),
        ("before end", ""),
        ("after end", ""),
    ]


def test_a_failure_is_written_short(bench):
    with bench.journal(plain(1)) as journal:
        journal.failed({"a": HostError("x" * 9000)})
    record = decode_line(bench.journal_path.read_bytes().splitlines(keepends=True)[-1])
    assert record == {"failed": {"a": "HostError: " + "x" * 489}}


@pytest.mark.parametrize(
    "record",
    [
        {"intent": {"a": 1}},
        {"intent": [{"kind": "put", "key": "b", "fields": {"name": "a"}}]},
        {"intent": [[]]},
        {"done": ["a"]},
        {"undone": "a"},
        {"undone": [[]]},
    ],
    ids=str,
)
def test_a_record_of_another_shape_is_refused(bench, written, record):
    with written.open("ab") as file:
        file.write(encode_line(record))
    with pytest.raises(StateError, match="from another version") as caught:
        Journal.read(written, STEP_TYPES)
    assert caught.value.hint.startswith("use ai-how ")


@pytest.mark.parametrize("name", ["verb", "op_id", "cluster", "pid", "started_at", "note"])
@pytest.mark.parametrize("value", [None, []], ids=str)
def test_a_header_of_another_shape_is_refused(bench, written, name, value):
    header, *rest = written.read_bytes().splitlines(keepends=True)
    changed = {**decode_line(header), name: value}
    if value is None:
        del changed[name]
    written.write_bytes(b"".join([encode_line(changed), *rest]))
    with pytest.raises(StateError, match="from another version"):
        bench.left()
