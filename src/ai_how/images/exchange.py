"""Images as one file, for another machine: a tar of what the store keeps of one."""

import hashlib
import os
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ai_how.errors import ImageError
from ai_how.images.copying import Progress, disk_errors, new_file
from ai_how.images.manifest import (
    DISK,
    INITRD,
    KERNEL,
    MANIFEST,
    PACKAGES,
    TREE,
    Image,
    Manifest,
    read_manifest,
)
from ai_how.images.packed import END, header, padding

_NAMES = (MANIFEST, DISK, KERNEL, INITRD, TREE, PACKAGES)
_MAGIC, _MAGIC_AT = b"ustar", 257
_CHUNK_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 1 << 20


def export_image(image: Image, target: Path, *, on_progress: Progress | None = None) -> None:
    """Write an image to a new file, whole or not at all.

    Raises HostError where something is there, or the file system refuses; ImageError where a file
    of the image has changed.
    """
    total = sum((image.directory / name).stat().st_size for name in image.manifest.sha256_by_file)
    with new_file(target, needed_bytes=total) as draft, draft.open("xb") as file:
        _write_all(file, image, total, on_progress)


def _write_all(file: IO[bytes], image: Image, total: int, on_progress: Progress | None) -> None:
    wanted = image.manifest.sha256_by_file
    done = 0
    for name in (MANIFEST, *wanted):
        path = image.directory / name
        file.write(header(name, path.stat().st_size))
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if on_progress:
                    on_progress(min(1.0, done / total))
        file.write(padding(path.stat().st_size))
        if name in wanted and digest.hexdigest() != wanted[name]:
            raise ImageError(f"{path} has changed", hint=f"ai-how image verify {image.digest[:12]}")
    file.write(END)


def is_export(path: Path) -> bool:
    """Whether a file looks like one of `export_image`."""
    with path.open("rb") as file:
        file.seek(_MAGIC_AT)
        return file.read(len(_MAGIC)) == _MAGIC


def unpack_export(packed: Path, draft: Path, *, source: str) -> Manifest:
    """Unpack an exported image into a draft, and return its manifest.

    Every file must have the digest that the manifest says. Raises ImageError for anything else
    than the files of an image: a link, a device, another name.
    """
    seen: dict[str, str] = {}
    with packed.open("rb") as file, disk_errors(draft.parent, needed_bytes=packed.stat().st_size):
        for name, size in _members(file, source):
            if name in seen or (name == MANIFEST) != (not seen):
                raise _refused(source, f"{name} is not where it belongs")
            if name == MANIFEST and size > _MAX_MANIFEST_BYTES:
                raise _refused(source, f"{name} is too large")
            seen[name] = _copy(file, draft / name, size, source)
    if MANIFEST not in seen:
        raise _refused(source, f"it has no {MANIFEST}")
    manifest = read_manifest(draft / MANIFEST)
    del seen[MANIFEST]
    for name in sorted(seen.keys() | manifest.sha256_by_file.keys()):
        found, wanted = seen.get(name), manifest.sha256_by_file.get(name)
        if found != wanted:
            raise ImageError(
                f"{source} is refused: {name} differs from its manifest",
                details=f"expected sha256 {wanted}\nfound    sha256 {found}",
                hint=f"sha256sum {shlex.quote(source)}  # compare it with where it comes from",
            )
    (draft / MANIFEST).unlink()
    return manifest


def _members(file: IO[bytes], source: str) -> Iterator[tuple[str, int]]:
    """The name and size of each file; whoever asks reads it before the next one.

    The headers are read one by one: tarfile would follow extensions of any size.
    """
    end = os.fstat(file.fileno()).st_size
    while True:
        block = file.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise _refused(source, "it is damaged, or no exported image") from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.name not in _NAMES:
            raise _refused(source, f"it contains {info.name!r}, which is no file of an image")
        begin = file.tell()
        if not 0 <= info.size <= end - begin:
            raise _refused(source, f"{info.name} cannot have {info.size} bytes")
        yield info.name, info.size
        file.seek(begin + info.size + -info.size % tarfile.BLOCKSIZE)


def _copy(file: IO[bytes], target: Path, size: int, source: str) -> str:
    digest, left = hashlib.sha256(), size
    with target.open("xb") as copy:
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise _refused(source, "it ends too early")
            copy.write(chunk)
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def _refused(source: str, why: str) -> ImageError:
    return ImageError(
        f"{source} is refused: {why}", hint="ai-how image export NAME FILE  # on the other machine"
    )
