"""Imports a disk or an exported image to the store: copied or downloaded, then checked.

Only the private copy is checked and used, so it does not matter what becomes of the original.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import ValidationError

from ai_how.errors import ImageError
from ai_how.images.checksums import KINDS
from ai_how.images.copying import Progress, copy_sparse, digest_of, sha256_of
from ai_how.images.exchange import is_export, unpack_export
from ai_how.images.manifest import DISK, MANIFEST, BrokenImage, Image, Manifest
from ai_how.images.qcow2_header import Qcow2Header, find_format, read_header
from ai_how.images.qemu_img import check_image, convert
from ai_how.spec.images import Firmware, is_url

if TYPE_CHECKING:
    from ai_how.images.store import ImageStore

_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an import must be, and how it is called.

    `default_name` is that of a disk which is new in the store; one that is there keeps its own.
    Raises ImageError for what the store has under another `name`.
    """

    name: str | None = None
    default_name: str | None = None
    sha256: str | None = None
    sha512: str | None = None
    firmware: Firmware | None = None


def import_disk(
    store: "ImageStore",
    source: str | Path,
    wanted: Wanted,
    *,
    on_progress: Progress | None = None,
    on_copied: Callable[[], None] = lambda: None,
) -> tuple[Image, str]:
    """The image, and the SHA-256 of its file. See `ImageStore.import_file`.

    `on_copied` may still refuse what was copied.
    """
    is_address = isinstance(source, str) and is_url(source)
    for digits, algorithm in KINDS.items():
        digest = getattr(wanted, algorithm)
        if digest is not None and not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", digest):
            raise ImageError(
                f"{digest} is not a {algorithm}", hint=f"{algorithm}sum {shlex.quote(str(source))}"
            )
    if is_address and not (wanted.sha256 or wanted.sha512):
        raise ImageError(
            f"{source} is refused: a download needs its sha256 or sha512, or signed checksums",
            details="`--checksums` takes the publisher's file, `--key` the key that signed it.",
            hint=f"ai-how image import {shlex.quote(str(source))} --sha256 SHA256",
        )
    if is_address and wanted.sha256 and (known := find_known(store, wanted.sha256, wanted)):
        return known, known.digest
    with store.draft() as draft:
        copy = draft / "incoming"
        if is_address:
            # With it comes TLS, which nearly no run needs.
            from ai_how.images.download import download  # noqa: PLC0415

            limit = store.max_virtual_bytes
            download(str(source), copy, max_bytes=limit, on_progress=on_progress)
        else:
            copy_sparse(Path(source), copy, on_progress=on_progress)
        on_copied()
        return _take_in(store, copy, str(source), wanted)


def find_known(store: "ImageStore", digest: str, wanted: Wanted) -> Image | None:
    """The image of an earlier import of these bytes; an image has one name and one firmware."""
    image = store.read(digest.lower())
    if isinstance(image, BrokenImage):
        return None
    if wanted.name not in (None, image.name):
        raise ImageError(
            f"this image is in the store already, as {image.name}",
            hint=f"ai-how image rm {image.name}",
        )
    require_firmware(image, wanted.firmware)
    return image


def require_firmware(image: Image, firmware: Firmware | None) -> None:
    """Raises ImageError where an image was imported for another firmware."""
    known = image.manifest.firmware
    if firmware not in (None, known):
        told = f"for {known}" if known else "without `firmware`"
        raise ImageError(
            f"{image.name} {image.digest[:12]} was imported {told}, not for {firmware}",
            hint=f"ai-how image rm {image.digest[:12]}  # then import it again",
        )


def _take_in(store: "ImageStore", copy: Path, source: str, wanted: Wanted) -> tuple[Image, str]:
    """Turn the private copy, whatever it is, into an image."""
    draft, is_exported = copy.parent, is_export(copy)
    # This comes first: the later steps take as long as a file claims to be.
    kind = None if is_exported else _look_at(store, copy, source=source)
    digest = sha256_of(copy)
    _require(source, "sha256", digest, wanted.sha256)
    if wanted.sha512:
        _require(source, "sha512", digest_of(copy, "sha512"), wanted.sha512)
    if is_exported:
        return _take_in_export(store, copy, source, wanted), digest
    if known := find_known(store, digest, wanted):
        return known, digest
    header = _take_in_disk(store, copy, draft / DISK, kind, source=source)
    manifest = _manifest_of_foreign(draft / DISK, digest, header, source, wanted)
    return store.add(draft, manifest), digest


