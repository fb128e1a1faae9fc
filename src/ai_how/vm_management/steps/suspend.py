"""The steps that suspend a cluster to disk with its jobs, and resume it."""

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from ai_how.errors import ConnectionLostError, HostError
from ai_how.guest.serial_log import prepare_log
from ai_how.plan.step import Applied, ForwardStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.saved_machines.save_file import memory_timeout_s
from ai_how.vm_management.steps.domains import StartDomain
from ai_how.vm_management.steps.subjects import DomainStep


@dataclass(frozen=True, slots=True)
class SuspendDomain(ForwardStep, DomainStep):
    """Suspend a VM: save its memory by libvirt's managed save, which ends it."""

    kind: ClassVar[str] = "suspend"
    uuid: UUID
    memory_mib: int
    needs: frozenset[str] = frozenset()

    @property
    def stage(self) -> str:
        return "suspending"

    def apply(self, context: PlanContext) -> Applied:
        context.client.managed_save(self.uuid, timeout_s=memory_timeout_s(self.memory_mib))
        return Applied.MADE

    def describe(self) -> str:
        return f"save the memory of the VM {self.domain}, and turn it off"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFromManagedSave(StartDomain):
    """Resume a VM from its managed save; undo suspends it again, with its jobs."""

    kind: ClassVar[str] = "resume"
    node: str
    memory_mib: int

    @property
    def stage(self) -> str:
        return "resuming"

    def apply(self, context: PlanContext) -> Applied:
        try:
            timeout_s = memory_timeout_s(self.memory_mib)
            prepare_log(context.paths, self.node)
            context.client.start_domain(self.uuid, timeout_s=timeout_s)
        except ConnectionLostError:
            raise
        except HostError as error:
            raise HostError(
                f"{self.node} cannot resume from its saved memory",
                details=str(error),
                hint=f"ai-how {context.cluster_kind} start --no-warm"
                "  # boots it anew: the jobs that it ran are lost",
            ) from error
        if context.client.get_domain(self.uuid).was_booted:
            context.warn(
                f"{self.node} boots: its saved memory was incomplete, and its jobs are lost"
            )
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        timeout_s = memory_timeout_s(self.memory_mib)
        context.client.managed_save(self.uuid, timeout_s=timeout_s)

    def describe(self) -> str:
        return f"resume the VM {self.domain} from its saved memory"
