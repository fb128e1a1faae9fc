"""Base images in the storage: one read-only file per digest, shared by all clusters.

A base is hashed when it is placed, and again if its inode has changed since. A base that differs
from its manifest is never booted.
"""

import errno
import json
import os
import shlex
import stat
from collections.abc import Collection
from pathlib import Path

from ai_how.errors import ImageError, OwnershipError
from ai_how.images.copying import copy_sparse, disk_errors, sha256_of
from ai_how.images.qcow2_header import read_header
from ai_how.state.files import DRAFT_SUFFIX as RECORD_DRAFT_SUFFIX
from ai_how.state.files import fsync_directory, replaced_atomically
from ai_how.state.lock import held_lock
from ai_how.state.owned_directory import DRAFT_SUFFIX, check_chain, ensure_traversable
from ai_how.state.paths import StoragePaths

# Another run may be copying a large image.
_LOCK_WAIT_S = 600
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def ensure_placed(storage: StoragePaths, source: Path, target: Path, *, sha256: str) -> None:
    """Place `source` at `target`, read-only, and verify its digest. Idempotent.

    The file is hard-linked, or copied as a sparse file if the file systems differ. Raises
    ImageError with both digests if a file does not have this digest.
    """
    ensure_traversable(target.parent, below=storage.root)
    check_chain(storage.root)
    doing = f"place {target.name}"
    with (
        held_lock(storage.lock, doing=doing, wait_s=_LOCK_WAIT_S),
        disk_errors(target.parent),
    ):
        if os.path.lexists(target):
            _verify(storage, target, sha256)
        else:
            _place(source, target, sha256)
            _write_record(storage, target, sha256)


def remove_unused(storage: StoragePaths, used: Collection[str]) -> tuple[Path, ...]:
    """Remove all bases, except those in `used` and the backing files of overlays and saved VMs.

    Returns the removed files. Removes nothing if an overlay cannot be read.
    """
    if not storage.bases.is_dir():
        return ()
    with (
        held_lock(storage.lock, doing="remove unused bases", wait_s=_LOCK_WAIT_S),
        disk_errors(storage.bases),
    ):
        for suffix in (DRAFT_SUFFIX, RECORD_DRAFT_SUFFIX):
            for draft in storage.bases.glob(f".*{suffix}"):
                draft.unlink()
        try:
            kept = {*used, *_digests_below_overlays(storage)}
        except ImageError:
            return ()
        removed = tuple(
            path
            for path in sorted(storage.bases.iterdir())
            if not path.name.startswith(".") and path.stem not in kept
        )
        for path in removed:
            storage.verified(path).unlink(missing_ok=True)
            path.unlink()
        fsync_directory(storage.bases)
    return removed


def _digests_below_overlays(storage: StoragePaths) -> set[str]:
    places = (storage.disks, storage.saved, storage.preparing)
    overlays = (path for place in places for path in place.glob("*/*.qcow2"))
    names = (read_header(path, allow_backing=True).backing_file for path in overlays)
    return {Path(name).stem for name in names if name}


def _place(source: Path, target: Path, sha256: str) -> None:
    draft = target.with_name(f".{target.name}{DRAFT_SUFFIX}")
    draft.unlink(missing_ok=True)  # left by a killed run: this run holds the lock
    try:
        try:
            draft.hardlink_to(source)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            copy_sparse(source, draft)
        _compare(draft, sha256, f"ai-how image verify {target.stem[:12]}")
        draft.chmod(0o444)
        draft.rename(target)
        fsync_directory(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def check_unchanged(storage: StoragePaths, target: Path, sha256: str) -> None:
    """Raises ImageError if a file has changed. Hashes it only if its inode has changed."""
    with disk_errors(target.parent):
        _verify(storage, target, sha256)


def record_hash(storage: StoragePaths, target: Path, sha256: str) -> None:
    """Record the digest of a file that was just hashed."""
    with disk_errors(target.parent):
        _write_record(storage, target, sha256)


def _verify(storage: StoragePaths, target: Path, sha256: str) -> None:
    if not stat.S_ISREG(target.lstat().st_mode):
        raise OwnershipError(
            f"{target} is not a regular file", hint=f"ls -l {shlex.quote(str(target))}"
        )
    if _read_record(storage.verified(target)) != _fingerprint(target, sha256):
        # After its removal, the next run places it again from the image store.
        _compare(target, sha256, f"rm -f {shlex.quote(str(target))}")
        _write_record(storage, target, sha256)


def _compare(path: Path, sha256: str, hint: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise ImageError(
            f"{path.name} is not what its image's manifest says",
            details=f"{path}\nexpected sha256 {sha256}\nfound    sha256 {found}",
            hint=hint,
        )


def _write_record(storage: StoragePaths, target: Path, sha256: str) -> None:
    with replaced_atomically(storage.verified(target)) as draft:
        draft.write_text(json.dumps(_fingerprint(target, sha256)))


def _fingerprint(path: Path, sha256: str) -> list[int | str]:
    """A value that changes with every write to the file: only the kernel sets ctime."""
    info = path.stat()
    return [sha256, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def _read_record(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
