"""Images and saved VMs in one file, for another machine: written, and taken in.

A file is taken in as a whole or not at all: nothing is published before its last byte was verified.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from ai_how.errors import AiHowError, ImageError
from ai_how.images import qemu_img
from ai_how.images.copying import Progress, created_file, disk_errors, full_disk, sha256_of
from ai_how.images.importing import add_exported, check_disk_of
from ai_how.images.manifest import MANIFEST, Image, Manifest
from ai_how.images.packed import PackedFile, Unpacker, pack, unpacked
from ai_how.images.qcow2_header import read_header
from ai_how.images.store import ImageStore
from ai_how.vm_management.disks.space import GIB
from ai_how.vm_management.saved_machines.generic_vm import MachineKey
from ai_how.vm_management.saved_machines.save_file import read_save_image
from ai_how.vm_management.saved_machines.saved_xml import check_saved_xml
from ai_how.vm_management.saved_machines.store import (
    DISK,
    MEMORY,
    SavedMachine,
    SavedMachines,
    SavedManifest,
)

KIND = "ai-how cache"
_HINT = "ai-how cache export FILE  # on the other machine"
_IMAGES, _SAVED = "images", "saved"
_MAX_MANIFEST_BYTES = 1 << 20

_Manifest = TypeVar("_Manifest", bound=BaseModel)

# Why a saved VM of this manifest cannot be used here; None if it can.
Refusal = Callable[[SavedManifest], str | None]


@dataclass(frozen=True, slots=True)
class TakenImage:
    """An image of the file."""

    image: Image
    is_new: bool


@dataclass(frozen=True, slots=True)
class TakenMachine:
    """A saved VM of the file. `refusal` says why it was not taken in; None if it can be used."""

    manifest: SavedManifest
    is_new: bool
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file has, and what became of it."""

    images: tuple[TakenImage, ...]
    machines: tuple[TakenMachine, ...]


def write_cache(
    target: Path,
    images: Sequence[Image],
    machines: Sequence[SavedMachine],
    *,
    on_progress: Progress | None = None,
) -> None:
    """Write images and saved VMs to a new file, whole or not at all.

    Raises HostError where something is there, or the file system refuses; ImageError where a file
    has changed since its image was made, or its VM was saved.
    """
    files: list[tuple[PackedFile, Path]] = []
    for image in images:
        name = f"{_IMAGES}/{image.digest}"
        files += _listed(name, image.directory, image.manifest.sha256_by_file)
    for machine in machines:
        name = f"{_SAVED}/{machine.manifest.key}"
        files += _listed(name, machine.directory, _sha256_by_file(machine.manifest))
    pack(target, KIND, files, on_progress=on_progress)


def take_cache_in(
    source: Path,
    store: ImageStore,
    machines: SavedMachines,
    *,
    refusal: Refusal,
    on_progress: Progress | None = None,
) -> Contents:
    """Take in what a file has and is not here yet; what is here and intact is kept.

    Raises ImageError, before anything is taken in, for a file that is damaged or has anything else
    than `write_cache` writes.
    """
    with ExitStack() as drafts:
        with unpacked(source, hint=_HINT) as unpacker:
            reading = _Reading(unpacker, store, machines, refusal, drafts, on_progress)
            reading.read()
        for part in reading.images:
            if part.draft:
                _check(unpacker, part.name, part.draft, partial(check_disk_of, store))
        for one in reading.machines:
            if one.draft:
                _check(unpacker, one.name, one.draft, partial(_check_machine, one.manifest))
        return Contents(
            tuple(_publish_image(store, part) for part in reading.images),
            tuple(_publish_machine(machines, one) for one in reading.machines),
        )


@dataclass(slots=True)
class _ImagePart:
    name: str
    manifest: Manifest
    there: Image | None
    draft: Path | None


@dataclass(slots=True)
class _MachinePart:
    name: str
    manifest: SavedManifest
    refusal: str | None
    draft: Path | None


