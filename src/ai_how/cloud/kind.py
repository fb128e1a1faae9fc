"""The Kubernetes cluster as a `ClusterKind`."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from ai_how.clusters.kind import ClusterSection
from ai_how.clusters.workload import NodeReadiness, Workload
from ai_how.errors import HostError
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths

# Imported late, to keep read-only verbs (status, ssh, logs) fast.
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from ai_how.cloud.causes import KubernetesDiagnosis
    from ai_how.clusters.desired_cluster import DesiredCluster
    from ai_how.clusters.observation import Observed
    from ai_how.clusters.plans.rendering import PlanInputs
    from ai_how.images.manifest import Image, Manifest
    from ai_how.libvirt_client.client import LibvirtClient
    from ai_how.plan.step import Plan, Step
    from ai_how.spec.models import CloudSpec, ClusterFile
    from ai_how.spec.nodes import Node
    from ai_how.vm_management.context import PlanContext


class KubernetesCluster:
    """One or three control planes with etcd and the API, and workers with a kubelet."""

    name = "cloud"
    collector = ""

    @property
    def step_types(self) -> "Mapping[str, type[Step]]":
        from ai_how.cloud.plan import STEP_TYPES

        return STEP_TYPES

    @property
    def diagnosis(self) -> "KubernetesDiagnosis":
        from ai_how.cloud.causes import KubernetesDiagnosis

        return KubernetesDiagnosis()

    def section_of(self, file: "ClusterFile") -> "CloudSpec":
        from ai_how.spec.cloud_nodes import get_cloud

        return get_cloud(file)

    def nodes_of(self, section: ClusterSection) -> "tuple[Node, ...]":
        from ai_how.cloud.section import cloud_of
        from ai_how.spec.cloud_nodes import nodes_of_cloud

        return nodes_of_cloud(cloud_of(section))

    def role_of(self, name: str) -> Role:
        from ai_how.spec.cloud_nodes import is_control_plane

        return Role.CONTROLLER if is_control_plane(name) else Role.COMPUTE

    def home_of(self, section: ClusterSection) -> str:  # noqa: ARG002  of the protocol
        return ""

    def check_image(self, image: "Image") -> None:
        if image.manifest.kubernetes_version is None:
            raise HostError(
                f"the image {image.name} cannot be used for the nodes of a Kubernetes cluster",
                details="It has no Kubernetes.",
                hint="remove base_image_path, or make the image `from: kubernetes`",
            )

    def version_in(self, image: "Manifest") -> str | None:
        return image.kubernetes_version

    def check_software(self, desired: "DesiredCluster") -> tuple[str, ...]:
        from ai_how.cloud.version_checks import check_versions

        return check_versions(desired)

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
        from ai_how.cloud.identities import CloudObjects, facts_of
        from ai_how.cloud.plan import plan_start

        return plan_start(
            desired,
            seen,
            inputs,
            CloudObjects(facts_of(desired)),
            only=only,
            tell_all=tell_all,
            stale=stale,
            boot_limit=boot_limit,
        )

    def plan_stop(
        self, state: ClusterState, seen: "Observed", *, only: Collection[str] = ()
    ) -> "Plan":
        from ai_how.cloud.stop_plan import plan_stop

        return plan_stop(state, seen, only=only)

    def build_archives(
        self, desired: "DesiredCluster", paths: ClusterPaths, *, has_host_clock: bool
    ) -> Mapping[str, Callable[[], bytes]]:
        from ai_how.cloud.identities import build_archives

        return build_archives(desired, paths, has_host_clock=has_host_clock)

    def config_digest(self, desired: "DesiredCluster") -> str:
        from ai_how.cloud.identities import config_digest

        return config_digest(desired)

    def ensure_secrets(self, state: ClusterState, paths: ClusterPaths) -> None:
        from ai_how.cloud.identities import ensure_secrets

        ensure_secrets(state, paths)

    def find_lost_secrets(
        self, previous: ClusterState | None, paths: ClusterPaths
    ) -> tuple[str, ...]:
        from ai_how.cloud.identities import find_lost_secrets

        return find_lost_secrets(previous, paths)

    def observe_workload(
        self, client: "LibvirtClient", state: ClusterState, domains: Mapping[UUID, DomainInfo]
    ) -> Workload:
        from ai_how.cloud.workload import observe_workload

        return observe_workload(client, state, domains)

    def is_ready(self, state: ClusterState, readiness: Mapping[str, NodeReadiness]) -> bool:
        """Whether all nodes except those with auto_start: false are Ready, and take Pods."""
        wanted = [one for one in state.nodes if one.auto_start]
        return all((node := readiness.get(one.name)) and node.is_working for one in wanted)

    def wait_for_jobs(
        self,
        context: "PlanContext",
        state: ClusterState,
        seen: "Observed",
        only: Collection[str],
        limit_s: float,
    ) -> None:
        from ai_how.cloud.steps import wait_for_jobs

        planes = [one for one in state.nodes if one.role is Role.CONTROLLER and seen.is_on(one)]
        names = [
            one.name for one in state.nodes if seen.is_on(one) and (not only or one.name in only)
        ]
        if planes and names:
            wait_for_jobs(context, planes[0].name, planes[0].uuid, names, limit_s)


KUBERNETES = KubernetesCluster()
