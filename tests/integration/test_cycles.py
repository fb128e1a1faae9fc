"""Start and destroy again and again in one process; and with next to no descriptors."""

import resource
import threading
from pathlib import Path

import pytest

from ai_how.clusters import cleanup, cluster_access, known_cluster
from ai_how.hpc.manager import HpcManager
from ai_how.spec.reader import read_spec
from ai_how.waiting import Deadline, wait_until
from invariants import DESTROY, START, Watched, check_told, look
from leaks import settled
from ledger import Points
from tiny_cluster import TinyClient

pytestmark = pytest.mark.libvirt

WARM_UP = 3
MAX_GROWTH_BYTES = 10 * 2**20


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.fault("F65", "starts and destroys in one process")
def test_starting_and_destroying_again_and_again_uses_nothing_up(
    watched: Watched,
    points: Points,
    figures: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_long: bool,
) -> None:
    for module in (cluster_access, known_cluster, cleanup):
        monkeypatch.setattr(module, "LibvirtClient", TinyClient)
    home = watched.home
    cluster = HpcManager(roots=home.roots, name="hpc")
    spec = read_spec(home.file("hpc"), {})
    before = look(home)

    def cycle(count: int) -> None:
        for _ in range(count):
            assert cluster.start(spec, source=home.file("hpc")).steps
            assert cluster.destroy().steps

    cycle(WARM_UP)
    counted = descriptors(), threading.active_count()
    resident = resident_bytes()
    cycles = 50 if is_long else 5
    cycle(cycles)
    # A connection is closed a moment after it was left, by the event loop: the counted one too.
    wait_until(
        lambda: descriptors() <= counted[0] and threading.active_count() <= counted[1],
        Deadline.after(60),
        f"no more descriptors and threads than before: {counted}",
    )
    grown = resident_bytes() - resident
    figures["memory grown in all cycles, KiB"] = max(0, grown // 1024)
    assert grown < MAX_GROWTH_BYTES
    assert settled(before, lambda: look(home)) == ""
    points(cycles)


@pytest.mark.fault("F65", "ulimit -n 64, 24, 16")
@pytest.mark.parametrize(("count", "codes"), [(64, {0}), (24, {0, 3, 4, 5}), (16, {0, 3, 4, 5})])
def test_a_start_with_few_descriptors_works_or_says_so(
    watched: Watched, count: int, codes: set[int]
) -> None:
    ended = watched.home.call(*START, descriptors=count)
    check_told(ended, codes)
    watched.check(ended, "start")
    check_told(watched.home.call(*DESTROY, descriptors=64), {0})
    watched.settled("absent")
