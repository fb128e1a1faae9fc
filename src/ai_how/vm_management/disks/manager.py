"""The disks of the nodes: bases placed once per host, and thin overlays that stand on them."""

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
    """How large a disk is to its guest, and what it takes on the host.

    `virtual_bytes` is None where QEMU's own user holds the file and we may not read it.
    """

    virtual_bytes: int | None
    allocated_bytes: int


class DiskManager:
    """All disks in one storage. Paths come from `storage` alone; nothing is found by its name."""

    def __init__(self, storage: StoragePaths) -> None:
        self.storage = storage

    def check_storage(self) -> None:
        """Raises HostError where another user could swap a disk or an image under a guest."""
        for directory in (self.storage.root, self.storage.bases, self.storage.disks):
            check_chain(directory, is_made=False)

    def free_bytes(self) -> int:
        """What the file system of the storage has left for us."""
        there = next(p for p in (self.storage.root, *self.storage.root.parents) if p.exists())
        return shutil.disk_usage(there).free

    def base_need(self, image: Image) -> DiskNeed:
        """What placing the image's disk will take: nothing where it is, or can be linked."""
        seen = image.disk.stat()
        there = next(p for p in (self.storage.bases, *self.storage.bases.parents) if p.exists())
        is_free = self.storage.base(image.digest).exists() or there.stat().st_dev == seen.st_dev
        size = 0 if is_free else seen.st_blocks * 512
        return DiskNeed(f"image {image.name}", size, size)

    def ensure_base(self, image: Image) -> Path:
        """Have the image's disk where QEMU can read it, as its manifest says. Safe to repeat."""
        target = self.storage.base(image.digest)
        ensure_placed(self.storage, image.disk, target, sha256=image.manifest.disk_sha256)
        header = read_header(target)
        if header.virtual_size_bytes != image.manifest.virtual_size_bytes:
            raise ImageError(f"{target} has {header.virtual_size_bytes} bytes, not as its manifest")
        return target

    def ensure_kernel(self, image: Image) -> tuple[Path | None, Path | None]:
        """The image's kernel and initrd where QEMU can read them; None for what it has not."""
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
        """Remove the bases of all digests but these, and never one that an overlay stands on."""
        return remove_unused(self.storage, used)

    def is_claimed(self, cluster: str, cluster_id: UUID) -> bool:
        """Whether the cluster has its directory. Raises OwnershipError where another has it."""
        return is_ours(self._marker(cluster), cluster_id)

    def claim_directory(self, cluster: str, cluster_id: UUID) -> Applied:
        """Have a directory for the cluster's disks; OwnershipError where another has it."""
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
        """Have a node's disk at `storage.disk(cluster, node)`: a thin overlay on `base`, 0600.

        With `saved`, an overlay on that base, it begins as a copy of it. KEPT where that very
        overlay is there. Raises HostError where the base is larger than the disk, or what is there
        differs, or nobody knows whether it is still as it was saved; OwnershipError in a directory
        that is not this cluster's.
        """
        path, size = self._disk(cluster, node), size_gib * GIB
        smallest = read_header(base).virtual_size_bytes
        if size < smallest:
            raise HostError(
                f"a disk of {size_gib} GiB is too small for {node}",
                details=f"its image has {smallest / GIB:.1f} GiB",
                hint=f"disk_gb: {-(-smallest // GIB)}",
            )
        with disk_errors(path.parent):
            self.claim_directory(cluster, cluster_id)
            if path.is_symlink() or path.exists():
                _check_same(path, base, size)
                if saved:
                    raise HostError(
                        f"{path} is there already", hint=f"ls -l {shlex.quote(str(path))}"
                    )
                return Applied.KEPT
            _make_overlay(path, base, size, saved)
        return Applied.MADE

    def remove_disk(
        self, cluster: str, cluster_id: UUID, node: str, *, base: Path | None = None
    ) -> None:
        """Have no disk of this node; one that is not there is success.

        Raises OwnershipError where the directory is not this cluster's, a link is in its place, or
        (where `base` is given) something else than an overlay on it.
        """
        path = self._disk(cluster, node)
        if not is_ours(self._marker(cluster), cluster_id):
            return
        if path.is_symlink():
            raise OwnershipError(
                f"{path} is a link, and none of ours", hint=f"ls -l {shlex.quote(str(path))}"
            )
        if base and path.exists() and (problems := _overlay_problems(path, base)):
            raise OwnershipError(
                f"{path} is none of ours",
                details="\n".join(problems),
                hint=f"ls -l {shlex.quote(str(path))}",
            )
        with disk_errors(path.parent):
            for file in (_draft_of(path), self.storage.memory_copy(cluster, node), path):
                file.unlink(missing_ok=True)
            fsync_directory(path.parent)

    def remove_cluster_directory(self, cluster: str, cluster_id: UUID) -> None:
        """Have no directory of this cluster, once its disks are gone; absent is success.

        Raises OwnershipError where it is not this cluster's, or something else is in it.
        """
        marker = self._marker(cluster)
        with disk_errors(marker.parent):
            if is_ours(marker, cluster_id) or marker.parent.is_dir():
                remove_marked(marker)

    def resize(self, path: Path, size_gib: int) -> None:
        """Grow a disk that no guest is using. Raises HostError where it would shrink."""
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
        """Write a disk that no guest is using, with its base, as one compressed qcow2 to `target`.

        `target` appears when it was read back from the disk and is whole, or not at all, and
        nothing is ever replaced. Raises ImageError where it does not hold what the disk does.
        """
        self._read_ours(path)
        if target.is_symlink() or target.exists():
            raise HostError(f"{target} is there already", hint=f"ls -l {shlex.quote(str(target))}")
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
        """How large a disk is, also while a guest is using it. Raises ImageError if absent."""
        try:
            allocated = path.stat().st_blocks * 512
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        if not os.access(path, os.R_OK):
            return DiskUsage(None, allocated)
        return DiskUsage(read_header(path, allow_backing=True).virtual_size_bytes, allocated)

    def find_problems(self, path: Path, base: Path) -> tuple[str, ...]:
        """What is wrong with a node's disk and its base, in a few words each; for status."""
        problems = []
        if not base.exists():
            problems.append(f"image missing ({base})")
        else:
            problems += _header_problems(base)
        if path.is_symlink() or not path.exists():
            return "disk missing" if not path.is_symlink() else "disk is a link", *problems
        return *_overlay_problems(path, base), *problems

    def _marker(self, cluster: str) -> Path:
        return self.storage.marker(_checked(cluster))

    def check_disk(self, path: Path, base: Path) -> None:
        """Raises HostError for a disk that is not one on this base, in a few words why."""
        if problems := ["it is a link"] if path.is_symlink() else _overlay_problems(path, base):
            raise HostError(
                f"{path} is not the disk that it was",
                details="\n".join(problems),
                hint=f"qemu-img info -U {shlex.quote(str(path))}",
            )

    def _disk(self, cluster: str, node: str) -> Path:
        return self.storage.disk(_checked(cluster), _checked(node))

    def _read_ours(self, path: Path) -> Qcow2Header:
        """The header of a disk that stands on one of our bases, or alone: QEMU will open both."""
        header = read_header(path, allow_backing=True)
        if header.backing_file is None:
            return header
        base = Path(header.backing_file)
        is_known = is_same_file(base, self.storage.bases / base.name)
        if not is_known or header.backing_format != "qcow2":
            raise OwnershipError(f"{path} stands on {base}, which is not one of our images")
        read_header(base)
        return header


