"""The process that watches a cluster, through all its verbs, with real VMs that have no system."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.clusters.collecting import find_collector
from ai_how.hpc.manager import HpcManager
from ai_how.monitoring.live import COLLECTOR, connect
from ai_how.waiting import Deadline, wait_until
from tiny_cluster import TinyHome

pytestmark = pytest.mark.libvirt

PATIENCE_S = 120.0


class Reader:
    """Somebody who goes on looking, on a thread of its own."""

    def __init__(self, home: TinyHome) -> None:
        self.live = connect(HpcManager(roots=home.roots, name="hpc"))
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


def is_on(seen):
    return trouble(seen) is None and all(
        one.vm is not None and one.vm.state == "running" for one in seen.nodes
    )


def has_rates(seen):
    return all(one.vm.cpus_busy is not None for one in seen.nodes)


def says(why):
    return lambda seen: trouble(seen) == why


def pid_of(home):
    there = find_collector(home.paths("hpc"))
    return there.pid if there else None


def is_gone(pid):
    return not Path(f"/proc/{pid}/cwd").exists()


def call(home, *words):
    ended = home.call("hpc", *words)
    assert ended.code == 0, ended.said


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    """No cluster yet, and a file that has it watched."""
    file = tiny_home.file("hpc")
    text = file.read_text()
    file.write_text(f"{text}    monitoring: {{enabled: true, keep_days: 3}}\n")
    yield tiny_home
    file.write_text(text)
    call(tiny_home, "destroy", "--force")


@pytest.mark.fault("M01", "killed under a reader, at each verb of a cluster")
def test_a_cluster_is_watched_from_its_start_to_its_end(home):
    call(home, "start")
    first = pid_of(home)
    assert first is not None
    reader = Reader(home)
    try:
        seen = reader.await_(is_on, "all nodes on")
        assert [one.name for one in seen.nodes] == ["controller", "compute-01", "compute-02"]
        assert pid_of(home) == first
        assert reader.live.status()["keep_days"] == 3

        os.kill(first, signal.SIGKILL)
        reader.await_(lambda one: trouble(one) is not None, "the trouble of a killed collector")
        reader.await_(is_on, "a collector that was started again")
        second = pid_of(home)
        assert second not in (None, first)
        assert reader.live.status()["stays"]

        call(home, "stop")
        reader.await_(says("the cluster was stopped"), "its end")
        reader.await_(says("the cluster was stopped"), "nobody who starts another")
        assert pid_of(home) is None
        assert not home.paths("hpc").collector_socket.exists()
        assert is_gone(second)

        call(home, "start")
        reader.await_(lambda one: is_on(one) and has_rates(one), "the next start")
        third = pid_of(home)
        kinds = [one.kind for one in reader.live.events(0, time.time() + 60)]
        assert [kind for kind in kinds if kind in {"start", "stop"}] == ["start", "stop", "start"]
        told = reader.live.series("cpu", "controller", time.time() - 60, time.time() + 5, 5)
        assert any(value is not None for _, value in told)

        call(home, "stop", "--suspend")
        reader.await_(says("the cluster was suspended"), "its end")
        assert is_gone(third)
        call(home, "start")
        reader.await_(is_on, "the cluster that was resumed")
        last = pid_of(home)
        call(home, "destroy", "--force")
        reader.await_(says("the cluster was destroyed"), "its end")
        assert is_gone(last)
        assert not home.paths("hpc").root.exists()
    finally:
        reader.close()


def test_a_start_that_finds_the_cluster_up_sees_to_its_collector(home):
    call(home, "start")
    first = pid_of(home)
    call(home, "start")
    assert pid_of(home) == first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pid_of(home) is None, Deadline.after(20), "its end", interval_s=0.02)
    call(home, "start")
    assert pid_of(home) not in (None, first)
