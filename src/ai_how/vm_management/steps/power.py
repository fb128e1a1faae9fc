"""The steps that shut down and remove VMs.

They revert nothing: a stop or destroy that was cut short is completed, not undone.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from ai_how.errors import AiHowError, DeadlineError
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import Applied, ForwardStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.steps.subjects import DomainStep
from ai_how.waiting import Deadline, wait_until

ASK_AGAIN_S = 15.0  # a guest loses an ACPI event that arrives before it listens
ASK_S = 30.0  # QEMU delivers an ACPI event at once, unless it hangs


def shut_down(context: PlanContext, domain: str, uuid: UUID) -> bool:
    """Shut a VM down by its agent or by ACPI, and power it off after the deadline.

    Returns whether it shut down by itself. Errors of a request are ignored, for example if QEMU
    hangs or cannot write to its disk: the deadline still applies, so that one guest does not block
    the others.
    """

    def is_off() -> bool:
        info = context.client.find_domain(uuid)
        return info is None or not info.state.is_on

    deadline = Deadline.after(context.timeouts.shutdown_s)
    while not deadline.has_passed:
        info = context.client.find_domain(uuid)
        if info is None or not info.state.is_on:
            return True
        if info.state is VmState.CRASHED:  # the guest cannot react
            break
        _ask(context, domain, info, deadline)
        with suppress(DeadlineError):
            wait_until(is_off, deadline.sooner_of(ASK_AGAIN_S), f"the shutdown of {domain}")
    if is_off():
        return True
    context.client.destroy_domain(uuid)
    context.warn(f"{domain} did not shut down in time and was powered off")
    return False


def _ask(context: PlanContext, domain: str, info: DomainInfo, deadline: Deadline) -> None:
    """Request a shutdown by the agent, or by ACPI if there is none or it fails."""
    with suppress(AiHowError):
        if info.state is VmState.PAUSED:
            context.client.resume_domain(info.uuid)
        if info.is_agent_connected:
            context.agent(info.uuid, domain).shut_down()
            return
    with suppress(AiHowError):
        within_s = max(1.0, deadline.sooner_of(ASK_S).remaining_s)
        context.client.shutdown_domain(info.uuid, timeout_s=within_s)


@dataclass(frozen=True, slots=True)
class ShutDownGuest(ForwardStep, DomainStep):
    """Shut a VM down, or power it off after the deadline.

    With `is_backed_up` (its backup follows), a line warns the user if it was powered off.
    """

    kind: ClassVar[str] = "off"
    uuid: UUID
    needs: frozenset[str] = frozenset()
    is_backed_up: bool = False

    def apply(self, context: PlanContext) -> Applied:
        if not shut_down(context, self.domain, self.uuid) and self.is_backed_up:
            context.warn(f"the backup of {self.domain} may lack the writes of its last minute")
        return Applied.MADE

    def describe(self) -> str:
        return f"shut down the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class DestroyDomain(ForwardStep, DomainStep):
    """Destroy and undefine a VM; an absent VM is success. Its disk stays."""

    kind: ClassVar[str] = "undefine"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        context.client.destroy_domain(self.uuid)
        context.client.undefine_domain(self.uuid, snapshots_too=True)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the VM {self.domain}"
