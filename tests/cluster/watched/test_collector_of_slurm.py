"""The process that watches a real cluster, from its start to its end."""

import json
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ai_how.clusters.collecting import find_collector
from ai_how.hpc.manager import HpcManager
from ai_how.monitoring.live import COLLECTOR, connect
from ai_how.waiting import Deadline, wait_until

pytestmark = pytest.mark.slurm
PATIENCE_S = 300.0


class Reader:
    """Somebody who goes on looking, on a thread of its own."""

    def __init__(self, live):
        self.live = live
        self.seen = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self):
        for one in self.live.follow():
            self.seen.append(one)

    def await_(self, is_so, what):
        """The first snapshot from now on of which it is so."""
        begun = len(self.seen)
        return wait_until(
            lambda: next((one for one in self.seen[begun:] if is_so(one)), None),
            Deadline.after(PATIENCE_S),
            what,
        )

    def close(self):
        self.live.close()
        self._thread.join(30)
        assert not self._thread.is_alive()


def trouble(seen):
    own = seen.find_source(COLLECTOR)
    return own.trouble if own else None


def is_seen(seen):
    """Whether the host and libvirt answer. Guests may be too busy for a while."""
    found = [seen.find_source(name) for name in ("cluster", "host", "libvirt")]
    return trouble(seen) is None and all(one and one.at and not one.trouble for one in found)


def is_on(seen):
    return trouble(seen) is None and all(
        one.vm is not None and one.vm.state == "running" for one in seen.nodes
    )


def has_rate(live):
    series = live.series("cpu", "compute-01", time.time() - 60, time.time(), 5)
    return any(value is not None for _, value in series)


@pytest.fixture
def manager(watched):
    return HpcManager(roots=watched.roots, name="hpc")


@pytest.fixture
def enabled(watched):
    """The cluster with `monitoring: {enabled: true}`; afterwards as it was, and up."""
    before = watched.file.read_text()
    watched.file.write_text(f"{before}    monitoring: {{enabled: true, keep_days: 3}}\n")
    yield watched
    watched.file.write_text(before)
    watched.call("hpc", "start", timeout_s=1200)
    watched.call("hpc", "monitor", "stop")


@pytest.mark.long  # three minutes; without a system, test_collector_life.py does it in each run
@pytest.mark.fault("M01", "killed under a reader, with a real cluster")
def test_a_cluster_is_watched_from_its_start_to_its_stop(enabled, manager):
    paths = enabled.paths
    enabled.call("hpc", "monitor", "stop")  # one that a look at the cluster has begun
    assert find_collector(paths) is None
    enabled.call("hpc", "start", timeout_s=300)
    first = find_collector(paths)
    assert first is not None, "a start that finds the cluster up starts its collector"
    told = json.loads(enabled.call("hpc", "monitor", "status", "--json"))
    assert (told["pid"], told["stays"], told["keep_days"]) == (first.pid, True, 3)
    reader = Reader(connect(manager))
    with closing(reader):
        seen = reader.await_(lambda one: is_seen(one) and one.slurm, "an answer of SLURM")
        assert [one.name for one in seen.nodes] == ["controller", "compute-01", "compute-02"]
        assert {one.name for one in seen.slurm.nodes} == {"compute-01", "compute-02"}
        os.kill(first.pid, signal.SIGKILL)
        reader.await_(lambda one: trouble(one) is not None, "the trouble of a killed collector")
        reader.await_(is_seen, "a collector that was started again")
        second = find_collector(paths)
        assert second is not None
        assert second.pid != first.pid
        enabled.call("hpc", "stop", timeout_s=600)
        for _ in range(3):
            reader.await_(lambda one: trouble(one) == "the cluster was stopped", "its end")
        assert find_collector(paths) is None, "who goes on looking starts no collector after a stop"
        assert not paths.collector_socket.exists()
        assert not Path(f"/proc/{second.pid}/cwd").exists()
        enabled.call("hpc", "start", timeout_s=1200)
        reader.await_(lambda one: is_seen(one) and is_on(one), "the cluster after its next start")
        kinds = [one.kind for one in reader.live.events(0, time.time() + 60)]
        assert [one for one in kinds if one in {"stop", "start"}][-2:] == ["stop", "start"]
        reader.await_(lambda _one: has_rate(reader.live), "a rate, which takes two looks")
    enabled.call("hpc", "monitor", "stop")
    assert find_collector(paths) is None
