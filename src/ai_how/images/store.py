"""The image store: one read-only directory per image, named by digest and created atomically.

Foreign files are copied into the store first; only the private copy is checked and used.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ai_how.errors import HostError, ImageError
from ai_how.images.copying import (
    Progress,
    disk_errors,
    draft_directory,
    sha256_of,
    sweep_drafts,
    sync,
)
from ai_how.images.manifest import DISK, MANIFEST, BrokenImage, Image, Manifest, read_manifest
from ai_how.images.qcow2_header import MAX_VIRTUAL_BYTES, read_header
from ai_how.images.qemu_img import check_image
from ai_how.spec.images import Firmware
from ai_how.state.lock import held_lock
from ai_how.state.paths import ImagePaths

_SHORTEST_PREFIX = 4
_LOCK_WAIT_S = 60


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
            (draft / MANIFEST).write_text(manifest.text)
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
        firmware: Firmware | None = None,
        on_progress: Progress | None = None,
    ) -> Image:
        """Import a disk by path or https address; it boots with firmware and its own boot loader.

        Its digest is that of the original file; an exported image keeps its own. Raises
        ImageError for anything that ai-how would not boot; nothing of it remains then.
        """
        # It takes images in, and is therefore above this module.
        from ai_how.images.importing import Wanted, import_disk  # noqa: PLC0415

        wanted = Wanted(name=name, sha256=sha256, firmware=firmware)
        return import_disk(self, source, wanted, on_progress=on_progress)[0]

    def read(self, digest: str) -> Image | BrokenImage:
        """The image in the directory of this digest; broken where there is none."""
        return self._read(self.paths.image(digest))

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


def _broken(image: BrokenImage) -> ImageError:
    return ImageError(
        f"image {image.digest[:12]} is broken",
        details=image.reason,
        hint=f"ai-how image rm {image.digest[:12]}",
    )
