"""What `hpc status` says: asked of libvirt, the disks and SLURM, beside what is remembered."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from uuid import UUID

from ai_how.guest.slurm_config import SlurmSeen
from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NodeState, VmState
from ai_how.state.report import Report, report
from ai_how.vm_management.observed import Observed
from ai_how.vm_management.seen import DomainSeen, DomainStats

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node; figures that are not known are None."""

    name: str
    role: Role
    domain: str
    state: VmState
    reason: str
    ip: IPv4Address
    vcpus: int
    memory_mib: int
    memory_used_mib: int | None
    disk_gib: int
    disk_used_mib: int | None
    agent: bool
    slurm: str | None
    slurm_reason: str | None
    stages_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The whole cluster as it is now."""

    name: str
    host: str
    network: str
    subnet: str
    network_is_active: bool
    slurm_trouble: str | None
    is_ready: bool
    nodes: tuple[NodeStatus, ...]
    report: Report


def status_of(
    state: ClusterState, seen: Observed, stats: Mapping[UUID, DomainStats]
) -> ClusterStatus:
    """Put together what was seen (pure)."""
    nodes = tuple(_node_status(one, seen, stats.get(one.uuid)) for one in state.nodes)
    return ClusterStatus(
        name=state.name,
        host=state.host_uri,
        network=state.network.bridge,
        subnet=str(state.network.subnet),
        network_is_active=bool(seen.network and seen.network.is_active),
        slurm_trouble=seen.slurm_trouble,
        is_ready=_is_ready(state, seen),
        nodes=nodes,
        report=report(state, {node.name: node.state for node in nodes}, datetime.now(UTC)),
    )


def _is_ready(state: ClusterState, seen: Observed) -> bool:
    if seen.slurm is None:
        return False
    wanted = [one for one in state.nodes if one.role is Role.COMPUTE and one.auto_start]
    return all((node := seen.slurm.get(one.name)) and node.is_working for one in wanted)


def _node_status(one: NodeState, seen: Observed, stats: DomainStats | None) -> NodeStatus:
    domain = seen.find_domain(one.uuid)
    slurm = _slurm_of(one, seen)
    missing = one.name not in seen.disks
    state, reason = _vm_state(domain, seen)
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
        disk_gib=one.disk_gib,
        disk_used_mib=None if missing else one.disk.stat().st_blocks * 512 // MIB,
        agent=bool(domain and domain.is_agent_connected),
        slurm=slurm.state if slurm else None,
        slurm_reason=slurm.reason if slurm else None,
        stages_s=one.stages_s,
    )


def _vm_state(domain: DomainSeen | None, seen: Observed) -> tuple[VmState, str]:
    if domain is not None:
        return domain.state, domain.reason_text
    if seen.host_is_down:
        return VmState.SHUT_OFF, "the embedded host is down"
    return VmState.ABSENT, "not defined"


def _slurm_of(one: NodeState, seen: Observed) -> SlurmSeen | None:
    return seen.slurm.get(one.name) if seen.slurm else None
