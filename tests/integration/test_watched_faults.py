"""A collector on a real libvirt whose daemon and QEMUs hang, die and come back.

The guests have no system: what is looked at here is libvirt, the disks and the host.
"""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.vm_state import VmState
from ai_how.monitoring.collector import Collector
from ai_how.monitoring.model import Snapshot
from ai_how.monitoring.watched import watched_as
from ai_how.waiting import Deadline, wait_until
from daemons import daemon_of, kill_daemon, qemus_of, send, stopped
from tiny_cluster import TinyHome

pytestmark = pytest.mark.libvirt

SOON_S = 90.0


class Watch:
    """The newest snapshot of the cluster of a tiny home."""

    def __init__(self, home: TinyHome) -> None:
        self.home, self.stop = home, threading.Event()
        self.newest: Snapshot | None = None
        self.collector = Collector(watched_as(SLURM, "hpc", home.roots))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for seen in self.collector.rounds(self.stop, every_s=1.0):
            self.newest = seen

    def wait(self, holds: Callable[[Snapshot], object], what: str) -> Snapshot:
        """The first snapshot from now on of which it holds."""
        self.newest = None

        def look() -> Snapshot | None:
            seen = self.newest
            return seen if seen and holds(seen) else None

        return wait_until(look, Deadline.after(SOON_S), what)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(SOON_S)
        self.collector.close()


@pytest.fixture
def watch(tiny_home: TinyHome) -> Iterator[Watch]:
    ended = tiny_home.call("hpc", "start")
    assert ended.code == 0, ended.said
    made = Watch(tiny_home)
    yield made
    made.end()
    if tiny_home.paths("hpc").state.exists():
        assert tiny_home.call("hpc", "destroy", "--force").code == 0


def trouble(seen: Snapshot, name: str) -> str | None:
    source = seen.find_source(name)
    return source.trouble if source else None


def runs(seen: Snapshot) -> bool:
    return len(seen.nodes) == 3 and all(
        one.vm and one.vm.state == VmState.RUNNING and one.vm.cpus_busy is not None
        for one in seen.nodes
    )


def fresh(seen: Snapshot, name: str) -> bool:
    """Whether a source has answered within two of its intervals."""
    source = seen.find_source(name)
    return bool(source and source.at and seen.at - source.at < 2.5 * source.every_s)


def test_figures_are_those_that_libvirt_has(watch):
    seen = watch.wait(runs, "rates of all VMs")
    assert seen.host
    assert (seen.is_up, seen.host.is_kvm) == (True, False)
    with watch.home.client() as client:
        there = {one.name: one for one in client.list_domains() if one.name.startswith("hpc-")}
        stats = client.stats([one.uuid for one in there.values()])
    for node in seen.nodes:
        domain = there[node.vm.domain]
        assert node.vm.uuid == str(domain.uuid)
        assert (node.vm.vcpus, node.vm.memory_mib) == (1, 512)
        told = stats[domain.uuid]
        assert 0 < node.vm.counters.cpu_time_ns <= told.cpu_time_ns
        assert node.vm.counters.disk_read_bytes is not None
        assert node.vm.disk_capacity_bytes == told.disk_capacity_bytes
        assert node.vm.qemu_memory_mib == pytest.approx(told.memory_rss_mib, rel=0.5)
        assert node.vm.guest_memory_used_mib is None, "no guest has told it"
        assert (
            node.vm.disk_used_bytes
            == watch.collector._ground.value.state.get_node(node.name).disk.stat().st_blocks * 512
        )
        assert "agent is not connected" in trouble(seen, f"guest/{node.name}")


def test_a_libvirtd_that_hangs_is_a_gap_and_leaves_no_threads(watch):
    watch.wait(runs, "rates")
    with stopped(daemon_of(watch.home.host)):
        seen = watch.wait(lambda seen: trouble(seen, "libvirt"), "a trouble")
        assert all(one.vm for one in seen.nodes), "what was seen last stays"
        before = threading.active_count()
        for _ in range(15):
            seen = watch.wait(lambda _seen: True, "a snapshot each second")
            assert trouble(seen, "libvirt")
            assert fresh(seen, "host")
            assert fresh(seen, "cluster")
            assert fresh(seen, "disks")
        assert threading.active_count() <= before + 3
    watch.wait(lambda seen: not trouble(seen, "libvirt") and runs(seen), "libvirt is back")


def test_a_libvirtd_that_is_killed_is_back_by_itself(watch):
    watch.wait(runs, "rates")
    kill_daemon(watch.home.host)
    daemon_of(watch.home.host)
    watch.wait(
        lambda seen: not trouble(seen, "libvirt") and fresh(seen, "libvirt") and runs(seen),
        "libvirt is back",
    )


def test_a_qemu_that_hangs_hides_no_other_vm(watch):
    watch.wait(runs, "rates")
    with stopped(qemus_of(watch.home.host, "hpc")["compute-01"]):
        # The call that meets it is late. Later ones do not wait for it.
        def others_are_fresh(seen: Snapshot) -> bool:
            one = seen.find_node("compute-01").vm
            other = seen.find_node("compute-02").vm
            is_told = not trouble(seen, "libvirt") and fresh(seen, "libvirt")
            return is_told and one.qemu_memory_mib is None and other.cpus_busy is not None

        watch.wait(others_are_fresh, "figures of the others")
    watch.wait(lambda seen: runs(seen) and not trouble(seen, "libvirt"), "all are back")


def test_a_qemu_that_dies_a_stop_and_a_destroy_are_said(watch):
    watch.wait(runs, "rates")
    send(signal.SIGKILL, qemus_of(watch.home.host, "hpc")["compute-02"])
    seen = watch.wait(
        lambda seen: seen.find_node("compute-02").vm.state != VmState.RUNNING, "its end"
    )
    vm = seen.find_node("compute-02").vm
    assert (vm.state, vm.reason, vm.cpus_busy) == ("shut_off", "crashed", None)
    assert watch.home.call("hpc", "stop").code == 0
    watch.wait(
        lambda seen: {one.vm.state for one in seen.nodes} == {"shut_off"} and not seen.doing, "off"
    )
    assert watch.home.call("hpc", "destroy", "--force").code == 0
    seen = watch.wait(lambda seen: not seen.nodes, "no nodes")
    assert watch.collector.is_gone
    assert trouble(seen, "cluster") == "the cluster does not exist: it was destroyed"
