"""The VMs as libvirt counts them: one call for all of them each round, and rates from counters."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import UUID

from ai_how.errors import ConnectionLostError, HostError, LibvirtError
from ai_how.libvirt_client.facts import (
    AGENT_CHANNEL,
    DomainEvent,
    EventKind,
    GuestMemory,
    StatsRecord,
    read_stats,
)
from ai_how.libvirt_client.vm_state import VmState, reason_text
from ai_how.libvirt_client.xml import read_xml
from ai_how.monitoring.figures import rate
from ai_how.monitoring.model import VmCounters, VmSample
from ai_how.state.models import NodeState

STATS_S = 5.0
"""How long libvirt may take. It answers in milliseconds."""
MEMORY_S = 60
"""How old a guest's word of its memory may be. It tells every 10 s; a busy one is late."""
XML_S = 60.0
"""How often the XML of a VM is read. Between, events tell whether its agent is connected."""
LEAST_S = 0.5
"""Rates over a shorter time would be noise."""


class Subscribed(Protocol):
    """Delivers events until it is closed."""

    def close(self) -> None: ...


class Client(Protocol):
    """The part of the libvirt client that is needed here."""

    def bulk_stats(
        self, uuids: Collection[UUID], *, timeout_s: float
    ) -> Mapping[UUID, StatsRecord]: ...
    def domain_xml(self, uuid: UUID) -> str: ...
    def subscribe(self, on_event: Callable[[DomainEvent], None]) -> Subscribed: ...


@dataclass(slots=True)
class _Known:
    """What is remembered of one VM between two looks."""

    at: float
    """On the monotonic clock."""
    counters: VmCounters
    sample: VmSample


@dataclass(slots=True)
class _Wiring:
    """What the XML of a VM said, and events since."""

    read_at: float
    is_connected: bool
    is_kvm: bool


class VmSource:
    """Looks at the VMs of a cluster by one client of libvirt."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` never goes back."""
        self._client = client
        self._clock = clock
        self._before: dict[UUID, _Known] = {}
        self._wiring: dict[UUID, _Wiring] = {}
        self._subscribed: Subscribed | None = None

    @property
    def is_kvm(self) -> bool | None:
        """Whether the VMs run on KVM; None before one was seen to run."""
        return next((one.is_kvm for one in self._wiring.values()), None)

    def look(self, nodes: Collection[NodeState]) -> Mapping[str, VmSample]:
        """All VMs now, by node. Raises ConnectionLostError if libvirt does not answer."""
        if self._subscribed is None:
            self._subscribed = self._client.subscribe(self._on_event)
        records = self._client.bulk_stats([one.uuid for one in nodes], timeout_s=STATS_S)
        at = self._clock()
        gone = self._before.keys() - records.keys()
        for uuid in gone:
            self._before.pop(uuid, None)
            self._wiring.pop(uuid, None)
        return {one.name: self._sample(one, records.get(one.uuid), at) for one in nodes}

    def close(self) -> None:
        """Hear of no more events."""
        if self._subscribed is not None:
            self._subscribed.close()
            self._subscribed = None

    def _sample(self, node: NodeState, record: StatsRecord | None, at: float) -> VmSample:
        if record is None:
            return absent(node, VmState.ABSENT, "not defined")
        number, reason = _int(record, "state.state") or 0, _int(record, "state.reason") or 0
        state = VmState.from_libvirt(number)
        wiring = self._wiring_of(node.uuid, at) if state.is_on else None
        sample = replace(
            read_vm(node, record, state, reason_text(number, reason)),
            is_agent_connected=bool(wiring and wiring.is_connected),
        )
        before = self._before.get(node.uuid)
        if before is not None and at - before.at < LEAST_S:
            return with_rates_of(sample, before.sample)
        if before is not None:
            sample = with_rates(sample, before.counters, at - before.at)
        if sample.counters.cpu_time_ns is not None or not state.is_on:
            # A QEMU that was busy told no counters: the next rates are since those before.
            self._before[node.uuid] = _Known(at, sample.counters, sample)
        return sample

    def _wiring_of(self, uuid: UUID, at: float) -> _Wiring | None:
        known = self._wiring.get(uuid)
        if known is not None and at - known.read_at < XML_S:
            return known
        try:
            root = read_xml(self._client.domain_xml(uuid))
        except ConnectionLostError:
            raise
        except (LibvirtError, HostError):
            return known  # it has gone just now, or its XML is broken
        is_connected = any(
            target.get("name") == AGENT_CHANNEL and target.get("state") == "connected"
            for target in root.iterfind("./devices/channel/target")
        )
        self._wiring[uuid] = _Wiring(at, is_connected, root.get("type") == "kvm")
        return self._wiring[uuid]

    def _on_event(self, event: DomainEvent) -> None:
        """Runs in libvirt's event loop: quick, and without a call to libvirt."""
        if event.kind in {EventKind.STARTED, EventKind.STOPPED}:
            self._wiring.pop(event.uuid, None)
        elif known := self._wiring.get(event.uuid):
            if event.kind is EventKind.AGENT_CONNECTED:
                known.is_connected = True
            elif event.kind is EventKind.AGENT_DISCONNECTED:
                known.is_connected = False


