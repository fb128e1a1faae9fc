"""Verbs at the same time, of one cluster and of many: each takes its turn, or says why not."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import rmtree

import pytest

from ai_how.state.cluster_state import read_state
from invariants import DESTROY, START, STATUS, STOP, Watched, check_told, look
from leaks import settled
from ledger import Points
from tiny_cluster import Ended, TinyHome, opened

pytestmark = pytest.mark.libvirt

LOCKED = 6
CROWD, CLUSTERS = 32, 8


def check_loser(ended: Ended) -> None:
    """It says who holds the lock, unless the lock was just changing hands."""
    check_told(ended, {LOCKED})
    assert " is under way in process " in ended.err or "another run holds " in ended.err, ended.said


@pytest.mark.fault("F21", "32 processes start one cluster")
def test_of_many_starts_one_works_and_the_others_say_who_does(
    watched: Watched, points: Points, figures: dict[str, int]
) -> None:
    every = watched.home.crowd(*[START] * CROWD)
    losers = [one for one in every if one.code]
    for loser in losers:
        check_loser(loser)
        assert loser.boundaries == (), loser.said
    workers = [one for one in every if one.code == 0 and one.boundaries]
    assert len(workers) == 1
    # Whoever came when all was done found nothing to do; how many did is the machine's choice.
    assert losers
    watched.settled("on")
    watched.check(workers[0], "start")
    latest = sorted(one.took_s for one in losers)[(len(losers) - 1) * 95 // 100]
    figures["a loser's answer of 32, ms (p95)"] = round(latest * 1000)
    figures["concurrent rounds"] += 1
    points(CROWD)


@pytest.mark.fault("F22", "start, stop, destroy and status of one cluster at once, in all pairs")
def test_verbs_at_once_take_turns_and_status_always_answers(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    dice = random.Random(22)  # noqa: S311  a dice
    pairs = [(one, other) for one in CHANGING for other in CHANGING]
    rounds = 50 if is_long else len(pairs)
    for number in range(rounds):
        if number % 3 == 0:
            watched.home.call(*START)
        calls = [*pairs[number % len(pairs)], STATUS, STATUS, STATUS]
        dice.shuffle(calls)
        for words, ended in zip(calls, watched.home.crowd(*calls), strict=True):
            if words == STATUS:
                # 3: there is no such cluster, or no longer.
                check_told(ended, {0, 3, LOCKED})
            elif ended.code == LOCKED:
                check_loser(ended)
            else:
                # 3: nothing to stop.
                check_told(ended, {0, 3} if words == STOP else {0})
    watched.check(watched.home.call(*START), "start")
    figures["concurrent rounds"] += rounds
    points(rounds)


CHANGING = (START, STOP, DESTROY)


@pytest.mark.fault("F22", "status all the time during a start, a stop and a destroy")
def test_status_answers_at_any_moment_of_any_verb(
    watched: Watched, points: Points, figures: dict[str, int]
) -> None:
    asked = 0
    for verb, words in (("start", START), ("stop", STOP), ("start", START), ("destroy", DESTROY)):
        every = watched.home.crowd(words, *[STATUS] * 12)
        check_told(every[0], {0})
        for ended in every[1:]:
            check_told(ended, {0, 3, LOCKED})
        watched.settled({"start": "on", "stop": "off", "destroy": "absent"}[verb])
        asked += len(every) - 1
    figures["concurrent rounds"] += 4
    points(asked)


@pytest.mark.fault("F23", "8 processes start, stop and destroy 8 clusters")
def test_many_clusters_at_once_do_not_meet(
    watched: Watched, points: Points, figures: dict[str, int]
) -> None:
    home = watched.home
    names = [f"many-{letter}" for letter in "abcdefgh"[:CLUSTERS]]
    before = look(home)
    try:
        for words in (START, START, STOP, START):
            for ended in home.crowd(*[words] * CLUSTERS, names=names):
                check_told(ended, {0})
        states = [read_state(home.paths(name)) for name in names]
        networks = [state.network for state in states]
        assert len({one.bridge for one in networks}) == CLUSTERS
        assert not [
            (one, other)
            for place, one in enumerate(networks)
            for other in networks[place + 1 :]
            if one.subnet.overlaps(other.subnet)
        ]
        macs = [node.mac for state in states for node in state.nodes]
        assert len(set(macs)) == len(macs)
    finally:
        for ended in home.crowd(*[DESTROY] * CLUSTERS, names=names):
            check_told(ended, {0})
    assert settled(before, lambda: look(home)) == ""
    figures["concurrent rounds"] += 5
    points(CLUSTERS)


@contextmanager
def second_user(first: TinyHome) -> Iterator[TinyHome]:
    """Another state directory whose embedded host is that of the first: one libvirt for both."""
    state = first.state / ".second"
    state.mkdir()
    (state / ".embedded").symlink_to(first.state / ".embedded")
    try:
        with opened(TinyHome(state, first.nodes)) as second:
            yield second
    finally:
        (state / ".embedded").unlink()
        rmtree(state)


@pytest.mark.fault(
    "F24", "a second state directory on the same libvirt starts a cluster of that name"
)
@pytest.mark.parametrize("now", ["on", "off"])
def test_a_name_that_is_taken_on_that_libvirt_is_refused_and_nothing_is_touched(
    watched: Watched, points: Points, now: str
) -> None:
    watched.have(now, with_data=True)
    with second_user(watched.home) as second:
        for _ in range(2):
            refused = second.call(*START)
            check_told(refused, {3})
            assert "the cluster hpc on embedded is not yours: it belongs to" in refused.err, (
                refused.said
            )
            assert refused.boundaries == ()
        check_told(second.call(*DESTROY), {3})
        check_told(second.call(*STATUS), {3})
    watched.settled(now)
    points(4)


@pytest.mark.fault("F24", "two state directories on one libvirt start one name at once")
def test_of_two_state_directories_that_start_one_name_at_once_at_most_one_has_it(
    watched: Watched, points: Points
) -> None:
    with second_user(watched.home) as second:
        homes = [watched.home, second]
        ends = [home.begin(*START) for home in homes]
        ended = [end() for end in ends]
        for one in ended:
            check_told(one, {0, 3, 4})
        winners = [home for home, one in zip(homes, ended, strict=True) if one.code == 0]
        assert len(winners) <= 1
        for home in winners:
            check_told(home.call(*DESTROY), {0})
        for home in homes:
            check_told(home.call(*DESTROY), {0})
    watched.settled("absent")
    points(1)
