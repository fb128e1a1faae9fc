"""Watching a cluster in one process."""

from itertools import islice

from local_live import LocalLive
from made_up_cluster import NOON, make_snapshot


def rounds(count):
    def told(stop):
        for number in range(count):
            yield make_snapshot(at=NOON + 5 * number, jobs=4)
        stop.wait()

    return told


def test_the_newest_is_followed_until_the_end():
    live = LocalLive(rounds(3))
    try:
        seen = next(one for one in live.follow() if one.at == NOON + 10)
        assert live.snapshot() == seen
        assert live.series("cpu", "host", NOON, NOON + 15, 5) == [
            (NOON, 6.5),
            (NOON + 5, 6.5),
            (NOON + 10, 6.5),
        ]
        assert [one.id for one in live.jobs(NOON + 50, NOON + 60)] == ["1", "4"]
    finally:
        live.close()
    assert list(islice(live.follow(), 3)) == []
