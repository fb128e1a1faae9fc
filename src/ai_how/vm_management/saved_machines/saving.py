"""Saves a VM: boots one without an identity, lets it settle, and saves its memory and disk."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from ai_how.errors import HostError
from ai_how.guest.agent import GuestAgent
from ai_how.host.place import HypervisorHost, saves_for_root
from ai_how.images import qemu_img
from ai_how.images.copying import sha256_of
from ai_how.images.manifest import Image
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import GIB
from ai_how.vm_management.nodes.domain_definition import DomainDefinition
from ai_how.vm_management.saved_machines.generic_vm import (
    GENERIC_ID,
    MachineKey,
    generic_definition,
    generic_uuid,
)
from ai_how.vm_management.saved_machines.save_file import memory_timeout_s
from ai_how.vm_management.saved_machines.store import (
    DISK,
    MEMORY,
    SavedMachine,
    SavedMachines,
    SavedManifest,
)
from ai_how.vm_management.xml.render import render_domain
from ai_how.waiting import Deadline

# Called with the progress of one VM, 0.0 to 1.0, and the current activity.
ProgressCallback = Callable[[float, str], None]

AGENT_S = 900.0
SETTLE_S = 300.0


@dataclass(frozen=True, slots=True)
class MachineToSave:
    """A VM that is not saved yet, and from which nodes could be restored."""

    machine_key: MachineKey
    definition: DomainDefinition
    image: Image
    disk_gib: int


def no_save_reason(place: HypervisorHost) -> str | None:
    """Why this process could not read what libvirt saves; None if it can."""
    if not place.saves_memory:
        return f"{place.asked} cannot save the memory of VMs"
    return saves_for_root(place.asked)


def save_machine(
    missing: MachineToSave,
    place: HypervisorHost,
    client: LibvirtClient,
    *,
    stop: threading.Event,
    on_progress: ProgressCallback,
) -> SavedMachine:
    """Save a VM, or return one that another run saved meanwhile.

    After an error or a kill nothing remains: libvirt destroys the VM when the connection ends.
    """
    machines, disks = SavedMachines(place.storage), DiskManager(place.storage)
    for draft in machines.dead_drafts():
        _end_leftover(client, draft)
    with machines.making() as draft:
        if found := machines.find(missing.machine_key.key):
            return found
        base = disks.ensure_base(missing.image)
        disks.ensure_kernel(missing.image)
        qemu_img.make_overlay(draft / DISK, base=base, virtual_bytes=missing.disk_gib * GIB)
        _boot_and_save(missing.definition, draft, client, stop=stop, on_progress=on_progress)
        return machines.add(draft, _manifest_of(missing, draft))


def _boot_and_save(
    definition: DomainDefinition,
    draft: Path,
    client: LibvirtClient,
    *,
    stop: threading.Event,
    on_progress: ProgressCallback,
) -> None:
    machine = generic_definition(definition, disk=draft / DISK, console_log=draft / "console.log")
    on_progress(0.0, "booting")
    client.boot_transient(render_domain(machine))
    try:
        client.wait_for_agent(machine.uuid, Deadline.after(AGENT_S), stop)
        on_progress(0.6, "settling")
        agent = GuestAgent(client, machine.uuid, machine.name)
        agent.check(["/usr/lib/ai-how/settle"], Deadline.after(SETTLE_S), stop=stop)
        on_progress(0.8, "saving")
        timeout_s = memory_timeout_s(definition.memory_mib)
        client.save_transient(machine.uuid, draft / MEMORY, timeout_s=timeout_s)
    finally:
        client.destroy_domain(machine.uuid)  # does nothing after a save, which ends the VM


def _manifest_of(missing: MachineToSave, draft: Path) -> SavedManifest:
    memory = draft / MEMORY
    if not os.access(memory, os.R_OK):
        raise HostError(
            "libvirt saved the memory to a file that only root can read", details=str(memory)
        )
    return SavedManifest(
        key=missing.machine_key.key,
        shape=missing.machine_key.definition_digest,
        host=missing.machine_key.host,
        id=uuid4(),
        made_at=datetime.now(UTC),
        image_digest=missing.image.digest,
        vcpus=missing.definition.vcpus,
        memory_mib=missing.definition.memory_mib,
        memory_bytes=memory.stat().st_size,
        disk_gib=missing.disk_gib,
        memory_sha256=sha256_of(memory),
        disk_sha256=sha256_of(draft / DISK),
    )


def _end_leftover(client: LibvirtClient, draft: Path) -> None:
    """Destroy the VM of a run that was killed together with libvirtd."""
    info = client.find_domain(generic_uuid(draft / DISK))
    if info and info.mark and info.mark.id == GENERIC_ID:
        client.destroy_domain(info.uuid)
