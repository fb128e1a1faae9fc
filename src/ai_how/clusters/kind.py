"""The protocol of a kind of cluster: what runs on its nodes, and what its plans need for that."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from ai_how.clusters.desired_cluster import DesiredCluster
    from ai_how.clusters.diagnosis.kind import Diagnosis
    from ai_how.clusters.observation import Observed
    from ai_how.clusters.plans.rendering import PlanInputs
    from ai_how.clusters.workload import NodeReadiness, Workload
    from ai_how.images.manifest import Image, Manifest
    from ai_how.libvirt_client.client import LibvirtClient
    from ai_how.libvirt_client.facts import DomainInfo
    from ai_how.plan.step import Plan, Step
    from ai_how.spec.expose import ExposedPort
    from ai_how.spec.models import (
        AccessSpec,
        ClusterFile,
        HardwareSpec,
        MonitoringSpec,
        NetworkSpec,
        StartSpec,
    )
    from ai_how.spec.nodes import Node
    from ai_how.spec.roles import Role
    from ai_how.state.models import ClusterState
    from ai_how.state.paths import ClusterPaths
    from ai_how.vm_management.context import PlanContext


class ClusterSection(Protocol):
    """The section of a cluster file that describes one cluster."""

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
    @property
    def expose(self) -> "tuple[ExposedPort, ...]": ...
    @property
    def monitoring(self) -> "MonitoringSpec": ...


class ClusterKind(Protocol):
    """A kind of cluster. `clusters/` uses this protocol, and knows no kind by name.

    The methods that plan are pure, and do not use libvirt. Steps fulfil `plan.step.Step`.
    """

    name: str
    """The name in states, journals and marks of VMs; it never changes.

    It is also the group of its verbs: hints say `ai-how NAME start`.
    """

    collector: str
    """The module that runs as the program which watches a cluster (`clusters/collecting.py`).

    Empty if clusters of this kind are not watched.
    """

    @property
    def step_types(self) -> Mapping[str, type["Step"]]:
        """Every step that its journals may contain, by its kind."""

    @property
    def diagnosis(self) -> "Diagnosis":
        """How a failed start is diagnosed."""

    def section_of(self, file: "ClusterFile") -> ClusterSection:
        """The section of this kind. Raises SpecError if the file has none."""

    def nodes_of(self, section: ClusterSection) -> tuple["Node", ...]:
        """The nodes of the section, in order."""

    def role_of(self, name: str) -> "Role":
        """The role of the node of this name: for a state that is rebuilt from libvirt."""

    def home_of(self, section: ClusterSection) -> str:
        """The type of /home, which cannot change later; empty if this kind has none."""

    def check_image(self, image: "Image") -> None:
        """Raises HostError if nodes of this kind cannot boot the image."""

    def version_in(self, image: "Manifest") -> str | None:
        """The version of the cluster's software in an image; None if it does not say it."""

    def check_software(self, desired: "DesiredCluster") -> tuple[str, ...]:
        """What the software of the nodes cannot use, a line for each.

        Raises HostError where what is in the images of the nodes does not go together.
        """

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
        """The steps that start the cluster, or `only` these nodes; empty if it is up.

        With `tell_all`, nodes that run or resume get the cluster's configuration again; without, a
        kind tells those that are `is_untold`. `stale` nodes are defined differently from what the
        spec asks for now. At most `boot_limit` nodes boot at the same time.
        """

    def plan_stop(
        self, state: "ClusterState", seen: "Observed", *, only: Collection[str] = ()
    ) -> "Plan":
        """The steps that stop the cluster, or `only` these nodes."""

    def build_archives(
        self, desired: "DesiredCluster", paths: "ClusterPaths", *, has_host_clock: bool
    ) -> Mapping[str, Callable[[], bytes]]:
        """For each node, a function that builds its identity archive; it reads the secrets."""

    def config_digest(self, desired: "DesiredCluster") -> str:
        """SHA-256 of the configuration that all nodes get. If it changes, all get it again."""

    def ensure_secrets(self, state: "ClusterState", paths: "ClusterPaths") -> None:
        """Create the keys of the cluster. Existing keys are kept."""

    def find_lost_secrets(
        self, previous: "ClusterState | None", paths: "ClusterPaths"
    ) -> tuple[str, ...]:
        """Descriptions of the keys that are missing from a cluster that was up."""

    def observe_workload(
        self, client: "LibvirtClient", state: "ClusterState", domains: Mapping[UUID, "DomainInfo"]
    ) -> "Workload":
        """Ask the cluster's software. Takes at most half a minute, and raises nothing."""

    def is_ready(self, state: "ClusterState", readiness: Mapping[str, "NodeReadiness"]) -> bool:
        """Whether every node that a start brings up is working.

        `readiness` is what the cluster's software reports of its nodes, by name.
        """

    def wait_for_jobs(
        self,
        context: "PlanContext",
        state: "ClusterState",
        seen: "Observed",
        only: Collection[str],
        limit_s: float,
    ) -> None:
        """Keep new jobs from the nodes that will be stopped; wait up to `limit_s` for running jobs.

        Raises InterruptedRunError if the run is interrupted; the nodes then accept jobs again.
        """