def _checked(name: str) -> str:
    """The name; HostError for one that could lead out of its directory."""
    if not _LABEL.fullmatch(name):
        raise HostError(f"{name[:80]!a} cannot be the name of a file of ours")
    return name


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{DRAFT_SUFFIX}")


def _make_overlay(path: Path, base: Path, virtual_bytes: int, saved: Path | None) -> None:
    draft = _draft_of(path)
    draft.unlink(missing_ok=True)  # only a killed run leaves one: the cluster's lock is held
    try:
        if saved:
            copy_sparse(saved, draft)
        else:
            qemu_img.make_overlay(draft, base=base, virtual_bytes=virtual_bytes)
        draft.chmod(0o600)
        sync(draft)
        path.hardlink_to(draft)  # unlike a rename it fails where a file has come up meanwhile
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
        problems = [f"it has {now / GIB:.1f} GiB, and {virtual_bytes / GIB:.1f} GiB are asked for"]
    raise HostError(
        f"{path} is there already, and is not the disk that was asked for",
        details="\n".join(problems),
        hint=f"ls -l {shlex.quote(str(path))}",
    )


def _overlay_problems(path: Path, base: Path) -> tuple[str, ...]:
    try:
        header = read_header(path, allow_backing=True)
    except ImageError as error:
        # A running guest's disk belongs to QEMU's own user: that we may not look is no problem.
        return () if isinstance(error.__cause__, PermissionError) else (error.brief,)
    problems = []
    if not is_same_file(Path(header.backing_file or "/"), base):
        problems.append(f"its backing file is {header.backing_file}, not {base}")
    elif header.backing_format != "qcow2":
        problems.append(f"its backing file is taken for {header.backing_format}, not qcow2")
    return tuple(problems)


def _header_problems(base: Path) -> tuple[str, ...]:
    try:
        read_header(base)
    except ImageError as error:
        return (error.brief,)
    return ()
