"""The disks of the nodes: base images, one per host, and thin qcow2 overlays on them."""

import os
import re
import shlex
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from ai_how.errors import HostError, ImageError, OwnershipError
from ai_how.images import qemu_img
from ai_how.images.copying import (
    Progress,
    copy_sparse,
    disk_errors,
    draft_directory,
    forget_cached,
    sweep_drafts,
    sync,
)
from ai_how.images.manifest import Image
from ai_how.images.qcow2_header import Qcow2Header, read_header
from ai_how.plan.step import Applied
from ai_how.state.files import fsync_directory
from ai_how.state.owned_directory import (
    DRAFT_SUFFIX,
    check_chain,
    claim,
    ensure_traversable,
    is_ours,
    is_same_file,
    remove_marked,
)
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.base_images import ensure_placed, remove_unused
from ai_how.vm_management.disks.space import GIB, DiskNeed

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """The virtual size of a disk, and the space that it uses on the host.

    `virtual_bytes` is None if the file belongs to QEMU's own user and is not readable.
    """

    virtual_bytes: int | None
    allocated_bytes: int


class DiskManager:
    """All disks in one storage. Paths come from `storage` only; no search by name."""

    def __init__(self, storage: StoragePaths) -> None:
        self.storage = storage

    def check_storage(self) -> None:
        """Raises HostError if another user could replace a disk or an image."""
        for directory in (self.storage.root, self.storage.bases, self.storage.disks):
            check_chain(directory, is_made=False)

    def free_bytes(self) -> int:
        """The free bytes of the file system of the storage."""
        there = next(p for p in (self.storage.root, *self.storage.root.parents) if p.exists())
        return shutil.disk_usage(there).free

    def base_need(self, image: Image) -> DiskNeed:
        """The space to place the image's disk: zero if it is placed, or can be hard-linked."""
        info = image.disk.stat()
        there = next(p for p in (self.storage.bases, *self.storage.bases.parents) if p.exists())
        is_free = self.storage.base(image.digest).exists() or there.stat().st_dev == info.st_dev
        size = 0 if is_free else info.st_blocks * 512
        return DiskNeed(f"image {image.name}", size, size)

    def ensure_base(self, image: Image) -> Path:
        """Place the image's disk in the storage, verified against its manifest. Idempotent."""
        target = self.storage.base(image.digest)
        ensure_placed(self.storage, image.disk, target, sha256=image.manifest.disk_sha256)
        header = read_header(target)
        if header.virtual_size_bytes != image.manifest.virtual_size_bytes:
            raise ImageError(
                f"{target} has a virtual size of {header.virtual_size_bytes} bytes, "
                f"its manifest says {image.manifest.virtual_size_bytes}"
            )
        return target

    def ensure_kernel(self, image: Image) -> tuple[Path | None, Path | None]:
        """Place the image's kernel and initrd in the storage; None for an absent one."""
        placed = []
        for source, sha256, target in (
            (image.kernel, image.manifest.kernel_sha256, self.storage.base_kernel(image.digest)),
            (image.initrd, image.manifest.initrd_sha256, self.storage.base_initrd(image.digest)),
        ):
            if source and sha256:
                ensure_placed(self.storage, source, target, sha256=sha256)
            placed.append(target if source else None)
        return placed[0], placed[1]

    def remove_unused_bases(self, used: Collection[str]) -> tuple[Path, ...]:
        """Remove all bases except these digests and the backing files of overlays."""
        return remove_unused(self.storage, used)

    def is_claimed(self, cluster: str, cluster_id: UUID) -> bool:
        """Whether the cluster's directory exists. Raises OwnershipError if it is another's."""
        return is_ours(self._marker(cluster), cluster_id)

    def claim_directory(self, cluster: str, cluster_id: UUID) -> Applied:
        """Create the directory of the cluster's disks. Raises OwnershipError if it is another's."""
        is_there = self.is_claimed(cluster, cluster_id)
        marker = self._marker(cluster)
        with disk_errors(marker.parent):
            ensure_traversable(marker.parent, below=self.storage.root)
            check_chain(self.storage.root)
            claim(marker, cluster_id)
        return Applied.KEPT if is_there else Applied.MADE

    def create_overlay(
        self,
        cluster: str,
        cluster_id: UUID,
        node: str,
        *,
        base: Path,
        size_gib: int,
        saved: Path | None = None,
    ) -> Applied:
        """Create a node's disk at `storage.disk(cluster, node)`: a thin overlay on `base`, 0600.

        With `saved`, another overlay on that base, the disk is a copy of it. Returns KEPT if the
        same overlay exists already. Raises HostError if the base is larger than the disk, if the
        existing file differs, or if a file exists and `saved` is given: it may have been written to
        since. Raises OwnershipError in a directory that is not this cluster's.
        """
        path, size = self._disk(cluster, node), size_gib * GIB
        smallest = read_header(base).virtual_size_bytes
        if size < smallest:
            raise HostError(
                f"a disk of {size_gib} GiB is too small for {node}",
                details=f"the virtual size of its image is {smallest / GIB:.1f} GiB",
                hint=f"disk_gb: {-(-smallest // GIB)}",
            )
        with disk_errors(path.parent):
            self.claim_directory(cluster, cluster_id)
            if path.is_symlink() or path.exists():
                _check_same(path, base, size)
                if saved:
                    raise HostError(
                        f"{path} exists already", hint=f"ls -l {shlex.quote(str(path))}"
                    )
                return Applied.KEPT
            _make_overlay(path, base, size, saved)
        return Applied.MADE

    def remove_disk(
        self, cluster: str, cluster_id: UUID, node: str, *, base: Path | None = None
    ) -> None:
        """Remove a node's disk. An absent disk is success.

        Raises OwnershipError if the directory is not this cluster's, if the file is a symbolic
        link, or, with `base`, if it is not an overlay on that base.
        """
        path = self._disk(cluster, node)
        if not is_ours(self._marker(cluster), cluster_id):
            return
        if path.is_symlink():
            raise OwnershipError(
                f"{path} is a symbolic link, which ai-how does not create",
                hint=f"ls -l {shlex.quote(str(path))}",
            )
        if base and path.exists() and (problems := _overlay_problems(path, base)):
            raise OwnershipError(
                f"{path} is not a disk of this node",
                details="\n".join(problems),
                hint=f"ls -l {shlex.quote(str(path))}",
            )
        with disk_errors(path.parent):
            for file in (_draft_of(path), self.storage.memory_copy(cluster, node), path):
                file.unlink(missing_ok=True)
            fsync_directory(path.parent)

    def remove_cluster_directory(self, cluster: str, cluster_id: UUID) -> None:
        """Remove the cluster's directory after its disks. An absent directory is success.

        Raises OwnershipError if it is not this cluster's, or holds other files.
        """
        marker = self._marker(cluster)
        with disk_errors(marker.parent):
            if is_ours(marker, cluster_id) or marker.parent.is_dir():
                remove_marked(marker)

    def resize(self, path: Path, size_gib: int) -> None:
        """Grow a disk that no guest uses, to `size_gib`. Raises HostError if it would shrink."""
        now, size = self._read_ours(path).virtual_size_bytes, size_gib * GIB
        if size < now:
            raise HostError(
                f"{path} has {now / GIB:.1f} GiB and would shrink to {size_gib} GiB",
                hint=f"disk_gb: {-(-now // GIB)}",
            )
        if size > now:
            qemu_img.grow(path, virtual_bytes=size)
            sync(path)

    def back_up(self, path: Path, target: Path, *, on_progress: Progress | None = None) -> None:
        """Write a disk that no guest uses, with its base, to `target`: one compressed qcow2.

        `target` appears only after it was read back and compared with the disk. An existing file is
        never replaced: HostError. Raises ImageError if the copy differs from the disk.
        """
        self._read_ours(path)
        if target.is_symlink() or target.exists():
            raise HostError(f"{target} exists already", hint=f"ls -l {shlex.quote(str(target))}")
        with disk_errors(target.parent):
            sweep_drafts(target.parent)
            with draft_directory(target.parent) as directory:
                draft = directory / target.name
                qemu_img.convert(
                    path, draft, source_format="qcow2", compress=True, on_progress=on_progress
                )
                draft.chmod(0o600)
                sync(draft)
                forget_cached(draft)
                qemu_img.check_image(draft, read_header(draft))
                qemu_img.check_same(path, draft)
                draft.rename(target)
            fsync_directory(target.parent)

    def usage(self, path: Path) -> DiskUsage:
        """The size of a disk; a guest may use it meanwhile. Raises ImageError if it is absent."""
        try:
            allocated = path.stat().st_blocks * 512
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        if not os.access(path, os.R_OK):
            return DiskUsage(None, allocated)
        return DiskUsage(read_header(path, allow_backing=True).virtual_size_bytes, allocated)

    def find_problems(self, path: Path, base: Path) -> tuple[str, ...]:
        """The problems of a node's disk and its base, a few words each, for `status`."""
        problems = []
        if not base.exists():
            problems.append(f"image missing ({base})")
        else:
            problems += _header_problems(base)
        if path.is_symlink() or not path.exists():
            return "disk missing" if not path.is_symlink() else "disk is a symbolic link", *problems
        return *_overlay_problems(path, base), *problems

    def _marker(self, cluster: str) -> Path:
        return self.storage.marker(_checked(cluster))

    def check_disk(self, path: Path, base: Path) -> None:
        """Raises HostError, with the reason, if a disk is not an overlay on this base."""
        if (
            problems := ["it is a symbolic link"]
            if path.is_symlink()
            else _overlay_problems(path, base)
        ):
            raise HostError(
                f"{path} is not the disk of this node",
                details="\n".join(problems),
                hint=f"qemu-img info -U {shlex.quote(str(path))}",
            )

    def _disk(self, cluster: str, node: str) -> Path:
        return self.storage.disk(_checked(cluster), _checked(node))

    def _read_ours(self, path: Path) -> Qcow2Header:
        """The header of a disk whose backing file, if any, is a base image: QEMU opens both."""
        header = read_header(path, allow_backing=True)
        if header.backing_file is None:
            return header
        base = Path(header.backing_file)
        is_known = is_same_file(base, self.storage.bases / base.name)
        if not is_known or header.backing_format != "qcow2":
            raise OwnershipError(
                f"the backing file of {path} is {base}, which is not an image in this storage"
            )
        read_header(base)
        return header


