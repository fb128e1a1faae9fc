"""Why a cluster, or one of its nodes, is not ready: one first cause, and what else is wrong."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ai_how.clusters.cluster_access import ClusterAccess, client_of
from ai_how.clusters.diagnosis.catalogue import HostCause, MachineCause, Severity
from ai_how.clusters.diagnosis.host_causes import (
    THE_CLUSTER,
    THE_HOST,
    THE_NETWORK,
    find_host_causes,
    find_network_causes,
)
from ai_how.clusters.diagnosis.host_evidence import HostEvidence, look_at_host
from ai_how.clusters.diagnosis.kind import Cause, Rank, WorkloadEvidence
from ai_how.clusters.diagnosis.look import Limits, Look, Looker, tell_missing
from ai_how.clusters.diagnosis.steady_causes import find_causes
from ai_how.guest.serial_log import find_boot
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState, NodeState

LIBVIRT_S = 10.0
LIMITS = Limits(node_s=75, ping_s=10, ask_s=60)
"""All nodes are asked at once, after the controller. One that answers takes some seconds."""
COMMON = (THE_HOST, THE_NETWORK, THE_CLUSTER)
_OF_A_RUN = (HostCause.RUN_UNDER_WAY, HostCause.RUN_CUT_SHORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Why something is not ready, or that it is."""

    cluster: str
    subject: str
    """The cluster, a node, or a job."""
    is_well: bool
    says: str
    """One line: that it is ready, or not, or what a job does."""
    cause: Cause | None
    """None if all is well, or if no evidence shows a cause."""
    also: tuple[Cause, ...] = ()
    """What else is wrong, the worst first."""
    notes: tuple[str, ...] = ()
    """What is good to know, a line each."""
    silent: tuple[str, ...] = ()
    """What did not answer, or could not be read, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that is wrong with a cluster, the first cause first."""

    causes: tuple[Cause, ...]
    workload: WorkloadEvidence | None
    """None if no node was asked."""
    looks: tuple[Look, ...] = ()
    silent: tuple[str, ...] = ()

    def of(self, nodes: Collection[str]) -> "Findings":
        """Only what is wrong with these nodes, and what is common to all."""
        kept = tuple(one for one in self.causes if one.node in nodes or one.node in COMMON)
        return replace(self, causes=kept)


def explain(access: ClusterAccess, node: NodeState | None = None) -> Answer:
    """Why the cluster, or one node, is not ready. Takes no lock, and changes nothing.

    Raises StateError if there is no such cluster, OwnershipError if another's object is in the way.
    """
    state = access.get_state()
    wanted = [one for one in state.nodes if node is None or one.name == node.name]
    found = find_all(access, state, wanted)
    if node is None:
        is_working = all(_is_working(one, found.workload) for one in wanted if one.auto_start)
        return _answer(state.name, state.name, found, is_working=is_working)
    # What is wrong with the controller is also why a node is not ready.
    found = found.of({node.name, *_controllers(state)})
    is_working = _is_working(node, found.workload)
    return _answer(state.name, node.name, found, is_working=is_working)


def find_all(access: ClusterAccess, state: ClusterState, nodes: Iterable[NodeState]) -> Findings:
    """Look at the host, the controller and these nodes, each for a limited time."""
    names = {one.name for one in nodes} | _controllers(state)
    place = access.place()
    with ExitStack() as stack:
        client = None
        if place.is_up:
            client = stack.enter_context(client_of(place, patience_s=LIBVIRT_S))
        host = look_at_host(state, place, access.paths, access.kind, client)
        if client is None or host.observed is None:
            silent = (f"libvirt: {host.libvirt_trouble}",) if host.libvirt_trouble else ()
            causes = tuple(find_host_causes(state, host))
            return Findings(causes=causes, workload=None, silent=silent)
        looker = Looker(
            client=client,
            paths=access.paths,
            place=place,
            diagnosis=access.kind.diagnosis,
            limits=LIMITS,
            reads_journals=False,
            begin_of_console=lambda name: find_boot(access.paths.console_log(name)),
        )
        looks = looker.look_at(one for one in state.nodes if one.name in names)
        found = _combine(access, state, host, looks)
        ill = {one.node for one in found.causes if one.rank > Rank.NETWORK}
        if not any(look.node.name in ill for look in looks):
            return found
        # Only what is wrong with software is told there, and to read it takes as long as all else.
        looker.read_journals([look for look in looks if look.node.name in ill])
    return _combine(access, state, host, looks)


def _combine(
    access: ClusterAccess, state: ClusterState, host: HostEvidence, looks: Sequence[Look]
) -> Findings:
    workload = access.kind.diagnosis.read([one.answer for one in looks if one.answer])
    causes = list(find_host_causes(state, host))
    if host.observed:
        causes += find_network_causes(state, host.observed)
        for look in looks:
            seen = replace(
                look.seen,
                disk_problems=host.disk_problems.get(look.node.name, ()),
                share_problems=tuple(map(str, host.observed.share_faults.get(look.node.name, ()))),
            )
            causes += find_causes(seen, workload)
    if any(one.id in {HostCause.CLUSTER_OFF, HostCause.CLUSTER_SUSPENDED} for one in causes):
        causes = [one for one in causes if one.id != MachineCause.NODE_OFF]
    return Findings(
        causes=tuple(sorted(causes, key=lambda one: one.rank)),
        workload=workload,
        looks=tuple(looks),
        silent=tell_missing(looks),
    )


def _answer(cluster: str, subject: str, found: Findings, *, is_working: bool) -> Answer:
    cause = first_cause(found.causes)
    if cause is None and not is_working:
        # It is not ready, and what is wrong is not critical by itself.
        cause = next(iter(found.causes), None)
    is_well = cause is None and is_working
    also = [one for one in found.causes if one is not cause]
    return Answer(
        cluster=cluster,
        subject=subject,
        is_well=is_well,
        says=f"{subject} is ready" if is_well else f"{subject} is not ready",
        cause=cause,
        also=worst_first(also),
        silent=found.silent,
    )


def first_cause(causes: Iterable[Cause]) -> Cause | None:
    """The first that is critical; but nothing is certain while a run works on the cluster."""
    causes = tuple(causes)
    critical = [one for one in causes if one.severity is Severity.CRITICAL]
    runs = [one for one in causes if one.id in _OF_A_RUN]
    return next(iter(runs if critical and runs else critical), None)


def worst_first(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    """By severity, and then in their order."""
    order = tuple(Severity)
    return tuple(sorted(causes, key=lambda one: order.index(one.severity)))


def _is_working(node: NodeState, workload: WorkloadEvidence | None) -> bool:
    """Whether it is known to work."""
    return bool(workload and workload.is_working(node.name))


def _controllers(state: ClusterState) -> set[str]:
    return {one.name for one in state.nodes if one.role is Role.CONTROLLER}
