"""SIGKILL at every record of every journal, on the real host: the next command recovers, always.

The records are those of a clean run, so a step that is new is killed too. One of two compute nodes
is enough, as their steps are the same, and run at once; so is one of the moments between two
records, at which the same has been done and written. Each step is killed before or after it did
something, by turns. `--long` takes all.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice

import pytest

from invariants import Watched
from ledger import Points
from tiny_cluster import Ended

pytestmark = pytest.mark.libvirt

LAST = ("after intent", "ready/hpc")
SIGKILLED = -9
Pair = tuple[str, str]
TWIN = "-compute-02"
# What comes after a done, an undone or a failed is what comes before the next record. Before an
# intent, nothing is there that is not there after it: the steps before it are recorded in both.
DISTINCT = (
    "after intent",
    "before done",
    "before undone",
    "before end",
    "after end",
)


OF_A_STEP = ("after intent", "before done")


def without_twins(pairs: Iterable[Pair], *, is_long: bool, twin: str = TWIN) -> set[Pair]:
    """The records at which to kill; `twin` is how the keys of the second node end."""
    pairs = set(pairs)
    if is_long:
        return pairs
    keys = sorted({key for _, key in pairs if not key.endswith(twin)})
    chosen = dict(zip(keys, cycle(OF_A_STEP), strict=False))
    return {
        (moment, key)
        for moment, key in pairs
        if key in chosen
        and moment in DISTINCT
        and (moment not in OF_A_STEP or moment == chosen[key])
    }


def kill_everywhere(
    watched: Watched,
    pairs: set[Pair],
    begin: Callable[[list[Pair]], Ended],
    thens: Sequence[str],
    points: Points,
    figures: dict[str, int],
) -> None:
    """Kill at each of these records once, at the first in each run that was not one yet.

    As steps run at once, their order is another in each run.
    """
    left = set(pairs)
    for then in cycle(thens):
        ended = begin(sorted(left))
        assert ended.code == SIGKILLED, f"never came by {sorted(left)}\n{ended.said}"
        left.remove(ended.boundaries[-1])
        try:
            watched.check(ended, then)
        except AssertionError as error:
            error.add_note(f"killed at {ended.boundaries[-1]}, and then {then}")
            raise
        if not left:
            break
    watched.have("absent")
    figures["kills at a record"] += len(pairs)
    points(len(pairs))


@pytest.mark.fault("F01", "SIGKILL at every record of the journal of a first start")
@pytest.mark.fault("F05", "SIGKILL at every record of the journal of a first start")
def test_a_first_start_killed_at_any_record_is_recovered_by_whatever_comes_next(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    thens = ["destroy", "stop", "start", "destroy", "stop", "status", "destroy"]

    def begin(pairs: list[Pair]) -> Ended:
        watched.have("absent")
        return watched.call("start", at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries["start"], is_long=is_long)
    kill_everywhere(watched, pairs, begin, thens, points, figures)


@pytest.mark.fault("F01", "SIGKILL at every record of the journal of a start after a stop")
def test_a_start_after_a_stop_killed_at_any_record_keeps_every_disk(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    thens = ["stop", "start", "stop", "stop", "status", "stop", "stop", "destroy", "stop"]

    def begin(pairs: list[Pair]) -> Ended:
        watched.have("off", with_data=True)
        return watched.call("start", at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries["restart"], is_long=is_long)
    kill_everywhere(watched, pairs, begin, thens, points, figures)


@pytest.mark.fault("F02", "SIGKILL at every record of the journal of a stop")
def test_a_stop_killed_at_any_record_is_carried_on(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    thens = ["stop", "start", "status", "stop", "destroy"]

    def begin(pairs: list[Pair]) -> Ended:
        watched.have("on", with_data=True)
        return watched.call("stop", at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries["stop"], is_long=is_long)
    kill_everywhere(watched, pairs, begin, thens, points, figures)


@pytest.mark.fault("F02", "SIGKILL at every record of the journal of a destroy")
def test_a_destroy_killed_at_any_record_is_carried_on(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    thens = ["destroy", "start", "start", "status", "start"]

    def begin(pairs: list[Pair]) -> Ended:
        watched.have("on")
        return watched.call("destroy", at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries["destroy"], is_long=is_long)
    kill_everywhere(watched, pairs, begin, thens, points, figures)


@pytest.mark.fault("F06", "SIGKILL at every record of a recovery, one recovery after the other")
def test_a_recovery_killed_at_any_record_is_recovered_itself(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    """A chain: each recovery is that of the one killed before it, until one comes to its end."""
    begin_and_die(watched)
    pairs = set(watched.call("stop", codes={0}).boundaries)
    assert len(pairs) > len(watched.boundaries["start"]) / 3
    pairs = without_twins(pairs, is_long=is_long)
    watched.settled("undone")
    left = set(pairs)
    while left:
        watched.have("absent")
        begin_and_die(watched)
        before = len(left)
        for verb in cycle(["stop", "destroy"]):
            ended = watched.call(verb, at_any=sorted(left), act="kill")
            if ended.code != SIGKILLED:
                break
            left.remove(ended.boundaries[-1])
        assert len(left) < before, f"never came by {sorted(left)}\n{ended.said}"
        watched.settled({"stop": "undone", "destroy": "absent"}[verb])
    watched.check(ended, "start")
    figures["kills at a record"] += len(pairs)
    points(len(pairs))


def begin_and_die(watched: Watched) -> None:
    """A first start that is killed when all is made and SLURM not yet awaited."""
    assert watched.call("start", at_any=[LAST], act="kill").code == SIGKILLED


@pytest.mark.fault("F06", "three SIGKILLs, of a verb, of the next and of the one after it")
def test_three_kills_in_a_row_converge(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    rounds, dice = 60 if is_long else 5, random.Random(7)  # noqa: S311  a dice
    for then in islice(cycle(["start", "destroy", "status"]), rounds):
        first = dice.choice(["absent", "on", "off"])
        watched.have(first)
        verbs = {"absent": ["start", "stop", "destroy"]}.get(first, ["start", "stop", "start"])
        for verb in (verbs[0], dice.choice(verbs), dice.choice(verbs)):
            ended = watched.call(verb, at=dice.randrange(40), act="kill")
        watched.check(ended, then)
    figures["kills at a record"] += 3 * rounds
    points(rounds)
    watched.have("absent")
