"""Signals, spoiled outputs and unexpected errors at the records of a journal, on the real host."""

import os
import signal
import time
from collections.abc import Collection
from itertools import cycle
from pathlib import Path
from shutil import rmtree

import pytest

from ai_how.waiting import Deadline, wait_until
from invariants import BOUND_S, DESTROY, START, STATUS, STOP, Watched, check_told
from ledger import Points

pytestmark = pytest.mark.libvirt

INTERRUPTED, FAILED, LOCKED = 130, 4, 6
# Long enough to be sure that a command does not wait for the step that takes it.
HANGING_S = 12.0
Pair = tuple[str, str]


def sample(pairs: Collection[Pair], stride: int, *, is_long: bool) -> list[Pair]:
    """Every so-manieth record, another moment of each step; all of them in a long run."""
    return list(pairs) if is_long else list(pairs)[::stride]


@pytest.mark.fault("F07", "SIGINT at the records of a first start, a later one, a stop, a destroy")
@pytest.mark.parametrize(
    ("what", "verb", "before", "after"),
    [
        ("start", "start", "absent", "undone"),
        ("restart", "start", "off", "off"),
        ("stop", "stop", "on", None),
        ("destroy", "destroy", "on", None),
    ],
)
def test_ctrl_c_at_any_record_undoes_a_start_and_stops_the_others_where_they_are(
    watched: Watched,
    points: Points,
    what: str,
    verb: str,
    before: str,
    after: str | None,
    *,
    is_long: bool,
) -> None:
    pairs = sample(watched.boundaries[what], 19 if verb != "stop" else 7, is_long=is_long)
    thens = cycle(
        ["start", "stop", "start"] if what in {"restart", "stop"} else ["start", "destroy"]
    )
    interrupted = 0
    for pair in pairs:
        watched.have(before, with_data=what in {"restart", "stop"})
        ended = watched.call(verb, codes={0, INTERRUPTED}, at_any=[pair], act="int")
        if ended.code == INTERRUPTED:
            interrupted += 1
            assert "interrupted" in ended.err, ended.said
            if after is not None:
                watched.settled(after)
        else:
            # It came when all was done.
            watched.settled({"start": "on", "stop": "off", "destroy": "absent"}[verb])
        watched.check(ended, next(thens))
    assert interrupted > len(pairs) / 2
    points(len(pairs))


@pytest.mark.fault("F07", "SIGINT while a step hangs")
def test_ctrl_c_is_acknowledged_while_a_step_still_runs(
    watched: Watched, figures: dict[str, int]
) -> None:
    told: list[int] = []
    hang = {"agent/hpc-compute-01": HANGING_S}
    ended = watched.home.begin(*START, hang=hang, on_pid=told.append)
    text = '"key":"agent/hpc-compute-01","kind":"agent"}'
    journal = watched.home.paths("hpc").journal
    wait_until(
        lambda: journal.exists() and text in journal.read_text(), Deadline.after(BOUND_S), text
    )
    begun_at = time.monotonic()
    os.kill(told[0], signal.SIGINT)
    (out,) = watched.home.root.glob(".order-*.out")
    wait_until(
        lambda: "interrupted: running steps" in out.read_text(errors="replace"),
        Deadline.after(HANGING_S - 1),
        "the acknowledgement",
        interval_s=0.01,
    )
    took_s = time.monotonic() - begun_at
    figures["Ctrl-C to its answer, ms"] = max(
        figures["Ctrl-C to its answer, ms"], round(took_s * 1000)
    )
    check_told(ended(), {INTERRUPTED})
    watched.settled("undone")


