"""The steps that lend devices of the host to a VM, and take them back."""

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from ai_how.plan.step import Applied, ForwardStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.lending import Lender
from ai_how.vm_management.steps.subjects import DomainStep
from ai_how.vm_management.steps.vgpus import keeper_of, remove_vgpus


@dataclass(frozen=True, slots=True)
class LeaseDevices(DomainStep):
    """Note that a VM gets these PCI devices, and which driver each has.

    Undo, which comes after the VM is off, gives them back with these drivers.
    """

    kind: ClassVar[str] = "lease"
    uuid: UUID
    devices: tuple[str, ...]
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        keeper_of(context, Lender).take(
            self.devices,
            self.uuid,
            owner=context.cluster_id,
            cluster=context.paths.name,
            kind=context.cluster_kind,
            node=context.node_of(self.domain),
        )
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        give_back(context, self.domain)

    def describe(self) -> str:
        return f"lend {', '.join(self.devices)} to the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class ReturnDevices(ForwardStep, DomainStep):
    """Give the devices of a VM that is off back to the host, with the drivers that they had.

    A vGPU that was made for it is removed.
    """

    kind: ClassVar[str] = "return"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        give_back(context, self.domain)
        remove_vgpus(context, self.domain)
        return Applied.MADE

    def describe(self) -> str:
        return f"give the devices of the VM {self.domain} back to the host"


def give_back(context: PlanContext, domain: str) -> None:
    """Give back what a node has leased."""
    lender = keeper_of(context, Lender)
    for lease in lender.leases_of(context.cluster_id, context.node_of(domain)):
        lender.give_back(lease)
