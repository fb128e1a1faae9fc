"""The last hour in memory."""

import math
from dataclasses import replace

import pytest

from ai_how.monitoring.history import (
    MOST_STEPS,
    Grid,
    History,
    in_steps,
)
from ai_how.monitoring.points import points_of
from made_up_cluster import NOON, make_snapshot


def troubled(seen, name):
    sources = tuple(
        replace(one, trouble="it hangs") if one.name == name else one for one in seen.sources
    )
    return replace(seen, sources=sources)


def filled(count, *, step_s=5.0, points=720):
    history = History(points=points)
    for number in range(count):
        history.add(make_snapshot(at=NOON + number * step_s))
    return history


def test_each_point_is_kept_as_it_came():
    history = filled(3)
    seen = history.points("cpu", "host", NOON, NOON + 60)
    assert seen == [(NOON, 6.5), (NOON + 5, 6.5), (NOON + 10, 6.5)]
    assert history.points("jobs_running", "slurm", NOON, NOON + 1) == [(NOON, 0.0)]
    assert history.oldest_at == NOON


def test_a_history_has_no_more_than_its_size():
    history = filled(25, points=10)
    seen = history.points("cpu", "controller", 0, NOON + 1e6)
    assert [at for at, _ in seen] == [NOON + 5 * number for number in range(15, 25)]


def test_no_more_series_are_kept_than_allowed():
    history = History(most_series=5)
    history.add(make_snapshot(nodes=3))
    history.add(make_snapshot(nodes=3, at=NOON + 5))
    assert len(history.names()) == 5


def test_a_source_that_does_not_answer_makes_a_gap():
    """What a snapshot has of it is old, and no figure of now."""
    history = History()
    history.add(make_snapshot())
    history.add(troubled(make_snapshot(at=NOON + 5), "libvirt"))
    history.add(make_snapshot(at=NOON + 10))
    seen = history.points("cpu", "compute-01", NOON, NOON + 60)
    assert [value is None for _, value in seen] == [False, True, False]
    assert [value for _, value in history.points("cpu", "host", NOON, NOON + 60)] == [6.5] * 3


def test_a_node_that_comes_later_has_nothing_before():
    history = History()
    history.add(make_snapshot(nodes=1))
    history.add(make_snapshot(nodes=2, at=NOON + 5))
    assert history.points("load", "compute-02", 0, NOON + 60) == [(NOON, None), (NOON + 5, 0.0)]


def test_what_came_after_a_clock_that_is_set_back_is_forgotten():
    history = filled(4)
    history.add(make_snapshot(at=NOON + 7))
    times = [at for at, _ in history.points("cpu", "host", 0, math.inf)]
    assert times == [NOON, NOON + 5, NOON + 7]


def test_steps_have_means_and_gaps_and_nothing_between():
    points = [(0.0, 1.0), (1.0, 3.0), (2.0, None), (25.0, 7.0)]
    assert in_steps(points, Grid(0, 40, 10)) == [(0, 2.0), (10, None), (20, 7.0), (30, None)]


def test_steps_are_longer_if_they_would_be_too_many():
    grid = Grid(0, 1e9, 0.0)
    assert grid.count == MOST_STEPS
    assert len(in_steps([], grid)) == MOST_STEPS
    assert in_steps([], Grid(10, 0, 1)) == []


@pytest.mark.parametrize("span", [(0, math.inf, 1), (math.nan, 1, 1), (0, 1, math.nan)])
def test_a_span_that_is_none_is_refused(span):
    with pytest.raises(ValueError, match="span"):
        Grid(*span)


def test_every_figure_has_a_name_of_its_own():
    seen = [(name, subject) for name, subject, _ in points_of(make_snapshot(nodes=4, jobs=9))]
    assert len(seen) == len(set(seen)) == 7 + 5 * 10 + 7
