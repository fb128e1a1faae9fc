"""Facts from libvirt as our types: VMs, networks, statistics, events. Does not load libvirt.

Names and XML here may come from other users' VMs: they are data, never trusted or run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from ai_how.errors import HostError
from ai_how.libvirt_client.vm_state import VmState, reason_text
from ai_how.libvirt_client.xml import MARK_NAMESPACE, read_xml

OFF_BY_DAEMON = 8
ON_BY_BOOT = 1
PAUSED_BY_IOERROR, PAUSED_BY_CRASH = 5, 10
AGENT_CHANNEL = "org.qemu.guest_agent.0"

Version = tuple[int, int, int]
StatsRecord = Mapping[str, int | str | bool]
"""What libvirt tells of one VM, by its own names: `cpu.time`, `block.0.rd.bytes`."""


@dataclass(frozen=True, slots=True)
class HypervisorVersion:
    """The versions of the daemon, of the hypervisor, and of the client library."""

    libvirt: Version
    hypervisor: Version
    client: Version


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a cluster: a user, and one of that user's state directories."""

    uid: int | None
    """None if unknown: older marks do not have it."""
    state: Path


@dataclass(frozen=True, slots=True)
class Mark:
    """Our mark in an object's metadata. Our objects have it, but anyone can copy it."""

    cluster: str
    id: UUID
    node: str
    """Empty on a network."""
    owner: Owner | None = None
    """None in objects from before owners were recorded."""
    kind: str | None = None
    """The kind of the cluster; None for SLURM, which was the only kind at first."""


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """The facts about a VM when it was read."""

    uuid: UUID
    name: str
    state: VmState
    state_number: int
    reason: int
    is_persistent: bool
    domid: int | None
    vcpus: int
    memory_mib: int
    mark: Mark | None
    xml: str
    has_managed_save: bool = False
    """Whether it is off, and its memory is saved: started, it goes on where it was."""

    @property
    def reason_text(self) -> str:
        """The reason of its state, in words."""
        return reason_text(self.state_number, self.reason)

    @property
    def waits_for_disk(self) -> bool:
        """Whether QEMU has paused it on an I/O error: mostly, the host's disk is full."""
        return self.state is VmState.PAUSED and self.reason == PAUSED_BY_IOERROR

    @property
    def was_booted(self) -> bool:
        """Whether it was booted, though its memory may have been saved."""
        return self.state is VmState.RUNNING and self.reason == ON_BY_BOOT

    @property
    def was_ended_by_daemon(self) -> bool:
        """Whether libvirtd ended it: a libvirtd killed during its start does so when it is back."""
        return self.state is VmState.SHUT_OFF and self.reason == OFF_BY_DAEMON

    @property
    def is_agent_connected(self) -> bool:
        """Whether the guest's agent has opened its end of the channel."""
        targets = read_xml(self.xml).iterfind("./devices/channel/target")
        return any(
            target.get("name") == AGENT_CHANNEL and target.get("state") == "connected"
            for target in targets
        )


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """The facts about a network when it was read."""

    uuid: UUID
    name: str
    bridge: str | None
    is_active: bool
    mark: Mark | None
    xml: str
    defined_xml: str = ""
    """Its XML after the next start; empty if that is `xml`."""
    is_persistent: bool = True


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """The guest kernel's memory statistics, from the balloon driver; `told_at` is Unix time.

    There are none before that driver is loaded, which takes minutes in emulated guests.
    """

    total_mib: int
    usable_mib: int
    told_at: int

    @property
    def used_mib(self) -> int:
        """The memory of its programs and kernel, without caches that it would release."""
        return max(0, self.total_mib - self.usable_mib)


@dataclass(frozen=True, slots=True)
class DomainStats:
    """Statistics of one VM; None if the hypervisor has none (it is off)."""

    cpu_time_ns: int | None
    memory_current_mib: int | None
    memory_max_mib: int | None
    memory_rss_mib: int | None
    """The memory of its QEMU on the host, far more than the guest requested."""
    guest_memory: GuestMemory | None
    disk_allocation_bytes: int | None
    disk_capacity_bytes: int | None
    disk_physical_bytes: int | None
    net_received_bytes: int | None
    net_sent_bytes: int | None


