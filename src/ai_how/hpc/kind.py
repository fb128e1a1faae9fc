"""The SLURM cluster as a `ClusterKind`."""

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
    from ai_how.clusters.desired_cluster import DesiredCluster
    from ai_how.clusters.observation import Observed
    from ai_how.clusters.plans.rendering import PlanInputs
    from ai_how.hpc.causes import SlurmDiagnosis
    from ai_how.hpc.slurm_source import SlurmSource
    from ai_how.images.manifest import Image, Manifest
    from ai_how.libvirt_client.client import LibvirtClient
    from ai_how.monitoring.health import KindHealth
    from ai_how.plan.step import Plan, Step
    from ai_how.spec.models import ClusterFile, HpcSpec
    from ai_how.spec.nodes import Node
    from ai_how.vm_management.context import PlanContext


class SlurmCluster:
    """A controller with slurmctld and /home, and compute nodes with slurmd."""

    name = "hpc"
    collector = "ai_how.hpc.collecting"

    @property
    def step_types(self) -> "Mapping[str, type[Step]]":
        from ai_how.hpc.plan import STEP_TYPES

        return STEP_TYPES

    @property
    def diagnosis(self) -> "SlurmDiagnosis":
        from ai_how.hpc.causes import SlurmDiagnosis

        return SlurmDiagnosis()

    def health(self, *, heals: bool = False) -> "KindHealth":
        """The rules of SLURM, for whoever watches the cluster (`monitoring.health.Judged`)."""
        from ai_how.hpc.catalogue import CATALOGUE
        from ai_how.hpc.health import RULES
        from ai_how.monitoring.health import KindHealth

        if not heals:
            return KindHealth(RULES, CATALOGUE)
        from ai_how.hpc.healing import MENDS

        return KindHealth(RULES, CATALOGUE, MENDS)

    def section_of(self, file: "ClusterFile") -> "HpcSpec":
        from ai_how.spec.nodes import get_hpc

        return get_hpc(file)

    def nodes_of(self, section: ClusterSection) -> "tuple[Node, ...]":
        from ai_how.hpc.section import hpc_of
        from ai_how.spec.nodes import nodes_of

        return nodes_of(hpc_of(section))

    def role_of(self, name: str) -> Role:
        return Role.CONTROLLER if name == Role.CONTROLLER else Role.COMPUTE

    def home_of(self, section: ClusterSection) -> str:
        from ai_how.hpc.section import hpc_of

        return hpc_of(section).storage.home

    def check_image(self, image: "Image") -> None:
        if image.manifest.identity != "agent":
            raise HostError(
                f"the image {image.name} cannot be used for the nodes of a cluster",
                details="It has no SLURM, and ai-how cannot configure it through its guest agent.",
                hint="remove base_image_path to use the built-in image",
            )

    def version_in(self, image: "Manifest") -> str | None:
        return image.slurm_version

    def check_software(self, desired: "DesiredCluster") -> tuple[str, ...]:
        from ai_how.hpc.nvml import check_nvml
        from ai_how.hpc.real_gpus import check_mig, describe_foreign
        from ai_how.hpc.versions import check_versions

        check_versions(desired)
        check_nvml(desired)
        check_mig(desired)
        return tuple(describe_foreign(desired))

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
        from ai_how.hpc.plan import plan_start

        return plan_start(
            desired,
            seen,
            inputs,
            only=only,
            tell_all=tell_all,
            stale=stale,
            boot_limit=boot_limit,
        )

    def plan_stop(
        self, state: ClusterState, seen: "Observed", *, only: Collection[str] = ()
    ) -> "Plan":
        from ai_how.hpc.stop_plan import plan_stop

        return plan_stop(state, seen, only=only)

    def build_archives(
        self, desired: "DesiredCluster", paths: ClusterPaths, *, has_host_clock: bool
    ) -> Mapping[str, Callable[[], bytes]]:
        from ai_how.hpc.identities import build_archives

        return build_archives(desired, paths, has_host_clock=has_host_clock)

    def config_digest(self, desired: "DesiredCluster") -> str:
        from ai_how.hpc.identities import config_digest

        return config_digest(desired)

    def ensure_secrets(self, state: ClusterState, paths: ClusterPaths) -> None:
        from ai_how.hpc.identities import ensure_secrets

        ensure_secrets(state, paths)

    def find_lost_secrets(
        self, previous: ClusterState | None, paths: ClusterPaths
    ) -> tuple[str, ...]:
        from ai_how.hpc.identities import find_lost_secrets

        return find_lost_secrets(previous, paths)

    def observe_workload(
        self, client: "LibvirtClient", state: ClusterState, domains: Mapping[UUID, DomainInfo]
    ) -> Workload:
        from ai_how.hpc.workload import observe_workload

        return observe_workload(client, state, domains)

    def workload_source(self) -> "SlurmSource":
        """SLURM as a source of the monitoring (`monitoring.watched.Monitored`)."""
        from ai_how.hpc.slurm_source import SlurmSource

        return SlurmSource()

    def is_ready(self, state: ClusterState, readiness: Mapping[str, NodeReadiness]) -> bool:
        """Whether SLURM can use all compute nodes except those with auto_start: false."""
        wanted = [one for one in state.nodes if one.role is Role.COMPUTE and one.auto_start]
        return all((node := readiness.get(one.name)) and node.is_working for one in wanted)

    def wait_for_jobs(
        self,
        context: "PlanContext",
        state: ClusterState,
        seen: "Observed",
        only: Collection[str],
        limit_s: float,
    ) -> None:
        from ai_how.hpc.steps import wait_for_jobs
        from ai_how.hpc.stop_plan import find_drained

        controller = state.find_controller()
        nodes = [
            one.name
            for one in state.nodes
            if one.name in (seen.readiness or {})
            and seen.is_on(one)
            and (not only or one.name in only)
        ]
        if controller is not None and nodes:
            drained = find_drained(state, seen)
            wait_for_jobs(context, controller.uuid, nodes, drained, limit_s)


SLURM = SlurmCluster()