@pytest.mark.fault("F08", "two SIGINTs at the records of every verb")
def test_a_second_ctrl_c_leaves_at_once_and_the_next_command_recovers(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    made = 0
    for what, verb, before in (
        ("start", "start", "absent"),
        ("restart", "start", "off"),
        ("stop", "stop", "on"),
        ("destroy", "destroy", "on"),
    ):
        thens = cycle(["start", verb, "destroy"])
        for pair in sample(watched.boundaries[what], 31, is_long=is_long):
            watched.have(before)
            ended = watched.call(verb, codes={INTERRUPTED}, at_any=[pair], act="int-int")
            assert "interrupted twice" in ended.err, ended.said
            assert ended.boundaries[-1] == pair, "it went on"
            watched.check(ended, next(thens))
            made += 1
    points(made)


@pytest.mark.fault("F09", "SIGTERM and SIGHUP at records of a start")
@pytest.mark.parametrize("act", ["term", "hup"])
def test_other_signals_that_ask_to_end_undo_a_start_as_well(
    watched: Watched, points: Points, act: str, *, is_long: bool
) -> None:
    pairs = sample(watched.boundaries["start"][:-4], 37, is_long=is_long)
    for pair in pairs:
        watched.have("absent")
        ended = watched.call("start", codes={INTERRUPTED}, at_any=[pair], act=act)
        watched.settled("undone")
        watched.check(ended, "start")
    points(len(pairs))


@pytest.mark.fault("F09", "stdout and stderr closed, without a reader, or on /dev/full")
@pytest.mark.parametrize(("streams", "code"), [("closed", 0), ("pipe", 0), ("full", 3)])
def test_an_output_that_takes_nothing_ends_no_verb_between_its_steps(
    watched: Watched, points: Points, streams: str, code: int
) -> None:
    for verb, now in (("start", "on"), ("stop", "off"), ("start", "on"), ("destroy", "absent")):
        assert watched.call(verb, streams=streams).code == code
        watched.settled(now)
    # Nor does it keep a start from being undone.
    watched.call("start", streams=streams, fail={"ready/hpc": ["before", "OSError"]})
    watched.settled("undone")
    points(5)


@pytest.mark.fault("F10", "SIGSTOP at a record, other commands meanwhile, then SIGCONT")
@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [("start", "absent", "on"), ("stop", "on", "off"), ("destroy", "on", "absent")],
)
def test_the_lock_of_a_run_that_is_stopped_is_not_taken_and_it_goes_on(
    watched: Watched, verb: str, before: str, after: str
) -> None:
    watched.have(before)
    pairs = watched.boundaries[verb]
    pid: list[int] = []
    words = {"start": START, "stop": STOP, "destroy": DESTROY}
    ended = watched.home.begin(
        *words[verb], at_any=[pairs[len(pairs) // 2]], act="stop", on_pid=pid.append
    )
    wait_until(lambda: _state_of(pid[0]) == "T", Deadline.after(BOUND_S), "the stop")
    try:
        for other in (START, STOP, DESTROY):
            loser = watched.home.call(*other)
            check_told(loser, {LOCKED})
            assert f"hpc {verb} is under way in process {pid[0]}" in loser.err, loser.said
        check_told(watched.home.call(*STATUS), {LOCKED} if before == "absent" else {0})
    finally:
        os.kill(pid[0], signal.SIGCONT)
    done = ended()
    check_told(done, {0})
    watched.settled(after)
    watched.check(done, "start")


@pytest.mark.fault("F11", "MemoryError or RecursionError in each step of a start")
def test_an_error_that_nobody_thought_of_in_any_step_is_undone(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    keys = dict.fromkeys(key for _, key in watched.boundaries["start"] if key)
    ways = [(moment, error) for moment in ("before", "after") for error in ERRORS]
    made = 0
    for place, key in enumerate(keys if is_long else [*keys][::2]):
        for moment, error in ways if is_long else [ways[place % len(ways)]]:
            ended = watched.call("start", codes={FAILED}, fail={key: [moment, error]})
            assert error in ended.err, ended.said
            watched.settled("undone")
            made += 1
    watched.check(ended, "start")
    points(made)


ERRORS = ("MemoryError", "RecursionError")


@pytest.mark.fault("F11", "MemoryError where the journal is written")
def test_an_error_that_nobody_thought_of_in_the_journal_is_undone_or_recovered(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    made = 0
    for what, verb, before in (("start", "start", "absent"), ("destroy", "destroy", "on")):
        thens = cycle(["start", "destroy"])
        for pair in sample(watched.boundaries[what], 41, is_long=is_long):
            watched.have(before)
            ended = watched.call(verb, codes={1, 4, 5}, at_any=[pair], act="raise")
            reports = watched.home.roots.crash_reports
            assert reports.exists() == (ended.code == 1), ended.said
            rmtree(reports, ignore_errors=True)
            watched.check(ended, next(thens), codes={1, 4, 5})
            made += 1
    points(made)


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