def _checked(name: str) -> str:
    """The name. Raises HostError if it could lead out of its directory."""
    if not _LABEL.fullmatch(name):
        raise HostError(f"{name[:80]!a} is not a valid name of a cluster or node")
    return name


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{DRAFT_SUFFIX}")


def _make_overlay(path: Path, base: Path, virtual_bytes: int, saved: Path | None) -> None:
    draft = _draft_of(path)
    draft.unlink(missing_ok=True)  # left by a killed run: this run holds the cluster's lock
    try:
        if saved:
            copy_sparse(saved, draft)
        else:
            qemu_img.make_overlay(draft, base=base, virtual_bytes=virtual_bytes)
        draft.chmod(0o600)
        sync(draft)
        path.hardlink_to(draft)  # unlike a rename, it fails if the file exists
        draft.unlink()
        fsync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _check_same(path: Path, base: Path, virtual_bytes: int) -> None:
    problems = list(_overlay_problems(path, base))
    if not problems:
        now = read_header(path, allow_backing=True).virtual_size_bytes
        if now == virtual_bytes:
            return
        problems = [
            f"its size is {now / GIB:.1f} GiB, the file asks for {virtual_bytes / GIB:.1f} GiB"
        ]
    raise HostError(
        f"{path} exists already, and is another disk than the file asks for",
        details="\n".join(problems),
        hint=f"ls -l {shlex.quote(str(path))}",
    )


def _overlay_problems(path: Path, base: Path) -> tuple[str, ...]:
    try:
        header = read_header(path, allow_backing=True)
    except ImageError as error:
        # The disk of a running guest may belong to QEMU's own user, and is not readable then.
        return () if isinstance(error.__cause__, PermissionError) else (error.brief,)
    problems = []
    if not is_same_file(Path(header.backing_file or "/"), base):
        problems.append(f"its backing file is {header.backing_file}, not {base}")
    elif header.backing_format != "qcow2":
        problems.append(f"the format of its backing file is {header.backing_format}, not qcow2")
    return tuple(problems)


def _header_problems(base: Path) -> tuple[str, ...]:
    try:
        read_header(base)
    except ImageError as error:
        return (error.brief,)
    return ()
