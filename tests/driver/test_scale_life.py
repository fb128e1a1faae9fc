"""A cluster's whole life on libvirt's test driver: what it asks and writes goes with its nodes."""

import pytest

from scale import Figures, measure, render

SMALL, LARGE = 16, 64
MOST = 1.1  # what is the same for every cluster makes it less than 1


@pytest.fixture(scope="module")
def figures() -> tuple[Figures, Figures]:
    return measure(SMALL), measure(LARGE)


def test_no_verb_asks_libvirt_more_for_each_node_of_a_larger_cluster(figures):
    small, large = figures
    assert small.calls["start"] > SMALL
    for verb, calls in large.calls.items():
        assert calls <= MOST * small.calls[verb] * LARGE / SMALL, verb


def test_journal_state_and_status_have_as_much_for_each_node_of_a_larger_cluster(figures):
    small, large = figures
    for what in ("journal_bytes", "state_bytes", "status_bytes", "xml_bytes", "steps"):
        assert 0 < getattr(large, what) <= MOST * getattr(small, what) * LARGE / SMALL, what


def test_the_figures_are_shown_with_a_column_for_each_cluster(figures):
    lines = render(list(figures)).splitlines()
    assert lines[0].split() == ["nodes", str(SMALL), str(LARGE)]
    assert any(line.startswith("journal bytes") for line in lines)