def absent(node: NodeState, state: VmState, reason: str) -> VmSample:
    """A node without a QEMU."""
    return VmSample(
        uuid=str(node.uuid),
        domain=node.domain_name,
        state=state.value,
        reason=reason,
        vcpus=node.cpu_cores,
        memory_mib=node.memory_mib,
    )


def read_vm(node: NodeState, record: StatsRecord, state: VmState, reason: str) -> VmSample:
    """A VM by libvirt's statistics of it, without rates (pure)."""
    stats = read_stats(record)
    memory = fresh(stats.guest_memory, time.time())
    sample = absent(node, state, reason)
    if not state.is_on:
        return sample
    return replace(
        sample,
        vcpus=_int(record, "vcpu.current") or node.cpu_cores,
        counters=read_counters(record),
        qemu_memory_mib=stats.memory_rss_mib,
        balloon_mib=stats.memory_current_mib,
        guest_memory_mib=memory.total_mib if memory else None,
        guest_memory_used_mib=memory.used_mib if memory else None,
        disk_capacity_bytes=stats.disk_capacity_bytes,
    )


def fresh(memory: GuestMemory | None, now: float) -> GuestMemory | None:
    """What the guest told of its memory, unless that is old: a guest that hangs tells nothing."""
    return memory if memory and abs(now - memory.told_at) < MEMORY_S else None


def read_counters(record: StatsRecord) -> VmCounters:
    """What libvirt counts of a VM, over all its disks and interfaces (pure)."""
    # `delay` is the time on the run queue; `wait` needs a kernel that keeps statistics of it.
    waits = [_sum(record, "vcpu", name, count="maximum") for name in ("delay", "wait")]
    return VmCounters(
        cpu_time_ns=_int(record, "cpu.time"),
        vcpu_wait_ns=next((one for one in waits if one is not None), None),
        disk_read_bytes=_sum(record, "block", "rd.bytes"),
        disk_read_requests=_sum(record, "block", "rd.reqs"),
        disk_written_bytes=_sum(record, "block", "wr.bytes"),
        disk_write_requests=_sum(record, "block", "wr.reqs"),
        disk_errors=_sum(record, "block", "errors"),
        net_received_bytes=_sum(record, "net", "rx.bytes"),
        net_received_packets=_sum(record, "net", "rx.pkts"),
        net_received_errors=_sum(record, "net", "rx.errs"),
        net_received_drops=_sum(record, "net", "rx.drop"),
        net_sent_bytes=_sum(record, "net", "tx.bytes"),
        net_sent_packets=_sum(record, "net", "tx.pkts"),
        net_sent_errors=_sum(record, "net", "tx.errs"),
        net_sent_drops=_sum(record, "net", "tx.drop"),
    )


def with_rates(sample: VmSample, before: VmCounters, seconds: float) -> VmSample:
    """The sample with its rates since `before`; none if its VM was started anew since (pure)."""
    now = sample.counters
    if rate(now.cpu_time_ns, before.cpu_time_ns, seconds) is None:
        return sample
    return replace(
        sample,
        cpus_busy=_cpus(now.cpu_time_ns, before.cpu_time_ns, seconds),
        cpus_waiting=_cpus(now.vcpu_wait_ns, before.vcpu_wait_ns, seconds),
        disk_read_bytes_s=rate(now.disk_read_bytes, before.disk_read_bytes, seconds),
        disk_written_bytes_s=rate(now.disk_written_bytes, before.disk_written_bytes, seconds),
        net_received_bytes_s=rate(now.net_received_bytes, before.net_received_bytes, seconds),
        net_sent_bytes_s=rate(now.net_sent_bytes, before.net_sent_bytes, seconds),
    )


def with_rates_of(sample: VmSample, before: VmSample) -> VmSample:
    """The sample with the rates of the look before, which was a moment ago."""
    return replace(
        sample,
        cpus_busy=before.cpus_busy,
        cpus_waiting=before.cpus_waiting,
        disk_read_bytes_s=before.disk_read_bytes_s,
        disk_written_bytes_s=before.disk_written_bytes_s,
        net_received_bytes_s=before.net_received_bytes_s,
        net_sent_bytes_s=before.net_sent_bytes_s,
    )


def _cpus(now: int | None, before: int | None, seconds: float) -> float | None:
    found = rate(now, before, seconds)
    return None if found is None else round(found / 1e9, 3)


def _int(record: StatsRecord, name: str) -> int | None:
    value = record.get(name)
    return value if isinstance(value, int) and value >= 0 else None


def _sum(record: StatsRecord, group: str, figure: str, *, count: str = "count") -> int | None:
    """The sum over all of a group; None if libvirt tells none."""
    every = range(_int(record, f"{group}.{count}") or 0)
    known = [value for n in every if (value := _int(record, f"{group}.{n}.{figure}")) is not None]
    return sum(known) if known else None