class EventKind(StrEnum):
    """The kind of an event, in libvirt's words."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"
    SHUTDOWN = "shutdown"
    PMSUSPENDED = "pmsuspended"
    CRASHED = "crashed"
    AGENT_CONNECTED = "agent connected"
    AGENT_DISCONNECTED = "agent disconnected"
    OTHER = "other"

    @classmethod
    def of_lifecycle(cls, number: int) -> "EventKind":
        """The kind of a virDomainEventType; OTHER for an unknown, newer one."""
        return _LIFECYCLE[number] if 0 <= number < len(_LIFECYCLE) else cls.OTHER

    @classmethod
    def of_agent(cls, number: int) -> "EventKind":
        """The kind of a virConnectDomainEventAgentLifecycleState."""
        return {1: cls.AGENT_CONNECTED, 2: cls.AGENT_DISCONNECTED}.get(number, cls.OTHER)


_LIFECYCLE = tuple(EventKind)[: tuple(EventKind).index(EventKind.AGENT_CONNECTED)]


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """An event of a VM; `detail` is libvirt's number for the reason."""

    uuid: UUID
    kind: EventKind
    detail: int


def read_version(number: int) -> Version:
    """libvirt's 1000000*major + 1000*minor + release."""
    return number // 1_000_000, number // 1_000 % 1_000, number % 1_000


def read_mark(xml: str) -> Mark | None:
    """Our mark in a domain's or network's XML; None if there is none, or it is invalid."""
    try:
        element = read_xml(xml).find(f"./metadata/{{{MARK_NAMESPACE}}}node")
        if element is None:
            return None
        return Mark(
            element.get("cluster", ""),
            UUID(element.get("id")),
            element.get("node", ""),
            _read_owner(element.get("uid"), element.get("state")),
            element.get("kind"),
        )
    except (HostError, TypeError, ValueError, AttributeError):
        return None  # broken XML of another user must not break a list of all VMs


def _read_owner(uid: str | None, state: str | None) -> Owner | None:
    if uid is None or state is None:
        return None
    return Owner(int(uid), Path(state))


def read_bridge(xml: str) -> str | None:
    """The bridge of a network's XML."""
    try:
        bridge = read_xml(xml).find("./bridge")
    except HostError:
        return None
    return None if bridge is None else bridge.get("name")


def read_stats(record: StatsRecord) -> DomainStats:
    """The statistics of one domain, from virDomainListGetStats' typed parameters."""

    def mib(name: str) -> int | None:
        kib = record.get(f"balloon.{name}")
        return None if kib is None else int(kib) // 1024

    def total(group: str, figure: str) -> int | None:
        count = int(record.get(f"{group}.count", 0))
        found = [record.get(f"{group}.{number}.{figure}") for number in range(count)]
        known = [int(value) for value in found if value is not None]
        return sum(known) if known else None

    def guest_memory() -> GuestMemory | None:
        total, usable = mib("available"), mib("usable")
        told_at = int(record.get("balloon.last-update", 0))
        if total is None or usable is None or not told_at:
            return None
        return GuestMemory(total, usable, told_at)

    cpu_time = record.get("cpu.time")
    return DomainStats(
        cpu_time_ns=None if cpu_time is None else int(cpu_time),
        memory_current_mib=mib("current"),
        memory_max_mib=mib("maximum"),
        memory_rss_mib=mib("rss"),
        guest_memory=guest_memory(),
        disk_allocation_bytes=total("block", "allocation"),
        disk_capacity_bytes=total("block", "capacity"),
        disk_physical_bytes=total("block", "physical"),
        net_received_bytes=total("net", "rx.bytes"),
        net_sent_bytes=total("net", "tx.bytes"),
    )
