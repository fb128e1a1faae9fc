"""The status of a cluster, from libvirt, the disks and the cluster's software."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from ai_how.clusters.file_systems import FileSystem
from ai_how.clusters.host_faults import find_network_faults, find_share_faults, find_wiring_faults
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.observation import Observed
from ai_how.clusters.workload import GpuUse, NodeReadiness
from ai_how.errors import ImageError
from ai_how.host.ports import ServedPorts
from ai_how.images.manifest import MANIFEST, read_manifest
from ai_how.libvirt_client.facts import DomainInfo, DomainStats, GuestMemory
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ImagePaths
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.nodes.clocks import describe_skew, is_off

MIB = 2**20
# The balloon asks the guest every ten seconds (`stats`); a busy guest answers late.
MEMORY_S = 60


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node."""

    name: str
    role: Role
    ip: IPv4Address
    state: VmState


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources, summed over nodes."""

    cpu_cores: int
    memory_mib: int
    disk_gib: int


@dataclass(frozen=True, slots=True)
class Report:
    """A summary. `in_use` has the vCPUs and memory of VMs that are on, and all existing disks."""

    name: str
    nodes: tuple[NodeReport, ...]
    counts: Mapping[VmState, int]
    """Only states that occur."""
    total: Resources
    in_use: Resources
    age_s: float
    """Since the cluster was created, or its state was recovered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node. Unknown values are None."""

    name: str
    role: Role
    domain: str
    state: VmState
    reason: str
    ip: IPv4Address
    vcpus: int
    memory_mib: int
    memory_used_mib: int | None
    """What its QEMU uses on the host."""
    guest_memory_mib: int | None
    """The total memory of the guest's kernel, a little less than `memory_mib`."""
    guest_memory_used_mib: int | None
    disk_gib: int
    disk_used_mib: int | None
    agent: bool
    slurm: str | None
    slurm_reason: str | None
    gpus: tuple[GpuUse, ...]
    """As SLURM has them; as they were asked for, if it could not be asked."""
    stages_s: Mapping[str, float]
    file_systems: tuple[FileSystem, ...]
    """As its agent reports; empty if it was not asked, or did not answer in time."""
    problems: tuple[str, ...]
    """Faults of its disk, image, clock and network interface, in a few words each."""


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A port of this host that leads to a port of a node."""

    address: str
    host_port: int
    node: str
    port: int
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The whole cluster."""

    name: str
    host: str
    network: str
    subnet: str
    network_is_active: bool
    network_problems: tuple[str, ...]
    has_uplink: bool
    """Whether nodes reach the outside, as far as that is known."""
    slurm_version: str | None
    """Of the cluster's software, in the controller's image; None where that is not known."""
    slurm_trouble: str | None
    impostors: tuple[str, ...]
    is_ready: bool
    ports: tuple[PortStatus, ...]
    """Those that the last start opened, until the cluster is stopped."""
    nodes: tuple[NodeStatus, ...]
    report: Report


def status_of(
    kind: ClusterKind,
    state: ClusterState,
    seen: Observed,
    stats: Mapping[UUID, DomainStats],
    disk_problems: Mapping[str, tuple[str, ...]],
    file_systems: Mapping[UUID, tuple[FileSystem, ...]] = MappingProxyType({}),
    *,
    slurm_version: str | None = None,
) -> ClusterStatus:
    """Combine the observations (pure)."""
    nodes = tuple(
        _node_status(
            one,
            seen,
            stats.get(one.uuid),
            disk_problems.get(one.name, ()),
            file_systems.get(one.uuid, ()),
            state.kind,
        )
        for one in state.nodes
    )
    return ClusterStatus(
        name=state.name,
        host=state.host_uri,
        network=state.network.bridge,
        subnet=str(state.network.subnet),
        network_is_active=bool(seen.network and seen.network.is_active),
        network_problems=tuple(map(str, find_network_faults(state, seen))),
        has_uplink=_has_uplink(state, seen),
        slurm_version=slurm_version,
        slurm_trouble=seen.workload_trouble,
        impostors=seen.impostors,
        is_ready=seen.readiness is not None and kind.is_ready(state, seen.readiness),
        ports=_ports(seen.ports),
        nodes=nodes,
        report=report(state, {node.name: node.state for node in nodes}, datetime.now(UTC)),
    )


def _ports(there: ServedPorts | None) -> tuple[PortStatus, ...]:
    if there is None:
        return ()
    return tuple(
        PortStatus(one.address, one.host_port, one.node, one.port, there.is_current)
        for one in there.ports
    )


def describe_impostor(name: str) -> str:
    """The warning for a VM that has a cluster's mark but is not one of its nodes."""
    return f"the VM {name} has this cluster's mark, but is not one of its nodes: it is left alone"


def find_disk_problems(state: ClusterState, disks: DiskManager) -> Mapping[str, tuple[str, ...]]:
    """The faults of each node's disk and image, for nodes that have any."""
    problems = {}
    for one in state.nodes:
        if found := disks.find_problems(one.disk, disks.storage.base(one.image_digest)):
            problems[one.name] = found
    return problems


