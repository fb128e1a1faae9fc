"""A cluster in figures: what is remembered of it beside what libvirt says of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address

from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NodeState, VmState


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node: `uptime_s` is None unless it is on and its start is known."""

    name: str
    role: Role
    ip: IPv4Address
    state: VmState
    uptime_s: float | None


@dataclass(frozen=True, slots=True)
class Resources:
    """A sum over nodes."""

    cpu_cores: int
    memory_mib: int
    disk_gib: int


@dataclass(frozen=True, slots=True)
class Report:
    """One cluster. `in_use` counts the vCPUs and memory of what is on, the disks of what exists."""

    name: str
    nodes: tuple[NodeReport, ...]
    counts: Mapping[VmState, int]
    """Only states that occur."""
    total: Resources
    in_use: Resources
    uptime_s: float | None
    """Since the last of them went on; None unless all are on and their starts known."""
    age_s: float


def report(
    state: ClusterState,
    seen: Mapping[str, VmState],
    now: datetime,
    *,
    started_at: Mapping[str, datetime] | None = None,
) -> Report:
    """What the cluster holds; `seen` and `started_at` go by node, one not in `seen` is unknown."""
    starts = started_at or {}
    states = {node.name: seen.get(node.name, VmState.UNKNOWN) for node in state.nodes}
    nodes = tuple(
        NodeReport(
            name=node.name,
            role=node.role,
            ip=node.ip,
            state=states[node.name],
            uptime_s=_seconds(starts.get(node.name), now) if states[node.name].is_on else None,
        )
        for node in state.nodes
    )
    on = [node for node in state.nodes if states[node.name].is_on]
    existing = [node for node in state.nodes if states[node.name] is not VmState.ABSENT]
    uptimes_s = [node.uptime_s for node in nodes if node.uptime_s is not None]
    return Report(
        name=state.name,
        nodes=nodes,
        counts=dict(Counter(states.values())),
        total=_sum(state.nodes, state.nodes),
        in_use=_sum(on, existing),
        uptime_s=min(uptimes_s) if nodes and len(uptimes_s) == len(nodes) else None,
        age_s=max(0.0, (now - state.created_at).total_seconds()),
    )


def _seconds(since: datetime | None, now: datetime) -> float | None:
    """Never below zero: a wall clock may have been set back."""
    return None if since is None else max(0.0, (now - since).total_seconds())


def _sum(on: Iterable[NodeState], existing: Iterable[NodeState]) -> Resources:
    powered = tuple(on)
    return Resources(
        cpu_cores=sum(node.cpu_cores for node in powered),
        memory_mib=sum(node.memory_mib for node in powered),
        disk_gib=sum(node.disk_gib for node in existing),
    )
