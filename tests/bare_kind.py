"""A second kind of cluster: VMs on a network, with nothing on them. Knows `clusters/` alone.

As a program, `bare_kind.py ROOT`, it serves the verbs of tiny_cluster.py with this kind in the
place of SLURM.
"""

import hashlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.diagnosis.kind import Cause, NodeAnswer
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.clusters.kind import ClusterSection
from ai_how.clusters.manager import ClusterManager
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.devices import plan_returns
from ai_how.clusters.plans.network import plan_network
from ai_how.clusters.plans.nodes import NodeChain, NodePlanner, limit_boots
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.clusters.plans.step_types import step_types
from ai_how.clusters.secrets import ensure_ssh_keys, find_lost_ssh_keys
from ai_how.clusters.workload import NodeReadiness, Workload
from ai_how.errors import GuestError
from ai_how.images.manifest import Image, Manifest
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import Applied, Plan, Step
from ai_how.spec.models import ClusterFile, HpcSpec
from ai_how.spec.nodes import Node, Role, get_hpc, nodes_of
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.steps.power import ShutDownGuest
from ai_how.vm_management.steps.subjects import ClusterStep


@dataclass(frozen=True, slots=True)
class CheckRunning(ClusterStep):
    """All VMs run: the last step of a start."""

    kind: ClassVar[str] = "running"
    uuids: tuple[UUID, ...]
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        for uuid in self.uuids:
            if context.client.get_domain(uuid).state is not VmState.RUNNING:
                raise GuestError(f"a VM of {self.cluster} does not run")
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"look whether all VMs of {self.cluster} run"


class NothingSeen:
    """There is no workload of which something could be known."""

    def find_causes(self, node: NodeEvidence) -> tuple[Cause, ...]:
        return ()

    def is_working(self, node: str) -> bool | None:
        return None


class BareDiagnosis:
    """Its nodes are asked nothing."""

    awaiting = frozenset({CheckRunning.kind})
    request = "true"

    def script(self, *, is_controller: bool, has_input: bool) -> str:
        return "true"

    def read(self, answers: Sequence[NodeAnswer]) -> NothingSeen:
        return NothingSeen()


class BareCluster:
    """Nodes that are all alike: ready as soon as their VM runs."""

    name = "bare"
    collector = ""

    @property
    def step_types(self) -> Mapping[str, type[Step]]:
        return step_types(CheckRunning)

    @property
    def diagnosis(self) -> BareDiagnosis:
        return BareDiagnosis()

    def section_of(self, file: ClusterFile) -> HpcSpec:
        """That of a SLURM cluster stands for one of its own, which no file has."""
        return get_hpc(file)

    def nodes_of(self, section: ClusterSection) -> tuple[Node, ...]:
        assert isinstance(section, HpcSpec)
        return tuple(replace(node, role=Role.COMPUTE) for node in nodes_of(section))

    def role_of(self, name: str) -> Role:
        return Role.COMPUTE

    def home_of(self, section: ClusterSection) -> str:
        return ""

    def check_image(self, image: Image) -> None:
        """Its nodes run no software of ours."""

    def version_in(self, image: Manifest) -> str | None:
        return None

    def check_software(self, desired: DesiredCluster) -> tuple[str, ...]:
        """The same."""
        return ()

    def plan_start(
        self,
        desired: DesiredCluster,
        seen: Observed,
        inputs: PlanInputs,
        *,
        only: Collection[str],
        tell_all: bool,
        stale: Collection[str],
        boot_limit: int | None,
    ) -> Plan:
        network = plan_network(desired.state, seen, inputs.network_xml)
        planner = NodePlanner(desired=desired, seen=seen, inputs=inputs, network=network)
        made: list[Step] = [*network.steps, *network.plugs.values()]
        last = frozenset[str]()
        for node, one in desired.nodes:
            is_wanted = one.auto_start if not only else one.name in only
            if inputs.resumes and seen.has_managed_save(one):
                chain = planner.resume(one) if is_wanted else NodeChain()
            else:
                chain = planner.boot(
                    node,
                    one,
                    is_wanted=is_wanted,
                    is_working=seen.is_on(one),
                    is_stale=one.name in stale,
                )
            last |= chain.last if chain.comes_up else frozenset()
            made += chain.steps
        made = [*planner.shared.values(), *made]
        if last:
            uuids = tuple(one.uuid for _, one in desired.nodes if not only or one.name in only)
            made.append(CheckRunning(desired.state.name, uuids, last))
        return Plan("start", tuple(made), limit_boots(made, boot_limit))

    def plan_stop(self, state: ClusterState, seen: Observed, *, only: Collection[str] = ()) -> Plan:
        on = [one for one in state.nodes if seen.is_on(one) and (not only or one.name in only)]
        made = [ShutDownGuest(one.domain_name, one.uuid) for one in on]
        return Plan("stop", (*made, *plan_returns(made, seen)))

    def build_archives(
        self, desired: DesiredCluster, paths: ClusterPaths, *, has_host_clock: bool
    ) -> Mapping[str, Callable[[], bytes]]:
        return {}

    def config_digest(self, desired: DesiredCluster) -> str:
        names = repr([one.name for one in desired.state.nodes])
        return hashlib.sha256(names.encode()).hexdigest()

    def ensure_secrets(self, state: ClusterState, paths: ClusterPaths) -> None:
        ensure_ssh_keys(state, paths)

    def find_lost_secrets(
        self, previous: ClusterState | None, paths: ClusterPaths
    ) -> tuple[str, ...]:
        return find_lost_ssh_keys(previous, paths)

    def observe_workload(
        self, client: LibvirtClient, state: ClusterState, domains: Mapping[UUID, DomainInfo]
    ) -> Workload:
        states = {one.name: domains.get(one.uuid) for one in state.nodes}
        return Workload(
            {
                name: NodeReadiness(
                    name,
                    str(seen.state if seen else VmState.ABSENT),
                    None,
                    is_working=seen is not None and seen.state is VmState.RUNNING,
                )
                for name, seen in states.items()
            }
        )

    def is_ready(self, state: ClusterState, readiness: Mapping[str, NodeReadiness]) -> bool:
        return all(readiness[one.name].is_working for one in state.nodes if one.auto_start)

    def wait_for_jobs(
        self,
        context: PlanContext,
        state: ClusterState,
        seen: Observed,
        only: Collection[str],
        limit_s: float,
    ) -> None:
        """There are none."""


BARE = BareCluster()


def main(root: Path) -> None:
    import tiny_cluster  # noqa: PLC0415  it knows SLURM, which the kind itself must not

    tiny_cluster.hpc_manager.HpcManager = partial(ClusterManager, kind=BARE)
    tiny_cluster.serve(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
