"""What makes a cluster one of a kind: what runs on its nodes, and what that asks of its plans."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from ai_how.clusters.desired_cluster import DesiredCluster
    from ai_how.clusters.diagnosis.kind import Diagnosis
    from ai_how.clusters.observation import Observed
    from ai_how.clusters.plans.rendering import PlanInputs
    from ai_how.clusters.workload import NodeReadiness, Workload
    from ai_how.images.manifest import Image
    from ai_how.libvirt_client.client import LibvirtClient
    from ai_how.libvirt_client.facts import DomainInfo
    from ai_how.plan.step import Plan, Step
    from ai_how.spec.models import AccessSpec, ClusterFile, HardwareSpec, NetworkSpec, StartSpec
    from ai_how.spec.nodes import Node
    from ai_how.state.models import ClusterState
    from ai_how.state.paths import ClusterPaths
    from ai_how.vm_management.context import PlanContext


class ClusterSection(Protocol):
    """The part of a cluster file that one cluster is made from."""

    @property
    def name(self) -> str: ...
    @property
    def network(self) -> "NetworkSpec": ...
    @property
    def hardware(self) -> "HardwareSpec": ...
    @property
    def access(self) -> "AccessSpec": ...
    @property
    def start(self) -> "StartSpec": ...


class ClusterKind(Protocol):
    """A kind of cluster: what `clusters/` asks of it, which knows no kind by name.

    What plans is pure: it knows no libvirt. Its steps keep the promises of `plan.step.Step`.
    """

    name: str
    """In states, journals and the marks of VMs, so it never changes; the group of its verbs, too.

    Hints say `ai-how NAME start`.
    """

    @property
    def step_types(self) -> Mapping[str, type["Step"]]:
        """Every step that its journals may hold, by the word there."""

    @property
    def diagnosis(self) -> "Diagnosis":
        """How the nodes of a start that failed are asked, and what their answers mean."""

    def section_of(self, file: "ClusterFile") -> ClusterSection:
        """Raises SpecError where the file has no cluster of this kind."""

    def nodes_of(self, section: ClusterSection) -> tuple["Node", ...]:
        """The nodes that are asked for, in their order."""

    def home_of(self, section: ClusterSection) -> str:
        """What /home is, which no start changes later; empty where the kind has no such thing."""

    def check_image(self, image: "Image") -> None:
        """Raises HostError where nodes of this kind cannot boot the image."""

    def plan_start(
        self,
        desired: "DesiredCluster",
        seen: "Observed",
        inputs: "PlanInputs",
        *,
        only: Collection[str],
        tell_all: bool,
        stale: Collection[str],
        boot_limit: int | None,
    ) -> "Plan":
        """What brings the cluster, or `only` these nodes, up; empty where it is.

        With `tell_all` nodes that run are told anew who is in the cluster. `stale` nodes are
        defined in another way than they would be now. At most `boot_limit` boot at once.
        """

    def plan_stop(
        self, state: "ClusterState", seen: "Observed", *, only: Collection[str] = ()
    ) -> "Plan":
        """What turns the cluster, or `only` these nodes, off."""

    def plan_suspend(self, state: "ClusterState", seen: "Observed") -> "Plan":
        """What saves the memory of all nodes. Raises HostError where one cannot be suspended."""

    def build_archives(
        self, desired: "DesiredCluster", paths: "ClusterPaths", *, has_host_clock: bool
    ) -> Mapping[str, Callable[[], bytes]]:
        """For each node a call that makes what its guest agent unpacks; secrets are read then."""

    def config_digest(self, desired: "DesiredCluster") -> str:
        """SHA-256 of what all nodes are told of the cluster: another one is told to all again."""

    def ensure_secrets(self, state: "ClusterState", paths: "ClusterPaths") -> None:
        """Have the keys of the cluster; ones that are there are kept."""

    def find_lost_secrets(
        self, previous: "ClusterState | None", paths: "ClusterPaths"
    ) -> tuple[str, ...]:
        """Which keys of a cluster that was up are gone, in words."""

    def observe_workload(
        self, client: "LibvirtClient", state: "ClusterState", domains: Mapping[UUID, "DomainInfo"]
    ) -> "Workload":
        """Ask the cluster's software; takes half a minute at most, and raises nothing."""

    def is_ready(self, state: "ClusterState", readiness: Mapping[str, "NodeReadiness"]) -> bool:
        """Whether every node that a start brings up does its work.

        `readiness` is what the cluster's software says of its nodes, by name.
        """

    def wait_for_jobs(
        self,
        context: "PlanContext",
        state: "ClusterState",
        seen: "Observed",
        only: Collection[str],
        limit_s: float,
    ) -> None:
        """Take no new jobs on the nodes that will be stopped, and wait so long for those there.

        Raises InterruptedRunError on a wish to stop; then nodes take jobs again.
        """
