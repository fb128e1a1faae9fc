"""Directories in the storage for VMs that are booted only to make something of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_how.images.copying import disk_errors, draft_directory
from ai_how.state.lock import held_lock
from ai_how.state.owned_directory import check_chain, ensure_traversable
from ai_how.state.paths import StoragePaths


@contextmanager
def storage_draft(
    storage: StoragePaths,
    parent: Path,
    lock: Path,
    *,
    doing: str,
    wait_s: float,
    clean_up: Callable[[], None],
) -> Iterator[Path]:
    """A draft in `parent`, which QEMU's own user can pass; one at a time, by the lock.

    `clean_up` first removes what killed runs have left. The draft is removed after the block,
    unless it was renamed.
    """
    ensure_traversable(parent, below=storage.root)
    check_chain(storage.root)
    with held_lock(lock, doing=doing, wait_s=wait_s), disk_errors(parent):
        clean_up()
        with draft_directory(parent) as draft:
            draft.chmod(0o711)
            yield draft