class _Reading:
    """One pass over a file, into drafts."""

    def __init__(
        self,
        unpacker: Unpacker,
        store: ImageStore,
        machines: SavedMachines,
        refusal: Refusal,
        drafts: ExitStack,
        on_progress: Progress | None,
    ) -> None:
        self.unpacker, self.store, self.saved = unpacker, store, machines
        self.refusal, self.drafts, self.on_progress = refusal, drafts, on_progress
        self.images: list[_ImagePart] = []
        self.machines: list[_MachinePart] = []
        self._top: Path | None = None
        self._total, self._done = 1, 0

    def read(self) -> None:
        files = self.unpacker.read_list(KIND)
        self._total = sum(one.size for one in files) or 1
        for name, part in _parts(files).items():
            place, _, key = name.partition("/")
            first, *rest = part
            if first.name != f"{name}/{MANIFEST}" or place not in (_IMAGES, _SAVED) or "/" in key:
                raise self.unpacker.refused(f"{first.name} is not where it belongs")
            if place == _IMAGES:
                self._read_image(name, first, rest)
            else:
                self._read_machine(name, first, rest)
        self.unpacker.read_end()

    def _read_image(self, name: str, first: PackedFile, rest: Sequence[PackedFile]) -> None:
        manifest = self._manifest(first, Manifest)
        self._require(name, manifest.digest, rest, manifest.sha256_by_file)
        there = self.store.read(manifest.digest)
        found = there if isinstance(there, Image) else None
        draft = None if found else self.drafts.enter_context(self.store.draft())
        self.images.append(_ImagePart(name, manifest, found, draft))
        self._read_files(rest, draft)

    def _read_machine(self, name: str, first: PackedFile, rest: Sequence[PackedFile]) -> None:
        manifest = self._manifest(first, SavedManifest)
        self._require(name, manifest.key, rest, _sha256_by_file(manifest))
        if MachineKey(manifest.shape, manifest.host).key != manifest.key:
            raise self.unpacker.refused(f"{name} is of another kind of VM than it says")
        refusal, draft = self.refusal(manifest), None
        if refusal is None:
            draft = self._machine_draft(manifest)
        self.machines.append(_MachinePart(name, manifest, refusal, draft))
        self._read_files(rest, draft)

    def _machine_draft(self, manifest: SavedManifest) -> Path | None:
        """A draft for a saved VM; None if it is here already. From the first one on, we save."""
        if self._top is None:
            self._top = self.drafts.enter_context(self.saved.making())
        there = self.saved.find(manifest.key)
        if there and self.saved.discard_damaged(there) is None:
            return None
        draft = self._top / manifest.key
        draft.mkdir()
        draft.chmod(0o711)
        return draft

    def _manifest(self, one: PackedFile, model: type[_Manifest]) -> _Manifest:
        if one.size > _MAX_MANIFEST_BYTES:
            raise self.unpacker.refused(f"{one.name} is too large")
        content = bytearray()
        self.unpacker.read(one, content.extend)
        try:
            return model.model_validate_json(bytes(content))
        except ValidationError as error:
            raise self.unpacker.refused(f"{one.name} is of another version of ai-how") from error

    def _require(
        self, name: str, key: str, rest: Sequence[PackedFile], wanted: dict[str, str]
    ) -> None:
        """Raises ImageError unless the list has the files of a manifest, and no others."""
        listed = {one.name: one.sha256 for one in rest}
        asked = {f"{name}/{file}": sha256 for file, sha256 in wanted.items()}
        if name.partition("/")[2] != key or listed != asked:
            raise self.unpacker.refused(f"{name} has other files than its manifest says")

    def _read_files(self, files: Sequence[PackedFile], draft: Path | None) -> None:
        needed = sum(one.size for one in files)
        if draft and shutil.disk_usage(draft).free < needed:
            raise full_disk(draft.parent, needed)
        for one in files:
            if draft:
                target = draft / one.name.rpartition("/")[2]
                with disk_errors(draft, needed_bytes=needed), created_file(target) as file:
                    self.unpacker.read(one, partial(_write, file))
            else:
                self.unpacker.read(one, len)
            self._done += one.size
            if self.on_progress:
                self.on_progress(min(1.0, self._done / self._total))


def _write(file: IO[bytes], part: bytes) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[file.write(rest) :]


def _parts(files: Sequence[PackedFile]) -> dict[str, list[PackedFile]]:
    """The files of each image and each saved VM, which are together, by its directory."""
    parts: dict[str, list[PackedFile]] = {}
    for one in files:
        parts.setdefault(one.name.rpartition("/")[0], []).append(one)
    return parts


def _listed(
    name: str, directory: Path, sha256_by_file: dict[str, str]
) -> list[tuple[PackedFile, Path]]:
    manifest = directory / MANIFEST
    with disk_errors(directory):
        wanted = {MANIFEST: hashlib.sha256(manifest.read_bytes()).hexdigest(), **sha256_by_file}
        found = []
        for file, sha256 in wanted.items():
            path = directory / file
            size = path.stat().st_size
            found.append((PackedFile(name=f"{name}/{file}", size=size, sha256=sha256), path))
        return found


def _sha256_by_file(manifest: SavedManifest) -> dict[str, str]:
    return {DISK: manifest.disk_sha256, MEMORY: manifest.memory_sha256}


def _check(unpacker: Unpacker, name: str, draft: Path, check: Callable[[Path], None]) -> None:
    """Run a check of a draft; its error is that the file is refused."""
    try:
        check(draft)
    except AiHowError as error:
        raise unpacker.refused(f"{name}: {error.brief.replace(f'{draft}/', '')}") from error


def _check_machine(manifest: SavedManifest, draft: Path) -> None:
    """Raises HostError for a disk or a memory that ai-how does not save."""
    header = read_header(draft / DISK, allow_backing=True)
    backing = Path(header.backing_file or "")
    if (backing.suffix, backing.stem) != (".qcow2", manifest.image_digest):
        raise ImageError("its disk is of another image than it says")
    if header.backing_format != "qcow2" or header.virtual_size_bytes != manifest.disk_gib * GIB:
        raise ImageError("its disk is another one than it says")
    if (draft / MEMORY).stat().st_size != manifest.memory_bytes:
        raise ImageError("its memory is another one than it says")
    check_saved_xml(read_save_image(draft / MEMORY).xml)


def _publish_image(store: ImageStore, part: _ImagePart) -> TakenImage:
    if part.there:
        return TakenImage(part.there, is_new=False)
    assert part.draft  # noqa: S101  for mypy: it is there, or it was taken
    return TakenImage(add_exported(store, part.draft, part.manifest), is_new=True)


def _publish_machine(machines: SavedMachines, part: _MachinePart) -> TakenMachine:
    """Add a saved VM; its disk gets the name that the base of its image has in this storage."""
    manifest = part.manifest
    if part.draft is None:
        return TakenMachine(manifest, is_new=False, refusal=part.refusal)
    disk = part.draft / DISK
    qemu_img.name_backing(disk, base=machines.storage.base(manifest.image_digest))
    manifest = manifest.model_copy(update={"disk_sha256": sha256_of(disk)})
    return TakenMachine(machines.add(part.draft, manifest).manifest, is_new=True)