def find_version(kind: ClusterKind, state: ClusterState, images: ImagePaths) -> str | None:
    """That of the software in the controller's image; None where that is gone, or silent."""
    if (controller := state.find_controller()) is None:
        return None
    try:
        return kind.version_in(read_manifest(images.image(controller.image_digest) / MANIFEST))
    except ImageError:
        return None


def _has_uplink(state: ClusterState, seen: Observed) -> bool:
    faults = seen.known_faults
    is_up = bool(seen.network and seen.network.is_active)
    return is_up and state.network.uplink and not (faults.uplink_trouble or faults.outside_trouble)


def _node_status(
    one: NodeState,
    seen: Observed,
    stats: DomainStats | None,
    problems: tuple[str, ...],
    file_systems: tuple[FileSystem, ...],
    kind: str,
) -> NodeStatus:
    domain = seen.find_domain(one.uuid)
    readiness = _readiness_of(one, seen)
    missing = one.name not in seen.disks
    state, reason = _vm_state(domain, seen)
    memory = _guest_memory(stats)
    return NodeStatus(
        name=one.name,
        role=one.role,
        domain=one.domain_name,
        state=state,
        reason=f"{reason}, its disk is missing" if missing else reason,
        ip=one.ip,
        vcpus=one.cpu_cores,
        memory_mib=one.memory_mib,
        memory_used_mib=stats.memory_rss_mib if stats else None,
        guest_memory_mib=memory.total_mib if memory else None,
        guest_memory_used_mib=memory.used_mib if memory else None,
        disk_gib=one.disk_gib,
        disk_used_mib=None if missing else used_mib(one.disk),
        agent=bool(domain and domain.is_agent_connected),
        slurm=readiness.state if readiness else None,
        slurm_reason=readiness.reason if readiness else None,
        gpus=_gpus(one, readiness),
        stages_s=one.stages_s,
        file_systems=file_systems,
        problems=(
            *problems,
            *map(str, find_wiring_faults(one.name, seen, kind)),
            *map(str, find_share_faults(one.name, seen, kind)),
            *_clock_problems(one, seen),
            *(str(each) for each in file_systems if each.is_full),
        ),
    )


def _gpus(one: NodeState, readiness: NodeReadiness | None) -> tuple[GpuUse, ...]:
    if readiness is not None:
        return readiness.gpus
    return tuple(GpuUse(kind, count, None) for kind, count in (one.gpus or {}).items())


def _guest_memory(stats: DomainStats | None) -> GuestMemory | None:
    """The guest's memory statistics, unless they are old: a guest that hangs sends no new ones."""
    memory = stats.guest_memory if stats else None
    return memory if memory and abs(time.time() - memory.told_at) < MEMORY_S else None


def _clock_problems(one: NodeState, seen: Observed) -> Iterator[str]:
    if is_off(skew_s := seen.skews_s.get(one.uuid, 0.0)):
        yield f"its clock is {describe_skew(skew_s)}"


def used_mib(disk: Path) -> int | None:
    """MiB allocated, or None if the disk was removed meanwhile."""
    try:
        return disk.stat().st_blocks * 512 // MIB
    except FileNotFoundError:
        return None


def _vm_state(domain: DomainInfo | None, seen: Observed) -> tuple[VmState, str]:
    if domain is not None:
        return domain.state, domain.reason_text
    if seen.host_is_down:
        return VmState.SHUT_OFF, "the embedded host is down"
    return VmState.ABSENT, "not defined"


def _readiness_of(one: NodeState, seen: Observed) -> NodeReadiness | None:
    return seen.readiness.get(one.name) if seen.readiness else None


def report(state: ClusterState, seen: Mapping[str, VmState], now: datetime) -> Report:
    """Summarise a cluster. `seen` has the VM states by node; a node that is missing is unknown.

    The age is never negative, even if the clock was set back.
    """
    states = {node.name: seen.get(node.name, VmState.UNKNOWN) for node in state.nodes}
    nodes = tuple(
        NodeReport(
            name=node.name,
            role=node.role,
            ip=node.ip,
            state=states[node.name],
        )
        for node in state.nodes
    )
    on = [node for node in state.nodes if states[node.name].is_on]
    existing = [node for node in state.nodes if states[node.name] is not VmState.ABSENT]
    return Report(
        name=state.name,
        nodes=nodes,
        counts=dict(Counter(states.values())),
        total=_sum(state.nodes, state.nodes),
        in_use=_sum(on, existing),
        age_s=max(0.0, (now - state.created_at).total_seconds()),
    )


def _sum(on: Iterable[NodeState], existing: Iterable[NodeState]) -> Resources:
    powered = tuple(on)
    return Resources(
        cpu_cores=sum(node.cpu_cores for node in powered),
        memory_mib=sum(node.memory_mib for node in powered),
        disk_gib=sum(node.disk_gib for node in existing),
    )
