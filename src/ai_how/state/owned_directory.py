"""Directories of disks: no other user can swap a file there, and ai-how marked them.

QEMU opens a disk with more rights than another user has; a link in its place would misuse those
rights.
"""

import os
import secrets
import shlex
import stat
from pathlib import Path
from uuid import UUID

from ai_how.errors import HostError, OwnershipError
from ai_how.state.files import NEW_FILE, fsync_directory
from ai_how.state.links import others_may_write, resolve_links
from ai_how.state.paths import ensure_parents

DRAFT_SUFFIX = ".part"


def ensure_traversable(directory: Path, *, below: Path) -> None:
    """Create a directory and its parents from `below` on, accessible to QEMU's user."""
    missing = [path for path in (directory, *directory.parents) if path.is_relative_to(below)]
    for path in reversed(missing):
        ensure_parents(path)
        try:
            path.mkdir(mode=0o711)
        except FileExistsError:
            continue
        path.chmod(0o711)  # mkdir applies the umask to the mode


def check_chain(directory: Path, *, is_made: bool = True) -> None:
    """Raises HostError if another user could put a file or link in our path.

    `is_made`: the directory existed before; whoever removed it may put a link in its place.
    """
    for path in (directory, *directory.parents):
        try:
            # The owner of a link can change it; its target is checked as well.
            itself, target = path.lstat(), path.stat()
        except FileNotFoundError:
            if is_made or path.is_symlink():
                raise HostError(
                    f"{path} does not exist, or is a broken link",
                    hint=f"ls -ld {shlex.quote(str(path))}",
                ) from None
            continue
        if path == directory and not stat.S_ISDIR(itself.st_mode):
            raise HostError(f"{path} is not a directory", hint=f"ls -ld {shlex.quote(str(path))}")
        for owner in (itself.st_uid, target.st_uid):
            if owner not in (0, os.geteuid()):
                raise HostError(
                    f"{path} belongs to user {owner}, who could replace the disks below it",
                    hint=f"ls -ld {shlex.quote(str(path))}",
                )
        # In a sticky directory, /tmp for one, nobody can rename or remove what is not theirs.
        is_sticky_above = path != directory and target.st_mode & stat.S_ISVTX
        if others_may_write(target) and not is_sticky_above:
            raise HostError(
                f"other users can write to {path}", hint=f"chmod go-w {shlex.quote(str(path))}"
            )


def is_same_file(path: Path, ours: Path) -> bool:
    """Whether a path leads to our file: literally, or through links that are safe.

    After a storage was moved, with a link in its old place, disks name the old path.
    """
    if path == ours or not path.is_absolute():
        return path == ours
    try:
        found = resolve_links(path)
        if found == ours:
            return True
        check_chain(found.parent)
        return found.samefile(ours)
    except (HostError, OSError):
        return False


def claim(marker: Path, cluster_id: UUID) -> None:
    """Mark an unused directory for a cluster. Safe to repeat and to interrupt.

    Raises OwnershipError if the directory is not ours.
    """
    if is_ours(marker, cluster_id):
        return
    draft = marker.with_name(f"{marker.name}.{secrets.token_hex(4)}{DRAFT_SUFFIX}")
    fd = os.open(draft, NEW_FILE, 0o644)
    with os.fdopen(fd, "w") as file:
        file.write(f"{cluster_id}\n")
        file.flush()
        os.fsync(fd)
    draft.rename(marker)
    fsync_directory(marker.parent)


def is_ours(marker: Path, cluster_id: UUID) -> bool:
    """Whether a directory has this cluster's mark; False if it is absent, or empty and unused.

    Raises OwnershipError if it is not ours.
    """
    directory = marker.parent
    try:
        seen = directory.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(seen.st_mode):
        raise OwnershipError(
            f"{directory} is not a directory", hint=f"ls -ld {shlex.quote(str(directory))}"
        )
    if seen.st_uid != os.geteuid() or others_may_write(seen):
        raise OwnershipError(
            f"{directory} belongs to another user, or others can write to it",
            hint=f"ls -ld {shlex.quote(str(directory))}",
        )
    if marker.is_symlink() or not marker.is_file():
        if strangers(marker):
            raise OwnershipError(
                f"{directory} has no mark of ai-how, and is not empty",
                hint=f"ls -la {shlex.quote(str(directory))}",
            )
        return False
    if (found := marker.read_text(errors="replace").strip()) != str(cluster_id):
        raise OwnershipError(
            f"{directory} belongs to another cluster",
            details=f"expected id {cluster_id}\nfound    id {found}",
            hint=f"ls -la {shlex.quote(str(directory))}",
        )
    return True


def strangers(marker: Path) -> list[str]:
    """The entries of a directory besides our mark and drafts of killed runs."""
    names = sorted(path.name for path in marker.parent.iterdir())
    return [name for name in names if name != marker.name and not name.endswith(DRAFT_SUFFIX)]


def remove_marked(marker: Path) -> None:
    """Remove a directory that `is_ours` accepted. Raises OwnershipError if it has other files."""
    directory = marker.parent
    if left := strangers(marker):
        raise OwnershipError(
            f"{directory} contains files that ai-how did not create",
            details="\n".join(left),
            hint=f"ls -la {shlex.quote(str(directory))}",
        )
    for draft in directory.glob(f"*{DRAFT_SUFFIX}"):
        draft.unlink(missing_ok=True)
    # The mark goes last: without it the rest could not be recognized as ours.
    marker.unlink(missing_ok=True)
    directory.rmdir()
    fsync_directory(directory.parent)
