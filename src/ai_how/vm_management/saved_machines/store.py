"""Saved machines: the memory and the disk of a VM that has booted and is nobody yet.

A directory each, which appears whole or not at all and is never changed. The name is a digest of
all that a VM must have in common with it to be restored from it.
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
from ai_how.state.owned_directory import check_chain, ensure_traversable
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.disks.base_images import check_unchanged, record_hash
from ai_how.vm_management.saved_machines.save_file import read_save_image

DISK, MEMORY, MANIFEST = "disk.qcow2", "memory.save", "manifest.json"
MAX_KEPT = 8
_LOCK_WAIT_S = 900  # another run may be booting one

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
    """A saved machine where it lies."""

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
        """What it takes on the host's disk."""
        return sum(path.stat().st_blocks * 512 for path in (self.disk, self.memory))


class SavedMachines:
    """All saved machines in one storage. Safe to use from several processes."""

    def __init__(self, storage: StoragePaths) -> None:
        self.storage = storage

    def find(self, key: str, machine_id: UUID | None = None) -> SavedMachine | None:
        """The machine with this key (and id), None where there is none that can be read."""
        directory = self.storage.saved / key
        try:
            manifest = SavedManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return None
        if manifest.key != key or machine_id not in (None, manifest.id):
            return None
        return SavedMachine(directory, manifest)

    def list(self) -> tuple[SavedMachine, ...]:
        """Every machine, the one that was used last first."""
        if not self.storage.saved.is_dir():
            return ()
        found = [
            machine
            for path in self.storage.saved.iterdir()
            if not path.name.startswith(".") and (machine := self.find(path.name))
        ]
        return tuple(sorted(found, key=_last_used, reverse=True))

    def find_of_another_host(self, definition_digest: str) -> SavedMachine | None:
        """A machine that would fit, had it been saved here and now."""
        return next((one for one in self.list() if one.manifest.shape == definition_digest), None)

    def find_damage(self, machine: SavedMachine) -> str | None:
        """What of it is not as it was, in a line; None where all is. Hashes what was written to."""
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
        """Remove a machine that is not as it was, and return why; None where it can be used."""
        if damage := self.find_damage(machine):
            self.remove(machine)
        return damage

    def mark_used(self, machine: SavedMachine) -> None:
        """Let it be kept longer than those that nobody uses."""
        with disk_errors(machine.directory):
            os.utime(machine.directory)

    def dead_drafts(self) -> tuple[Path, ...]:
        """What runs that were killed while they saved a machine have left."""
        return find_dead_drafts(self.storage.saved)

    @contextmanager
    def making(self) -> Iterator[Path]:
        """A draft to save a machine in, which QEMU's own user can reach; one at a time on a host.

        What is not added is gone afterwards.
        """
        ensure_traversable(self.storage.saved, below=self.storage.root)
        check_chain(self.storage.root)
        with (
            held_lock(self.storage.saved_lock, doing="save a machine", wait_s=_LOCK_WAIT_S),
            disk_errors(self.storage.saved),
        ):
            sweep_drafts(self.storage.saved)
            with draft_directory(self.storage.saved) as draft:
                draft.chmod(0o711)
                yield draft

    def add(self, draft: Path, manifest: SavedManifest) -> SavedMachine:
        """Make a draft that holds a disk and a memory into a machine; `making` is still on."""
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
        """Have it no more. Whoever is copying it has its files open, and goes on."""
        with (
            disk_errors(self.storage.saved),
            draft_directory(self.storage.saved) as trash,
            suppress(FileNotFoundError),  # another run has removed it
        ):
            machine.directory.rename(trash)

    def remove_of_image(self, digest: str) -> None:
        """Have none of an image that is gone."""
        if not self.storage.saved.is_dir():
            return
        with held_lock(self.storage.saved_lock, doing="remove machines", wait_s=_LOCK_WAIT_S):
            for one in self.list():
                if one.manifest.image_digest == digest:
                    self.remove(one)

    def remove_unfit(self, *, host: str, images: Collection[str]) -> tuple[SavedMachine, ...]:
        """Remove those of another `host` or of no image that there is, and the longest unused."""
        if not self.storage.saved.is_dir():
            return ()
        with held_lock(self.storage.saved_lock, doing="remove machines", wait_s=_LOCK_WAIT_S):
            sweep_drafts(self.storage.saved)
            fit = [
                one
                for one in self.list()
                if one.manifest.host == host and one.manifest.image_digest in images
            ][:MAX_KEPT]
            kept = {one.directory.name for one in fit}
            gone = tuple(one for one in self.list() if one.directory.name not in kept)
            for one in gone:
                self.remove(one)
        return gone


def _last_used(machine: SavedMachine) -> float:
    try:
        return machine.directory.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True, slots=True)
class SavedMachineRef:
    """Which saved machine a node is restored from: its disk and its memory belong together.

    Once it is gone, no other has its id, so a node never gets the disk of one and not its memory.
    """

    key: str
    id: UUID

    def find(self, world: PlanContext) -> SavedMachine | None:
        return SavedMachines(world.disks.storage).find(self.key, self.id)
