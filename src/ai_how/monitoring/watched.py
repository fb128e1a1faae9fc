"""What a collector is told of the cluster that it watches, and what its kind adds to that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ai_how.host.place import HypervisorHost, resolve_host, storage_of
from ai_how.monitoring.model import Finding, SlurmSample, Snapshot
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths, Roots
from ai_how.waiting import Deadline

if TYPE_CHECKING:  # it loads far more than a collector needs
    from ai_how.clusters.known_cluster import KnownCluster
    from ai_how.guest.agent import GuestAgent


Judge = Callable[[Snapshot], tuple[Finding, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNeeds:
    """What is looked at in a node, besides what every guest has."""

    services: tuple[str, ...] = ()
    """Units of systemd without `.service`."""
    home: str = ""
    """Where the shared home should be mounted; empty if the node has none."""
    job_cgroups: str = ""
    """A pattern below /sys/fs/cgroup, of one directory for each job. Its name ends in the job's
    number, after a `_`.
    """


class WorkloadSource(Protocol):
    """The software of a cluster as a source. It is asked by one thread at a time."""

    name: str
    """The name of the source: `slurm`."""

    def head_of(self, state: ClusterState) -> NodeState | None:
        """The node whose agent is asked."""

    def needs_of(self, state: ClusterState, node: NodeState) -> NodeNeeds:
        """What a node needs."""

    def look(self, agent: "GuestAgent", deadline: Deadline) -> SlurmSample:
        """Ask the software by that node's agent. Raises AiHowError if there is no answer."""


@runtime_checkable
class Monitored(Protocol):
    """A kind of cluster (`ClusterKind`) whose software can be watched."""

    def workload_source(self) -> WorkloadSource:
        """A new source."""


class NamedKind(Protocol):
    """What every `ClusterKind` has."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One cluster, by its name, for a collector."""

    name: str
    kind: str
    roots: Roots
    new_workload: Callable[[], WorkloadSource] | None = None
    """Makes the source of its software; None if nothing is known of that."""
    new_judge: Callable[[], Judge] = lambda: lambda _snapshot: ()
    """Makes what finds out what is wrong; nothing is, unless it is given."""

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.name)

    def find_state(self) -> ClusterState | None:
        """The state; None if there is no such cluster. Raises StateError if it is damaged."""
        return read_state(self.paths)

    def place(self, state: ClusterState) -> HypervisorHost:
        """The host of its VMs."""
        kept = storage_of(state.nodes[0].disk) if state.nodes else None
        return resolve_host(state.host_uri, self.roots, kept=kept)


def watched_of(cluster: "KnownCluster", *, is_single: bool = False) -> Watched:
    """What a collector is told of a cluster. `is_single` is for one look without a past."""
    return watched_as(cluster.kind, cluster.name, cluster.roots, is_single=is_single)


def watched_as(kind: "NamedKind", name: str, roots: Roots, *, is_single: bool = False) -> Watched:
    """The same, without the rest of a manager."""
    from ai_how.monitoring.health import judge_of  # noqa: PLC0415  it has the rules

    known: object = kind
    return Watched(
        name=name,
        kind=kind.name,
        roots=roots,
        new_workload=known.workload_source if isinstance(known, Monitored) else None,
        new_judge=lambda: judge_of(known, is_single=is_single).judge,
    )
