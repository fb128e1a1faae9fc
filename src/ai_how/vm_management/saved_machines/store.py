"""The store of saved VMs: the memory and disk of a booted VM without an identity.

Each is a directory that appears complete or not at all, and never changes. Its name is the key of
its `MachineKey`.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ai_how.errors import HostError
from ai_how.images.copying import (
    disk_errors,
    draft_directory,
    find_dead_drafts,
    sha256_of,
    sweep_drafts,
    sync,
)
from ai_how.images.manifest import Sha256
from ai_how.state.files import fsync_directory
from ai_how.state.lock import held_lock
from ai_how.state.owned_directory import check_chain
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.disks.base_images import check_unchanged, record_hash
from ai_how.vm_management.saved_machines.save_file import read_save_image
from ai_how.vm_management.storage_drafts import storage_draft

DISK, MEMORY, MANIFEST = "disk.qcow2", "memory.save", "manifest.json"
MAX_KEPT = 8
_LOCK_WAIT_S = 900  # another run may be saving one

Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SavedManifest(BaseModel):
    """The manifest of a saved VM, as it is on disk.

    `id` is random, and differs for each save, also if the key is the same. `shape` is the
    `definition_digest` of its `MachineKey`. `memory_mib` is what the guest sees; `memory_bytes` is
    the size of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    key: Key
    shape: Key
    id: UUID
    made_at: datetime
    image_digest: str
    vcpus: Annotated[int, Field(gt=0)]
    memory_mib: Annotated[int, Field(gt=0)]
    memory_bytes: Annotated[int, Field(gt=0)]
    disk_gib: Annotated[int, Field(gt=0)]
    host: str
    memory_sha256: Sha256
    disk_sha256: Sha256


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """A saved VM in the store."""

    directory: Path
    manifest: SavedManifest

    @property
    def disk(self) -> Path:
        return self.directory / DISK

    @property
    def memory(self) -> Path:
        return self.directory / MEMORY

    @property
    def used_bytes(self) -> int:
        """The space that it uses on the host, in bytes."""
        return sum(path.stat().st_blocks * 512 for path in (self.disk, self.memory))


class SavedMachines:
    """All saved VMs in one storage. Safe to use from several processes."""

    def __init__(self, storage: StoragePaths) -> None:
        self.storage = storage

    def find(self, key: str, machine_id: UUID | None = None) -> SavedMachine | None:
        """The saved VM with this key, and this id if given. None if there is none."""
        directory = self.storage.saved / key
        try:
            manifest = SavedManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return None
        if manifest.key != key or machine_id not in (None, manifest.id):
            return None
        return SavedMachine(directory, manifest)

    def list(self) -> tuple[SavedMachine, ...]:
        """All saved VMs, the most recently used first."""
        if not self.storage.saved.is_dir():
            return ()
        found = [
            machine
            for path in self.storage.saved.iterdir()
            if not path.name.startswith(".") and (machine := self.find(path.name))
        ]
        return tuple(sorted(found, key=_last_used, reverse=True))

    def find_of_another_host(self, definition_digest: str) -> SavedMachine | None:
        """A saved VM with this definition from any host, QEMU or libvirt."""
        return next(
            (machine for machine in self.list() if machine.manifest.shape == definition_digest),
            None,
        )

    def find_damage(self, machine: SavedMachine) -> str | None:
        """The damage of a saved VM in one line, or None. Hashes files whose inode has changed."""
        manifest = machine.manifest
        try:
            check_chain(machine.directory)
            for path, sha256 in (
                (machine.memory, manifest.memory_sha256),
                (machine.disk, manifest.disk_sha256),
            ):
                check_unchanged(self.storage, path, sha256)
            read_save_image(machine.memory)
        except HostError as error:
            return error.brief
        return None

    def discard_damaged(self, machine: SavedMachine) -> str | None:
        """Remove a damaged saved VM and return its damage; None if it is intact."""
        if damage := self.find_damage(machine):
            self.remove(machine)
        return damage

    def mark_used(self, machine: SavedMachine) -> None:
        """Update its time of last use, by which `remove_unfit` selects."""
        with disk_errors(machine.directory):
            os.utime(machine.directory)

    def dead_drafts(self) -> tuple[Path, ...]:
        """The drafts of runs that were killed while they saved a VM."""
        return find_dead_drafts(self.storage.saved)

    @contextmanager
    def making(self) -> Iterator[Path]:
        """A draft directory to save a VM in, accessible to QEMU's own user; one per host at a time.

        A draft that is not added is removed after the block.
        """
        with storage_draft(
            self.storage,
            self.storage.saved,
            self.storage.saved_lock,
            doing="save a VM",
            wait_s=_LOCK_WAIT_S,
            clean_up=lambda: sweep_drafts(self.storage.saved),
        ) as draft:
            yield draft

    def add(self, draft: Path, manifest: SavedManifest) -> SavedMachine:
        """Publish a draft with a disk and a memory. Call it inside the block of `making`."""
        for name, sha256 in ((DISK, manifest.disk_sha256), (MEMORY, manifest.memory_sha256)):
            path = draft / name
            path.chmod(0o400)
            if sha256_of(path) != sha256:
                raise HostError(f"{path} changed while it was saved")
            sync(path)
            record_hash(self.storage, path, sha256)
        read_save_image(draft / MEMORY)
        (draft / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        for path in draft.iterdir():
            if path.name not in {DISK, MEMORY, MANIFEST} and path.suffix != ".verified":
                path.unlink()
        sync(draft / MANIFEST)
        sync(draft)
        target = self.storage.saved / manifest.key
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
        fsync_directory(self.storage.saved)
        return SavedMachine(target, manifest)

    def remove(self, machine: SavedMachine) -> None:
        """Remove a saved VM. A run that is copying it has the files open, and continues."""
        with (
            disk_errors(self.storage.saved),
            draft_directory(self.storage.saved) as trash,
            suppress(FileNotFoundError),  # another run has removed it
        ):
            machine.directory.rename(trash)

    def remove_of_image(self, digest: str) -> None:
        """Remove the saved VMs of a removed image."""
        if not self.storage.saved.is_dir():
            return
        with held_lock(self.storage.saved_lock, doing="remove saved VMs", wait_s=_LOCK_WAIT_S):
            for machine in self.list():
                if machine.manifest.image_digest == digest:
                    self.remove(machine)

    def remove_unfit(
        self, *, hosts: Collection[str], images: Collection[str]
    ) -> tuple[SavedMachine, ...]:
        """Keep the most recently used MAX_KEPT of these `hosts` and `images`; remove others."""
        if not self.storage.saved.is_dir():
            return ()
        with held_lock(self.storage.saved_lock, doing="remove saved VMs", wait_s=_LOCK_WAIT_S):
            sweep_drafts(self.storage.saved)
            fit = [
                machine
                for machine in self.list()
                if machine.manifest.host in hosts and machine.manifest.image_digest in images
            ][:MAX_KEPT]
            kept = {machine.directory.name for machine in fit}
            gone = tuple(machine for machine in self.list() if machine.directory.name not in kept)
            for machine in gone:
                self.remove(machine)
        return gone


def _last_used(machine: SavedMachine) -> float:
    try:
        return machine.directory.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True, slots=True)
class SavedMachineRef:
    """A reference to the saved VM from which a node is restored.

    The id is unique, so a node never gets the disk of one saved VM and the memory of another.
    """

    key: str
    id: UUID

    def find(self, context: PlanContext) -> SavedMachine | None:
        return SavedMachines(context.disks.storage).find(self.key, self.id)
