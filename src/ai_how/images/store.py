"""The image store: one read-only directory per image, named by digest and created atomically.

Foreign files are copied into the store first; only the private copy is checked and used.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import ValidationError

from ai_how.errors import HostError, ImageError
from ai_how.images.copying import (
    Progress,
    copy_sparse,
    disk_errors,
    draft_directory,
    sha256_of,
    sweep_drafts,
    sync,
)
from ai_how.images.exchange import is_export, unpack_export
from ai_how.images.manifest import DISK, MANIFEST, BrokenImage, Image, Manifest, read_manifest
from ai_how.images.qcow2_header import MAX_VIRTUAL_BYTES, Qcow2Header, find_format, read_header
from ai_how.images.qemu_img import check_image, convert
from ai_how.state.lock import held_lock
from ai_how.state.paths import ImagePaths

_SHORTEST_PREFIX = 4
_LOCK_WAIT_S = 60
_SECTOR_BYTES = 512
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class ImageStore:
    """All images of a user. Safe to use from several processes."""

    def __init__(self, root: Path, *, max_virtual_bytes: int = MAX_VIRTUAL_BYTES) -> None:
        self.paths = ImagePaths(root.absolute())
        self.max_virtual_bytes = max_virtual_bytes

    def list(self) -> tuple[Image | BrokenImage, ...]:
        """Everything in the store, the newest first; broken images come last, with the reason."""
        if not self.paths.root.is_dir():
            return ()
        seen = [
            self._read(path)
            for path in sorted(self.paths.root.iterdir())
            if not path.name.startswith(".")
        ]
        images = [one for one in seen if isinstance(one, Image)]
        images.sort(key=lambda image: image.manifest.created_at, reverse=True)
        return *images, *(one for one in seen if isinstance(one, BrokenImage))

    def find(self, wanted: str) -> Image | None:
        """Find an image by its digest, by its name (the newest), or by the start of its digest.

        Raises ImageError if a start fits several images, or if the image is broken.
        """
        everything = self.list()
        images = [one for one in everything if isinstance(one, Image)]
        for image in images:
            if wanted in (image.digest, image.name):
                return image
        if len(wanted) < _SHORTEST_PREFIX:
            return None
        fitting = [one for one in everything if one.digest.startswith(wanted)]
        if len(fitting) > 1:
            raise ImageError(
                f"{wanted} is the start of {len(fitting)} image digests",
                details="\n".join(one.digest for one in fitting),
            )
        for one in fitting:
            if isinstance(one, Image):
                return one
            raise _broken(one)
        return None

    def find_built(self, asked_digest: str) -> Image | None:
        """The newest image that was made by the recipe of this digest, here if there is one.

        Raises ImageError where the only one is broken.
        """
        everything = self.list()
        made = [one for one in everything if isinstance(one, Image) and one.made_by(asked_digest)]
        if made:
            return next((one for one in made if not one.manifest.is_imported), made[0])
        for one in everything:
            if isinstance(one, BrokenImage) and one.digest == asked_digest:
                raise _broken(one)
        return None

    def get(self, wanted: str) -> Image:
        """Like `find`. Raises ImageError with the existing names if there is none."""
        if image := self.find(wanted):
            return image
        names = sorted({one.name for one in self.list() if isinstance(one, Image)})
        raise ImageError(
            f"there is no image {wanted}",
            details=f"the store has: {', '.join(names)}" if names else "the store is empty",
            hint="ai-how image list" if names else "ai-how image build",
        )

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A private directory in the store to build an image in; `add` takes it from there."""
        doing = "open a draft"
        with (
            disk_errors(self.paths.root),
            held_lock(self.paths.lock, doing=doing, wait_s=_LOCK_WAIT_S),
        ):
            sweep_drafts(self.paths.root)
        with draft_directory(self.paths.root) as draft:
            yield draft

    def add(self, draft: Path, manifest: Manifest) -> Image:
        """Turn the files of a draft and a manifest into an image, atomically.

        An existing image with this digest is kept. Raises ImageError if the draft has other files
        than the manifest names, or a disk that ai-how would not boot.
        """
        found = {path.name for path in draft.iterdir()} - {MANIFEST}
        if draft.parent != self.paths.root or found != set(manifest.sha256_by_file):
            raise ImageError(
                f"{draft} is not a draft of {manifest.name}",
                details=f"it contains {sorted(found)}, not {sorted(manifest.sha256_by_file)}",
            )
        self._check_disk(draft, manifest)
        with disk_errors(self.paths.root):
            # Without the mark, an earlier ai-how can read it.
            left_out = None if manifest.is_imported else {"is_imported"}
            text = manifest.model_dump_json(indent=2, exclude=left_out)
            (draft / MANIFEST).write_text(f"{text}\n")
            for path in draft.iterdir():
                path.chmod(0o444)
                sync(path)
            sync(draft)
            return self._publish(draft, manifest)

    def verify(self, image: Image) -> None:
        """Raises ImageError unless every byte matches the manifest and QEMU finds no damage."""
        for name, wanted in image.manifest.sha256_by_file.items():
            path = image.directory / name
            with disk_errors(path.parent):
                seen = sha256_of(path)
            if seen != wanted:
                raise ImageError(
                    f"{path} has changed",
                    details=f"expected sha256 {wanted}\nfound    sha256 {seen}",
                    hint=f"ai-how image rm {image.digest[:12]}",
                )
        self._check_disk(image.directory, image.manifest)
        check_image(image.disk, read_header(image.disk, max_virtual_bytes=self.max_virtual_bytes))

    def remove(self, image: Image | BrokenImage, *, used_by: Mapping[str, str]) -> None:
        """Remove an image from the store.

        `used_by` are the clusters that use it, by name, each with its kind. Raises HostError naming
        them.
        """
        if used_by:
            name, kind = next(iter(used_by.items()))
            raise HostError(
                f"image {image.digest[:12]} is used by {', '.join(used_by)}",
                hint=f"ai-how {kind} destroy --cluster {shlex.quote(name)}",
            )
        doing = f"remove image {image.digest[:12]}"
        with (
            disk_errors(self.paths.root),
            held_lock(self.paths.lock, doing=doing, wait_s=_LOCK_WAIT_S),
        ):
            self._discard(image.directory)

    def import_file(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        sha256: str | None = None,
        on_progress: Progress | None = None,
    ) -> Image:
        """Import a disk by path or https address; it boots with firmware and its own boot loader.

        Its digest is that of the original file; an exported image keeps its own. Raises
        ImageError for anything that ai-how would not boot; nothing of it remains then.
        """
        is_address = isinstance(source, str) and "://" in source
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise ImageError(
                f"{sha256} is not a sha256", hint=f"sha256sum {shlex.quote(str(source))}"
            )
        if is_address and sha256 is None:
            raise ImageError(
                f"{source} is refused: a download needs its sha256",
                hint=f"ai-how image import {shlex.quote(str(source))} --sha256 SHA256",
            )
        if is_address and (known := self._known(sha256, name)):
            return known
        with self.draft() as draft:
            copy = draft / "incoming"
            if is_address:
                limit = self.max_virtual_bytes
                # With it comes TLS, which nearly no run needs.
                from ai_how.images.download import download  # noqa: PLC0415

                download(str(source), copy, max_bytes=limit, on_progress=on_progress)
            else:
                copy_sparse(Path(source), copy, on_progress=on_progress)
            if is_export(copy):
                return self._take_in_export(copy, draft, str(source), name=name, sha256=sha256)
            # This comes first: the later steps take as long as a file claims to be.
            kind = self._look_at(copy, source=str(source))
            digest = sha256_of(copy)
            _require_digest(str(source), digest, sha256)
            if known := self._known(digest, name):
                return known
            header = self._take_in(copy, draft / DISK, kind, source=str(source))
            manifest = _manifest_of_foreign(draft / DISK, digest, header, str(source), name)
            return self.add(draft, manifest)

    def _take_in_export(
        self, copy: Path, draft: Path, source: str, *, name: str | None, sha256: str | None
    ) -> Image:
        """Turn the private copy of an exported image into that image."""
        if sha256 is not None:
            _require_digest(source, sha256_of(copy), sha256)
        with _told_of(source, draft / MANIFEST):
            manifest = unpack_export(copy, draft, source=source)
        copy.unlink()
        if name not in (None, manifest.name):
            raise ImageError(
                f"{source} is the image {manifest.name}: an exported image keeps its name",
                hint=f"ai-how image import {shlex.quote(source)}",
            )
        with _told_of(source, draft / DISK):
            check_image(
                draft / DISK, read_header(draft / DISK, max_virtual_bytes=self.max_virtual_bytes)
            )
        marks = {"created_at": datetime.now(UTC), "is_imported": True}
        return self.add(draft, manifest.model_copy(update=marks))

    def _look_at(self, copy: Path, *, source: str) -> str | None:
        """The format of an acceptable file: "qcow2", or None for a raw disk.

        Raises ImageError for any other file.
        """
        size, kind = copy.stat().st_size, find_format(copy)
        if size > self.max_virtual_bytes:
            raise ImageError(
                f"{source} is refused: it is larger than {self.max_virtual_bytes} bytes"
            )
        if kind is None:
            if not size or size % _SECTOR_BYTES:
                raise ImageError(f"{source} is refused: a raw disk cannot have {size} bytes")
        elif kind == "qcow2":
            with _told_of(source, copy):
                read_header(copy, max_virtual_bytes=self.max_virtual_bytes)
        else:
            raise ImageError(
                f"{source} is refused: its content is {kind}, neither qcow2 nor a raw disk"
            )
        return kind

    def _take_in(self, copy: Path, disk: Path, kind: str | None, *, source: str) -> Qcow2Header:
        """Turn the checked private copy into a qcow2 that QEMU has checked as well."""
        if kind is None:
            convert(copy, disk, source_format="raw")
            copy.unlink()
        else:
            copy.rename(disk)
        with _told_of(source, disk):
            header = read_header(disk, max_virtual_bytes=self.max_virtual_bytes)
            check_image(disk, header)
        return header

    def _known(self, digest: str | None, name: str | None) -> Image | None:
        """The image of an earlier import of these bytes; an image has one name."""
        image = self._read(self.paths.image((digest or "").lower()))
        if isinstance(image, BrokenImage):
            return None
        if name not in (None, image.name):
            raise ImageError(
                f"this image is in the store already, as {image.name}",
                hint=f"ai-how image rm {image.name}",
            )
        return image

    def _read(self, directory: Path) -> Image | BrokenImage:
        try:
            manifest = read_manifest(directory / MANIFEST)
            if manifest.digest != directory.name:
                return BrokenImage(directory, f"its manifest is for {manifest.digest}")
            for name in manifest.sha256_by_file:
                if not (directory / name).is_file():
                    return BrokenImage(directory, f"{name} is missing")
            self._check_disk(directory, manifest)
        except (ImageError, OSError) as error:
            return BrokenImage(directory, str(error))
        return Image(directory, manifest)

    def _check_disk(self, directory: Path, manifest: Manifest) -> None:
        header = read_header(directory / DISK, max_virtual_bytes=self.max_virtual_bytes)
        if header.virtual_size_bytes != manifest.virtual_size_bytes:
            raise ImageError(
                f"{directory / DISK} has a disk of {header.virtual_size_bytes} bytes, "
                f"but its manifest says {manifest.virtual_size_bytes}"
            )

    def _publish(self, draft: Path, manifest: Manifest) -> Image:
        target = self.paths.image(manifest.digest)
        with held_lock(self.paths.lock, doing=f"add image {manifest.name}", wait_s=_LOCK_WAIT_S):
            there = self._read(target)
            if isinstance(there, Image):
                return there
            self._discard(target)
            draft.chmod(0o555)
            draft.rename(target)
            sync(self.paths.root)
        return Image(target, manifest)

    def _discard(self, path: Path) -> None:
        """Remove `path` by one rename, then delete it; a sweep removes what a killed run left."""
        if path.is_dir() and not path.is_symlink():
            with draft_directory(self.paths.root) as grave:
                path.rename(grave)
                sync(self.paths.root)
        else:
            path.unlink(missing_ok=True)


def _require_digest(source: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted.lower():
        raise ImageError(
            f"{source} does not have the expected sha256",
            details=f"expected sha256 {wanted.lower()}\nfound    sha256 {found}",
        )


def _broken(image: BrokenImage) -> ImageError:
    return ImageError(
        f"image {image.digest[:12]} is broken",
        details=image.reason,
        hint=f"ai-how image rm {image.digest[:12]}",
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
    disk: Path, digest: str, header: Qcow2Header, source: str, name: str | None
) -> Manifest:
    try:
        return Manifest(
            digest=digest,
            name=name or PurePosixPath(_told(source)).stem,
            created_at=datetime.now(UTC),
            virtual_size_bytes=header.virtual_size_bytes,
            disk_sha256=sha256_of(disk),
            identity="nocloud",
            recipe={"source": _told(source), "sha256": digest},
        )
    except ValidationError as error:
        raise ImageError(
            f"{name or source} is not a valid name of an image",
            hint=f"ai-how image import {shlex.quote(source)} --name NAME",
        ) from error


def _told(source: str) -> str:
    """An absolute path, or an address without the password and the token that it may carry."""
    if "://" not in source:
        return str(Path(source).absolute())
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"
