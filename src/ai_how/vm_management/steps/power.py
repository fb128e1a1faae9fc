"""The steps that take a cluster down: SLURM first, then guests, then what they were made of.

None has anything to revert: a stop or destroy that was cut short is carried on, not undone.
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

ASK_AGAIN_S = 15.0  # an ACPI event that comes before the guest listens is lost
ASK_S = 30.0  # QEMU passes an ACPI event on at once, unless it hangs


def shut_down(world: PlanContext, domain: str, uuid: UUID) -> bool:
    """Have a VM off: asked first, by its agent and by ACPI, and cut off at the deadline.

    Returns whether it went by itself.

    Where it cannot even be asked, because QEMU hangs or cannot write to the disk, the deadline
    decides: one such guest must not keep the others on.
    """

    def is_off() -> bool:
        seen = world.client.find_domain(uuid)
        return seen is None or not seen.state.is_on

    deadline = Deadline.after(world.timeouts.shutdown_s)
    while not deadline.has_passed:
        seen = world.client.find_domain(uuid)
        if seen is None or not seen.state.is_on:
            return True
        if seen.state is VmState.CRASHED:  # nothing in it would hear us
            break
        _ask(world, domain, seen, deadline)
        with suppress(DeadlineError):
            wait_until(is_off, deadline.sooner_of(ASK_AGAIN_S), f"the end of {domain}")
    if is_off():
        return True
    world.client.destroy_domain(uuid)
    world.warn(f"{domain} did not shut down by itself: its power was cut")
    return False


def _ask(world: PlanContext, domain: str, seen: DomainInfo, deadline: Deadline) -> None:
    """Both ways: an agent may hang, and a guest may not listen to ACPI."""
    with suppress(AiHowError):
        if seen.state is VmState.PAUSED:
            world.client.resume_domain(seen.uuid)
        if seen.is_agent_connected:
            world.agent(seen.uuid, domain).shut_down()
            return
    with suppress(AiHowError):
        within_s = max(1.0, deadline.sooner_of(ASK_S).remaining_s)
        world.client.shutdown_domain(seen.uuid, timeout_s=within_s)


@dataclass(frozen=True, slots=True)
class ShutDownGuest(ForwardStep, DomainStep):
    """A VM that is off: asked first, by its agent and by ACPI, and cut off at the deadline.

    One that is to be backed up then, and had to be cut off, gets a line that says what may lack.
    """

    kind: ClassVar[str] = "off"
    uuid: UUID
    needs: frozenset[str] = frozenset()
    is_backed_up: bool = False

    def apply(self, world: PlanContext) -> Applied:
        if not shut_down(world, self.domain, self.uuid) and self.is_backed_up:
            world.warn(f"the backup of {self.domain} may lack what it wrote in its last minute")
        return Applied.MADE

    def describe(self) -> str:
        return f"shut down the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class DestroyDomain(ForwardStep, DomainStep):
    """No VM of that UUID; absent is success. Its disk is still there."""

    kind: ClassVar[str] = "undefine"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        world.client.destroy_domain(self.uuid)
        world.client.undefine_domain(self.uuid, snapshots_too=True)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the VM {self.domain}"
