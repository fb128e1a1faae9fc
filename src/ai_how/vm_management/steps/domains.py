"""The steps that define VMs, and start or restore them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import ConnectionLostError, HostError
from ai_how.guest.serial_log import prepare_log
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import Applied
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.saved_machines.save_file import (
    memory_timeout_s,
    read_save_image,
    with_identity,
    write_clone,
)
from ai_how.vm_management.saved_machines.store import SavedMachineRef
from ai_how.vm_management.steps.power import shut_down
from ai_how.vm_management.steps.subjects import DomainStep


@dataclass(frozen=True, slots=True)
class DefineDomain(DomainStep):
    """Define a node's VM; undo defines `former_xml` again, if there was one."""

    kind: ClassVar[str] = "domain"
    uuid: UUID
    xml: str
    needs: frozenset[str] = frozenset()
    former_xml: str | None = None

    @property
    def stage(self) -> str:
        return "defined"

    def apply(self, context: PlanContext) -> Applied:
        context.write_sent_xml(self.domain, self.xml)
        prepare_log(context.paths, context.node_of(self.domain))
        context.client.define_domain(self.xml)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        if self.former_xml is not None:
            context.client.define_domain(self.former_xml)
            # Else the next start would take it for defined as it sent it last.
            context.write_sent_xml(self.domain, self.former_xml)
            return
        context.client.destroy_domain(self.uuid)
        context.client.undefine_domain(self.uuid, snapshots_too=False)

    def describe(self) -> str:
        return f"{'redefine' if self.former_xml else 'define'} the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class StartDomain(DomainStep):
    """Start a VM, or resume a paused one.

    `was_on`: the VM was paused before, so undo leaves it on. `keeps_disk`: its disk existed before,
    so undo shuts it down as a stop does. `is_anew`: discard its managed save.
    """

    kind: ClassVar[str] = "boot"
    uuid: UUID
    needs: frozenset[str] = frozenset()
    was_on: bool = False
    keeps_disk: bool = False
    is_anew: bool = False

    @property
    def stage(self) -> str:
        return "booting"

    def apply(self, context: PlanContext) -> Applied:
        info = context.client.get_domain(self.uuid)
        if info.state is VmState.CRASHED:  # its QEMU process exists, but the guest does not run
            context.client.destroy_domain(self.uuid)
        if not info.state.is_running:
            prepare_log(context.paths, context.node_of(self.domain))
        context.client.start_domain(self.uuid, is_anew=self.is_anew)
        return Applied.KEPT if info.state.is_running else Applied.MADE

    def revert(self, context: PlanContext) -> None:
        if self.was_on:
            return
        # Without an agent the guest has not booted yet: nobody uses it, and ACPI has no effect.
        if self.keeps_disk and context.client.is_agent_connected(self.uuid):
            shut_down(context, self.domain, self.uuid)
        context.client.destroy_domain(self.uuid)

    def describe(self) -> str:
        return f"{'resume' if self.was_on else 'start'} the VM {self.domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreDomain(StartDomain):
    """Restore a VM from the memory of a saved VM; its disk is a copy of the saved one.

    If that fails, the VM boots from the same disk, and a line tells the user why.
    """

    kind: ClassVar[str] = "restore"
    cluster: str
    node: str
    saved: SavedMachineRef

    @property
    def stage(self) -> str:
        return "restoring"

    def apply(self, context: PlanContext) -> Applied:
        try:
            self._restore(context)
        except ConnectionLostError:
            raise
        except HostError as error:
            context.warn(f"{self.node} boots cold: {error.brief}")
            return self._boot(context)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        StartDomain.revert(self, context)
        self._copy(context).unlink(missing_ok=True)

    def describe(self) -> str:
        return f"restore the VM {self.domain} from saved memory"

    def _boot(self, context: PlanContext) -> Applied:
        # libvirt handles the exit of a QEMU that refused its memory late, and may then kill the
        # next QEMU of the same domain object (9.0: processMonitorEOFEvent). A new definition
        # has a new object.
        context.client.destroy_domain(self.uuid)
        context.client.undefine_domain(self.uuid, snapshots_too=False)
        context.client.define_domain(context.read_sent_xml(self.domain))
        # slots=True creates a new class, so super() without arguments fails.
        return StartDomain.apply(self, context)

    def _restore(self, context: PlanContext) -> None:
        machine = self.saved.find(context)
        if machine is None:
            raise HostError("the saved VM is gone")
        copy = self._copy(context)
        copy.unlink(missing_ok=True)
        try:
            saved = read_save_image(machine.memory)
            write_clone(
                machine.memory, copy, with_identity(saved.xml, context.read_sent_xml(self.domain))
            )
            timeout_s = memory_timeout_s(machine.manifest.memory_bytes / 2**20)
            context.client.restore_domain(self.uuid, copy, timeout_s=timeout_s)
        finally:
            copy.unlink(missing_ok=True)

    def _copy(self, context: PlanContext) -> Path:
        return context.disks.storage.memory_copy(self.cluster, self.node)
