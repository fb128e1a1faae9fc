"""The step that makes a vGPU for a VM."""

from dataclasses import dataclass
from typing import ClassVar, TypeVar
from uuid import UUID

from ai_how.plan.step import Applied
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.lending import DeviceKeeper
from ai_how.vm_management.steps.subjects import DomainStep
from ai_how.vm_management.vgpus import Vgpu, VgpuMaker

_Keeper = TypeVar("_Keeper", bound=DeviceKeeper)


@dataclass(frozen=True, slots=True)
class MakeVgpu(DomainStep):
    """Make the vGPU that a VM boots with; one that root has made by hand is kept.

    Undo, which comes after the VM is off, removes it.
    """

    kind: ClassVar[str] = "vgpu"
    uuid: UUID
    vgpu: Vgpu
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        is_ours = keeper_of(context, VgpuMaker).make(
            self.vgpu,
            self.uuid,
            owner=context.cluster_id,
            cluster=context.paths.name,
            kind=context.cluster_kind,
            node=context.node_of(self.domain),
        )
        return Applied.MADE if is_ours else Applied.KEPT

    def revert(self, context: PlanContext) -> None:
        remove_vgpus(context, self.domain)

    def describe(self) -> str:
        what = f"a vGPU of type {self.vgpu.type} on {self.vgpu.parent}"
        return f"make {what} for the VM {self.domain}"


def keeper_of(context: PlanContext, kind: type[_Keeper]) -> _Keeper:
    """What lends devices, or makes vGPUs, in a plan."""
    return kind(
        leases=context.paths.leases,
        client=context.client,
        machine=context.machine,
        warn=context.warn,
        rebind_s=context.timeouts.rebind_s,
    )


def remove_vgpus(context: PlanContext, domain: str) -> None:
    """Remove what was made for a node."""
    maker = keeper_of(context, VgpuMaker)
    for lease in maker.leases_of(context.cluster_id, context.node_of(domain)):
        maker.remove(lease)
