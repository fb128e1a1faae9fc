"""Makes vGPUs on cards of the host, and removes them when their VM is off.

A mediated device is made by its UUID, a VF becomes a vGPU by the number of a type. Both are writes
to sysfs, which takes root. Where root has made a vGPU by hand, it is used as it is.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import HostError
from ai_how.host.pci import DEVICES
from ai_how.host.reading import read_text
from ai_how.spec.identity import object_uuid
from ai_how.state.leases import (
    VgpuLease,
    find_vgpu_lease,
    read_vgpu_leases,
    remove_lease,
    write_lease,
)
from ai_how.vm_management.lending import DeviceKeeper, read_boot

MDEVS = Path("sys/bus/mdev/devices")
NO_TYPE = "0"  # what a VF that is no vGPU has as its type


@dataclass(frozen=True, slots=True)
class Vgpu:
    """A vGPU of a node, made or to be made."""

    parent: str
    """The PCI function that offers its type: a card, or a VF."""
    type: str
    """The id of its type: such as `nvidia-63` for a mediated device, `1148` for a VF."""
    uuid: UUID | None = None
    """That of the mediated device; None if the VF itself becomes the vGPU."""

    @property
    def device(self) -> str:
        """What the VM gets: a mediated device, by its UUID, or a VF, by its address."""
        return str(self.uuid or self.parent)

    @property
    def made_by(self) -> tuple[Path, str]:
        """The file below / and the text that make it."""
        place = Path(DEVICES) / self.parent
        if self.uuid is None:
            return place / "nvidia/current_vgpu_type", self.type
        return place / "mdev_supported_types" / self.type / "create", str(self.uuid)

    @property
    def removed_by(self) -> tuple[Path, str]:
        """The file below / and the text that remove it."""
        if self.uuid is None:
            return self.made_by[0], NO_TYPE
        return MDEVS / str(self.uuid) / "remove", "1"

    def is_made(self, machine: Path) -> bool:
        """Whether it is there, below a root directory."""
        if self.uuid is None:
            return read_text(machine / self.made_by[0]) == self.type
        return (machine / MDEVS / str(self.uuid)).exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class VgpuMaker(DeviceKeeper):
    """Makes vGPUs for VMs, and removes them."""

    what: ClassVar[str] = "vGPU"

    def make(
        self, vgpu: Vgpu, vm: UUID, *, owner: UUID, cluster: str, kind: str, node: str
    ) -> bool:
        """Make it for a VM; safe to repeat. False if it is there, and only root can remove it.

        Raises HostError, and leaves nothing, if another VM runs with it or the kernel refuses it.
        """
        with self._locked():
            self._refuse_used([vgpu.device], vm, node)
            is_there = vgpu.is_made(self.machine)
            if is_there and not can_write(self.machine, vgpu.removed_by[0]):
                return False
            lease = VgpuLease(
                parent=vgpu.parent,
                type=vgpu.type,
                uuid=vgpu.uuid,
                owner=owner,
                cluster=cluster,
                kind=kind,
                node=node,
                host=self.client.uri,
                boot=read_boot(self.machine),
                taken_at=datetime.now(UTC),
            )
            write_lease(self.leases, lease)
            if not is_there:
                self._create(vgpu, lease)
        return True

    def _create(self, vgpu: Vgpu, lease: VgpuLease) -> None:
        path, text = vgpu.made_by
        what = f"the vGPU of {lease.node}, type {vgpu.type}, could not be made on {vgpu.parent}"
        why = None
        if vgpu.uuid is None and (has := read_text(self.machine / path)) not in (NO_TYPE, None):
            why = f"it has the type {has}"
        else:
            try:
                write_sysfs(self.machine / path, text)
            except OSError as error:
                why = error.strerror or str(error)
            else:
                why = None if vgpu.is_made(self.machine) else "the kernel made none"
        if why is not None:
            remove_lease(self.leases, lease)
            raise HostError(f"{what}: {why}", hint=f"ai-how gpu explain {vgpu.parent}")

    def leases_of(self, owner: UUID, node: str) -> tuple[VgpuLease, ...]:
        """The leases of a node."""
        return tuple(
            lease
            for lease in read_vgpu_leases(self.leases)
            if (lease.owner, lease.node) == (owner, node)
        )

    def remove(self, lease: VgpuLease) -> None:
        """Remove a vGPU, then its lease; safe to repeat.

        Nothing is done while a VM runs with it, or if another cluster has leased it since. One that
        the kernel does not remove keeps its lease, and a line says what to do. Raises LibvirtError
        if it is not known which VMs run.
        """
        with self._locked():
            is_same = find_vgpu_lease(self.leases, lease.device) == lease
            if not is_same or lease.device in self.in_use():
                return
            if not is_left(lease, self.machine) or self._removes(lease):
                remove_lease(self.leases, lease)

    def _removes(self, lease: VgpuLease) -> bool:
        path, text = vgpu_of(lease).removed_by
        try:
            write_sysfs(self.machine / path, text)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            why = "the kernel keeps it"
        if not is_left(lease, self.machine):
            return True
        advice = removal_command(vgpu_of(lease))
        self.warn(f"{describe_left(lease)}, and was not removed: {why}; to remove it: {advice}")
        return False


def mdev_uuid(cluster_id: UUID, node: str, type_id: str, parent: str | None) -> UUID:
    """The UUID of a node's mediated device of a type; `parent` is the one that its file names.

    Another type or parent gives another UUID, so that a VM which has the old one is seen to differ.
    """
    words = ("vgpu", node, type_id, *([parent] if parent else []))
    return object_uuid(cluster_id, "/".join(words))


def vgpu_of(lease: VgpuLease) -> Vgpu:
    return Vgpu(lease.parent, lease.type, lease.uuid)


def is_left(lease: VgpuLease, machine: Path) -> bool:
    """Whether what was leased is there; of another boot of the host, it is none of ours."""
    return lease.boot == read_boot(machine) and vgpu_of(lease).is_made(machine)


def can_write(machine: Path, path: Path) -> bool:
    """Whether the caller may write a file below a root directory."""
    return os.access(machine / path, os.W_OK)


def write_sysfs(path: Path, text: str) -> None:
    """Write to a file of sysfs, in one call. Raises OSError as the kernel answers."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def creation_command(vgpu: Vgpu) -> str:
    """The command by which root makes it."""
    return _write_command(*vgpu.made_by)


def removal_command(vgpu: Vgpu) -> str:
    """The command by which root removes it."""
    return _write_command(*vgpu.removed_by)


def _write_command(path: Path, text: str) -> str:
    return f"echo {text} | sudo tee /{path}"


def describe_left(lease: VgpuLease) -> str:
    """One that no VM runs with."""
    what = f"the vGPU {lease.device}, type {lease.type}"
    where = "" if lease.uuid is None else f" on {lease.parent}"
    return f"{what}{where} is left of {lease.node} of {lease.cluster}"