def _take_in_export(store: "ImageStore", copy: Path, source: str, wanted: Wanted) -> Image:
    """Turn the private copy of an exported image into that image."""
    draft = copy.parent
    with _told_of(source, draft / MANIFEST):
        manifest = unpack_export(copy, draft, source=source)
    copy.unlink()
    if wanted.name not in (None, manifest.name):
        raise ImageError(
            f"{source} is the image {manifest.name}: an exported image keeps its name",
            hint=f"ai-how image import {shlex.quote(source)}",
        )
    with _told_of(source, draft / DISK):
        check_disk_of(store, draft)
    firmware = wanted.firmware or manifest.firmware
    image = add_exported(store, draft, manifest.model_copy(update={"firmware": firmware}))
    require_firmware(image, wanted.firmware)
    return image


def check_disk_of(store: "ImageStore", draft: Path) -> None:
    """Raises ImageError for a disk in a draft that ai-how would not boot, or that is damaged."""
    header = read_header(draft / DISK, max_virtual_bytes=store.max_virtual_bytes)
    check_image(draft / DISK, header)


def add_exported(store: "ImageStore", draft: Path, manifest: Manifest) -> Image:
    """Add an image that was exported on another machine, whose files were verified; it is marked.

    One that is there already is kept.
    """
    marks = {"created_at": datetime.now(UTC), "is_imported": True}
    return store.add(draft, manifest.model_copy(update=marks))


def _look_at(store: "ImageStore", copy: Path, *, source: str) -> str | None:
    """The format of an acceptable file: "qcow2", or None for a raw disk.

    Raises ImageError for any other file.
    """
    size, kind = copy.stat().st_size, find_format(copy)
    if size > store.max_virtual_bytes:
        raise ImageError(f"{source} is refused: it is larger than {store.max_virtual_bytes} bytes")
    if kind is None:
        if not size or size % _SECTOR_BYTES:
            raise ImageError(f"{source} is refused: a raw disk cannot have {size} bytes")
    elif kind == "qcow2":
        with _told_of(source, copy):
            read_header(copy, max_virtual_bytes=store.max_virtual_bytes)
    else:
        raise ImageError(
            f"{source} is refused: its content is {kind}, neither qcow2 nor a raw disk"
        )
    return kind


def _take_in_disk(
    store: "ImageStore", copy: Path, disk: Path, kind: str | None, *, source: str
) -> Qcow2Header:
    """Turn the checked private copy into a qcow2 that QEMU has checked as well."""
    if kind is None:
        convert(copy, disk, source_format="raw")
        copy.unlink()
    else:
        copy.rename(disk)
    with _told_of(source, disk):
        header = read_header(disk, max_virtual_bytes=store.max_virtual_bytes)
        check_image(disk, header)
    return header


def _require(source: str, algorithm: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted.lower():
        raise ImageError(
            f"{source} does not have the expected {algorithm}",
            details=f"expected {algorithm} {wanted.lower()}\nfound    {algorithm} {found}",
        )


@contextmanager
def _told_of(source: str, copy: Path) -> Iterator[None]:
    """Errors about the copy name the file that the user gave."""
    try:
        yield
    except ImageError as error:
        told = error.brief.replace(str(copy), source)
        raise ImageError(told, details=error.details) from error


def _manifest_of_foreign(
    disk: Path, digest: str, header: Qcow2Header, source: str, wanted: Wanted
) -> Manifest:
    try:
        return Manifest(
            digest=digest,
            name=wanted.name or wanted.default_name or PurePosixPath(told(source)).stem,
            created_at=datetime.now(UTC),
            virtual_size_bytes=header.virtual_size_bytes,
            disk_sha256=sha256_of(disk),
            identity="nocloud",
            recipe={"source": told(source), "sha256": digest},
            firmware=wanted.firmware,
        )
    except ValidationError as error:
        raise ImageError(
            f"{wanted.name or source} is not a valid name of an image",
            hint=f"ai-how image import {shlex.quote(source)} --name NAME",
        ) from error


def told(source: str) -> str:
    """An absolute path, or an address without the password and the token that it may carry."""
    if not is_url(source):
        return str(Path(source).absolute())
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"
