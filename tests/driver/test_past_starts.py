"""What a start is told of the last one like it, on libvirt's test driver."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from card_bench import CardBench, card_bench

from ai_how.plan.observer import Observer
from ai_how.plan.time_left import TimeLeft


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBench]:
    with card_bench(tmp_path, monkeypatch) as made:
        yield made


class Told(Observer):
    """How often it was told of a start that was like this one."""

    count = 0

    def expected(self, time_left: TimeLeft) -> None:
        del time_left
        self.count += 1


def told_of(bench: CardBench, name: str, *nodes: str) -> int:
    observer = Told()
    manager = replace(bench.manager(name), observer=observer)
    assert manager.start(bench.spec(name, *nodes), source=bench.file(name, *nodes)).steps
    return observer.count


def test_a_start_is_told_of_the_last_one_like_it_also_after_a_destroy(bench: CardBench) -> None:
    assert told_of(bench, "mine", "") == 0
    bench.manager("mine").stop()
    assert told_of(bench, "mine", "") == 0, "the first start after a stop has other steps"
    bench.manager("mine").stop()
    assert told_of(bench, "mine", "") == 1
    bench.manager("mine").destroy()
    assert told_of(bench, "mine", "") == 1, "what is remembered outlives the cluster"
    bench.manager("mine").destroy()
    assert told_of(bench, "mine", "", "") == 0, "more nodes have more steps"


def test_an_observation_that_cannot_be_kept_stops_no_start(bench: CardBench) -> None:
    bench.roots.past_starts.parent.mkdir(parents=True)
    bench.roots.past_starts.mkdir()
    assert told_of(bench, "mine", "") == 0
    bench.manager("mine").destroy()
    assert told_of(bench, "mine", "") == 0
