"""The host and the VMs as sources: figures that mean something, rates that are never negative."""

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.errors import ConnectionLostError, LibvirtError
from ai_how.libvirt_client.facts import DomainEvent, EventKind, StatsRecord
from ai_how.monitoring.figures import rate, real, whole
from ai_how.monitoring.host_source import HostSource, look_at_disks
from ai_how.monitoring.job_use import KEPT_S, JobLedger
from ai_how.monitoring.model import JobUse, SlurmSample
from ai_how.monitoring.vm_source import MEMORY_S, XML_S, VmSource
from made_up_cluster import make_job
from made_up_state import made_up_node, made_up_state

CPU = os.sched_getaffinity(0)
FIRST = min(CPU)


def write_host(root: Path, *, busy: int, idle: int, pressure: bool = True) -> None:
    for directory in ("proc/pressure", "proc/self", "sys/kernel/mm/ksm"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    lines = ["cpu  1 1 1 1 1 1 1 1 1 1"]
    lines += [f"cpu{n} {busy} 0 0 {idle} 5 0 0 0 {busy} 0" for n in (*CPU, 999)]
    (root / "proc/stat").write_text("\n".join([*lines, "intr 5", "cpux 1"]) + "\n")
    (root / "proc/loadavg").write_text("1.50 0.70 0.20 1/200 999\n")
    (root / "proc/meminfo").write_text(
        "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapTotal: 1048576 kB\n"
        "SwapFree: 524288 kB\n"
    )
    (root / "sys/kernel/mm/ksm/run").write_text("1\n")
    (root / "sys/kernel/mm/ksm/pages_sharing").write_text("512\n")
    for name in ("cpu", "memory", "io") if pressure else ():
        (root / "proc/pressure" / name).write_text("some avg10=2.50 avg60=1 avg300=1 total=5\n")


def test_the_host_is_what_its_files_say(tmp_path):
    write_host(tmp_path, busy=100, idle=100)
    source = HostSource(tmp_path)
    first = source.look()
    write_host(tmp_path, busy=150, idle=250)
    second = source.look()
    assert first.cpus_busy is None, "one look has no rate"
    assert second.cpus == len(CPU)
    assert second.cpus_busy == pytest.approx(0.25 * len(CPU))
    assert second.load == (1.5, 0.7, 0.2)
    assert (second.memory_mib, second.memory_available_mib) == (8192, 4096)
    assert (second.swap_mib, second.swap_used_mib) == (1024, 512)
    assert second.pressure == {"cpu": 2.5, "memory": 2.5, "io": 2.5}
    assert second.ksm_saved_mib == 2


def test_a_host_without_pressure_and_ksm_is_a_host(tmp_path):
    write_host(tmp_path, busy=1, idle=1, pressure=False)
    (tmp_path / "sys/kernel/mm/ksm/run").unlink()
    seen = HostSource(tmp_path).look()
    assert (seen.pressure, seen.ksm_saved_mib) == ({}, None)


def test_ticks_that_went_back_are_no_rate(tmp_path):
    write_host(tmp_path, busy=100, idle=100)
    source = HostSource(tmp_path)
    source.look()
    write_host(tmp_path, busy=50, idle=300)
    assert source.look().cpus_busy is None


def test_a_host_without_proc_is_an_error(tmp_path):
    with pytest.raises(OSError, match="meminfo"):
        HostSource(tmp_path).look()


def test_the_real_host_is_read_by_anybody():
    source = HostSource()
    source.look()
    seen = source.look()
    assert seen.cpus == len(CPU)
    assert 0 < seen.memory_available_mib <= seen.memory_mib
    assert seen.load
    assert seen.cpus_busy is None or 0 <= seen.cpus_busy <= seen.cpus


def test_disks_are_what_they_take(tmp_path):
    state = made_up_state(tmp_path)
    first, second = state.nodes[:2]
    first.disk.parent.mkdir(parents=True)
    first.disk.write_bytes(b"x" * 100_000)
    seen = look_at_disks(state)
    assert seen.used_bytes == {first.name: first.disk.stat().st_blocks * 512}
    assert second.name not in seen.used_bytes, "it was never started"
    there = os.statvfs(tmp_path)
    assert seen.storage is not None
    assert seen.storage.size_mib == there.f_blocks * there.f_frsize // 2**20
    assert seen.storage.free_mib == pytest.approx(there.f_bavail * there.f_frsize / 2**20, rel=0.05)
    assert Path(seen.storage.mount_point).is_mount()


def test_no_directory_is_no_storage(tmp_path):
    assert look_at_disks(made_up_state(tmp_path)).storage is None


@pytest.mark.parametrize("text", ["-1", "1_0", "٣", "1e3", "", None, "9" * 30, "0x5", "NaN"])
def test_what_is_no_number_is_none(text):
    assert whole(text) is None


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1_0", "٣", "", None, "1e99", "x"])
def test_what_is_no_figure_is_none(text):
    assert real(text) is None


def test_a_rate_is_never_negative():
    assert rate(10, 5, 2.0) == 2.5
    assert rate(5, 10, 2.0) is None
    assert rate(5, 5, 0.0) is None
    assert rate(5, 1, -3.0) is None, "the clock went back"
    assert rate(None, 1, 1.0) is None


# VMs

XML = """<domain type='{type}'><devices><channel><target type='virtio'
 name='org.qemu.guest_agent.0' state='{state}'/></channel></devices></domain>"""


class MadeUpLibvirt:
    """What is needed of a client; `records` are its answer."""

    def __init__(self) -> None:
        self.records: dict[UUID, StatsRecord] = {}
        self.state, self.type = "connected", "kvm"
        self.xml_reads = self.calls = 0
        self.hear: Callable[[DomainEvent], None] = lambda _event: None
        self.failure: Exception | None = None

    def bulk_stats(
        self, uuids: Collection[UUID], *, timeout_s: float
    ) -> Mapping[UUID, StatsRecord]:
        self.calls += 1
        if self.failure:
            raise self.failure
        return dict(self.records)

    def domain_xml(self, uuid: UUID) -> str:
        self.xml_reads += 1
        return XML.format(type=self.type, state=self.state)

    def subscribe(self, on_event: Callable[[DomainEvent], None]) -> "MadeUpLibvirt":
        self.hear = on_event
        return self

    def close(self) -> None:
        self.hear = lambda _event: None


NODE = made_up_node("compute-01", Path("/x"))


def record(**changes: int) -> dict[str, int | str | bool]:
    """A VM that runs, as libvirt tells it."""
    told = {
        "state.state": 1,
        "state.reason": 1,
        "cpu.time": 10 * 10**9,
        "balloon.current": 1048576,
        "balloon.maximum": 1048576,
        "balloon.available": 990904,
        "balloon.usable": 833288,
        "balloon.last-update": int(time.time()),
        "balloon.rss": 533948,
        "vcpu.current": 2,
        "vcpu.maximum": 2,
        "vcpu.0.wait": 0,
        "vcpu.0.delay": 10**9,
        "vcpu.1.delay": 10**9,
        "net.count": 1,
        "net.0.rx.bytes": 1000,
        "net.0.tx.bytes": 500,
        "net.0.rx.drop": 3,
        "block.count": 2,
        "block.0.rd.bytes": 100,
        "block.1.rd.bytes": 200,
        "block.0.wr.bytes": 50,
        "block.0.capacity": 2**30,
    }
    return told | {name.replace("__", "."): value for name, value in changes.items()}


def make_source() -> tuple[VmSource, MadeUpLibvirt, list[float]]:
    client, now = MadeUpLibvirt(), [100.0]
    client.records[NODE.uuid] = record()
    return VmSource(client, clock=lambda: now[0]), client, now


def look(source: VmSource):
    return source.look([NODE])[NODE.name]


def test_a_vm_is_what_libvirt_counts():
    source, client, now = make_source()
    first = look(source)
    assert (first.state, first.reason, first.vcpus) == ("running", "booted", 2)
    assert (first.guest_memory_mib, first.guest_memory_used_mib) == (967, 154)
    assert (first.qemu_memory_mib, first.balloon_mib, first.memory_mib) == (521, 1024, 1024)
    assert first.counters.disk_read_bytes == 300
    assert first.counters.net_received_drops == 3
    assert first.counters.disk_errors is None, "QEMU's are not told"
    assert first.cpus_busy is None
    now[0] += 5
    client.records[NODE.uuid] = record(
        cpu__time=15 * 10**9,
        vcpu__0__delay=2 * 10**9,
        **{"block.1.rd.bytes": 1200, "net.0.rx.bytes": 2000},
    )
    second = look(source)
    assert (second.cpus_busy, second.cpus_waiting) == (1.0, 0.2)
    assert (second.disk_read_bytes_s, second.disk_written_bytes_s) == (200.0, 0.0)
    assert (second.net_received_bytes_s, second.net_sent_bytes_s) == (200.0, 0.0)
    assert client.calls == 2, "one call a round"


def test_without_delays_the_waits_are_told():
    source, client, now = make_source()
    for second in (0, 1):
        told = record(**{"vcpu.0.wait": second * 10**9 * 2, "vcpu.1.wait": 0})
        client.records[NODE.uuid] = {n: v for n, v in told.items() if "delay" not in n}
        seen = look(source)
        now[0] += 4
    assert seen.cpus_waiting == 0.5


def test_a_vm_that_was_started_anew_has_no_rates_and_none_is_negative():
    source, client, now = make_source()
    look(source)
    now[0] += 5
    client.records[NODE.uuid] = record(cpu__time=10**9, **{"net.0.rx.bytes": 9000})
    seen = look(source)
    assert (seen.cpus_busy, seen.net_received_bytes_s, seen.disk_read_bytes_s) == (None, None, None)
    now[0] += 5
    client.records[NODE.uuid] = record(cpu__time=2 * 10**9, **{"net.0.rx.bytes": 9500})
    assert look(source).net_received_bytes_s == 100.0


def test_one_counter_that_went_back_has_no_rate():
    source, client, now = make_source()
    look(source)
    now[0] += 5
    client.records[NODE.uuid] = record(cpu__time=11 * 10**9, **{"net.0.rx.bytes": 0})
    seen = look(source)
    assert (seen.cpus_busy, seen.net_received_bytes_s) == (0.2, None)


def test_two_looks_in_a_moment_have_the_rates_of_the_one_before():
    source, client, now = make_source()
    look(source)
    now[0] += 5
    client.records[NODE.uuid] = record(cpu__time=15 * 10**9)
    look(source)
    now[0] += 0.01
    client.records[NODE.uuid] = record(cpu__time=15 * 10**9 + 10**8)
    assert look(source).cpus_busy == 1.0, "not 10"


def test_a_qemu_that_was_busy_makes_no_wrong_rates():
    """Then libvirt tells its state alone."""
    source, client, now = make_source()
    look(source)
    now[0] += 5
    client.records[NODE.uuid] = {"state.state": 1, "state.reason": 1}
    busy = look(source)
    assert (busy.state, busy.cpus_busy, busy.guest_memory_used_mib) == ("running", None, None)
    now[0] += 5
    client.records[NODE.uuid] = record(cpu__time=20 * 10**9)
    assert look(source).cpus_busy == 1.0, "over ten seconds"


@pytest.mark.parametrize("age_s", [-MEMORY_S - 10, MEMORY_S + 10])
def test_memory_that_a_guest_told_long_ago_is_not_known(age_s):
    """Also after the clock of the host was set back or forward."""
    source, client, _ = make_source()
    client.records[NODE.uuid] = record(**{"balloon.last-update": int(time.time()) - age_s})
    seen = look(source)
    assert (seen.guest_memory_mib, seen.guest_memory_used_mib) == (None, None)
    assert seen.qemu_memory_mib == 521


def test_a_vm_that_is_off_or_gone_has_no_figures():
    source, client, now = make_source()
    look(source)
    now[0] += 5
    client.records[NODE.uuid] = {"state.state": 5, "state.reason": 1, "balloon.maximum": 5}
    off = look(source)
    assert (off.state, off.reason, off.cpus_busy, off.balloon_mib) == (
        "shut_off",
        "shutdown",
        None,
        None,
    )
    assert not off.is_agent_connected
    client.records.clear()
    gone = look(source)
    assert (gone.state, gone.reason) == ("absent", "not defined")


def test_lies_of_a_libvirt_are_not_figures():
    source, client, now = make_source()
    look(source)
    now[0] += 5
    client.records[NODE.uuid] = record() | {
        "cpu.time": -5,
        "block.count": 0,
        "net.0.rx.bytes": -1,
        "vcpu.current": -1,
        "state.state": 99,
        "state.reason": -7,
    }
    seen = look(source)
    assert (seen.state, seen.vcpus, seen.counters.disk_read_bytes) == ("unknown", 2, None)


def test_whether_an_agent_is_connected_comes_from_events_between_two_looks_at_the_xml():
    source, client, now = make_source()
    assert look(source).is_agent_connected
    assert source.is_kvm is True
    client.hear(DomainEvent(NODE.uuid, EventKind.AGENT_DISCONNECTED, 1))
    client.hear(DomainEvent(UUID(int=8), EventKind.AGENT_DISCONNECTED, 1))
    assert not look(source).is_agent_connected
    client.hear(DomainEvent(NODE.uuid, EventKind.AGENT_CONNECTED, 1))
    assert look(source).is_agent_connected
    assert client.xml_reads == 1
    now[0] += XML_S + 1
    client.state = "disconnected"
    assert not look(source).is_agent_connected, "an event may be lost"
    client.hear(DomainEvent(NODE.uuid, EventKind.STARTED, 1))
    client.state, client.type = "connected", "qemu"
    assert look(source).is_agent_connected
    assert (client.xml_reads, source.is_kvm) == (3, False)
    source.close()


def test_a_vm_that_goes_while_it_is_looked_at_harms_nothing():
    source, client, _ = make_source()

    def gone(_uuid: UUID) -> str:
        raise LibvirtError("Domain not found")

    client.domain_xml = gone
    assert look(source).is_agent_connected is False


def test_a_dead_libvirt_is_an_error():
    source, client, _ = make_source()
    client.failure = ConnectionLostError("no connection to libvirt")
    with pytest.raises(ConnectionLostError):
        look(source)


# Jobs


def test_the_use_of_a_job_is_summed_over_its_nodes_and_kept_after_its_end():
    now = [0.0]
    ledger = JobLedger(lambda: now[0])
    job = replace(make_job(2, ["a", "b"], 1000.0), id="5", state="running", cpu_used_s=None)
    sample = SlurmSample(jobs=(job, replace(job, id="6"), replace(job, id="7", state="pending")))
    ledger.note("a", [JobUse(job="5", cpu_s=2.0, memory_mib=5, memory_peak_mib=10)])
    ledger.note("b", [JobUse(job="5", cpu_s=3.5, memory_mib=20), JobUse(job="7", cpu_s=1.0)])
    ledger.note("a", [])
    five, six, seven = ledger.joined(sample).jobs
    assert (five.cpu_used_s, five.memory_peak_mib) == (5.5, 30)
    assert six.cpu_used_s is None
    assert seven.cpu_used_s is None, "it is queued again"
    ended = replace(sample, jobs=(replace(job, state="completed"),))
    assert ledger.joined(ended).jobs[0].cpu_used_s == 5.5
    ledger.forget_all_but([])
    assert ledger.joined(ended).jobs[0].cpu_used_s == 5.5, "slurmctld's word may be older"
    now[0] += KEPT_S + 1
    ledger.forget_all_but([])
    assert ledger.joined(ended).jobs[0].cpu_used_s is None


def test_the_ledger_is_bounded():
    ledger = JobLedger()
    for start in range(0, 8000, 100):
        ledger.note("a", [JobUse(job=str(n), cpu_s=1.0) for n in range(start, start + 100)])
    assert len(ledger._uses) == 5000
    assert "7999" in ledger._uses
