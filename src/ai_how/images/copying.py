"""Copying: sparse copies, digests, drafts, and the errors of a full disk."""

import errno
import hashlib
import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ai_how.errors import HostError, ImageError

# Called with the share that is done, 0.0 to 1.0.
Progress = Callable[[float], None]

_CHUNK_BYTES = 1 << 20
_RANGE_BYTES = 64 << 20
_DRAFT = ".part-"
DRAFTS = f"{_DRAFT}*"
_CANNOT_COPY_RANGES = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def disk_errors(directory: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn an OSError about `directory` into a HostError; a full disk says what is needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            place = error.filename or directory
            raise HostError(
                f"{place}: {error.strerror}", hint=f"ls -ld {shlex.quote(str(directory))}"
            ) from error
        raise full_disk(directory, needed_bytes) from error


def require_free(target: Path) -> None:
    """Raises HostError where something is there already."""
    if os.path.lexists(target):
        raise HostError(f"{target} is there already", hint=f"ls -l {shlex.quote(str(target))}")


@contextmanager
def new_file(target: Path, *, needed_bytes: int) -> Iterator[Path]:
    """The name of a draft, which becomes the new file `target` at the end, whole or not at all.

    Raises HostError where something is there, or the file system refuses.
    """
    require_free(target)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    require_free(draft)
    with disk_errors(target.parent, needed_bytes=needed_bytes):
        # From here on the draft is ours to remove.
        try:
            yield draft
            sync(draft)
            require_free(target)
            draft.rename(target)
            sync(target.parent)
        finally:
            draft.unlink(missing_ok=True)


def full_disk(directory: Path, needed_bytes: int | None) -> HostError:
    """The error for a file system that has no room left for `directory`."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed = f"{needed_bytes / 2**20:.1f} MiB needed, " if needed_bytes is not None else ""
    return HostError(
        f"no space left in {directory}",
        details=f"{needed}{free / 2**20:.1f} MiB free",
        hint=f"df -h {shlex.quote(str(directory))}",
    )


@contextmanager
def draft_directory(parent: Path) -> Iterator[Path]:
    """A 0700 directory in `parent` to write in and rename from; always removed afterwards.

    Its name has our pid, so `sweep_drafts` finds what a killed run leaves behind.
    """
    draft = parent / f"{_DRAFT}{os.getpid()}-{secrets.token_hex(4)}"
    draft.mkdir(mode=0o700)
    try:
        yield draft
    finally:
        remove_tree(draft)


def sweep_drafts(parent: Path) -> None:
    """Remove the drafts of processes that no longer run."""
    for draft in find_dead_drafts(parent):
        remove_tree(draft)


def find_dead_drafts(parent: Path) -> tuple[Path, ...]:
    """The drafts of processes that no longer run."""
    pids = {
        path: path.name.removeprefix(_DRAFT).split("-")[0] for path in parent.glob(f"{_DRAFT}*")
    }
    return tuple(
        path for path, pid in pids.items() if pid.isdecimal() and not Path("/proc", pid).exists()
    )


def remove_tree(directory: Path) -> None:
    """Remove a directory, also a read-only one; an absent one is not an error."""
    if directory.is_dir() and not directory.is_symlink():
        directory.chmod(0o700)
        try:
            shutil.rmtree(directory)
        except PermissionError:  # a build of an ordinary user was killed
            # Which programs are needed is known only here, where nearly no run comes.
            from ai_how.images.sandbox import remove_built  # noqa: PLC0415

            remove_built(directory)


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def forget_cached(path: Path) -> None:
    """Drop the page cache of a file, so that the next read comes from the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """Another digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def copy_sparse(source: Path, target: Path, *, on_progress: Progress | None = None) -> None:
    """Copy a file to a new one (0600, on disk), with its holes, in the kernel if possible.

    Raises ImageError if `source` is not a readable regular file, or shrinks meanwhile.
    """
    try:
        # Closed by the `with` below; pathlib's open() takes no opener.
        file = open(source, "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115
    except OSError as error:
        raise ImageError(
            f"{source} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(source))}"
        ) from error
    with file:
        seen = os.fstat(file.fileno())
        if not stat.S_ISREG(seen.st_mode):
            raise ImageError(
                f"{source} is not a regular file", hint=f"ls -l {shlex.quote(str(source))}"
            )
        with (
            disk_errors(target.parent, needed_bytes=seen.st_blocks * 512),
            created_file(target) as copy,
        ):
            os.ftruncate(copy.fileno(), seen.st_size)
            for begin, end in _data_ranges(file.fileno(), seen.st_size):
                for at in _copied(file, copy, begin, end, target_at=begin):
                    if on_progress:
                        on_progress(at / seen.st_size)


def copy_range(
    source: IO[bytes], target: IO[bytes], begin: int, end: int, *, target_at: int
) -> None:
    """Copy a range of an open file to a place in another one, in the kernel if possible.

    Raises ImageError if the file has fewer bytes.
    """
    for _ in _copied(source, target, begin, end, target_at=target_at):
        pass


@contextmanager
def created_file(target: Path, *, is_lasting: bool = True) -> Iterator[IO[bytes]]:
    """A new file (0600) to write to; flushed to disk after a successful block if `is_lasting`."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        yield file
        if is_lasting:
            os.fsync(fd)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking: opening a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges of a file that hold data; the rest are holes."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                return
            raise
        at = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        yield begin, at


def _copied(
    source: IO[bytes], target: IO[bytes], begin: int, end: int, *, target_at: int
) -> Iterator[int]:
    """Copy bytes; yield the position after each piece."""
    at = begin
    while at < end:
        to = target_at + at - begin
        if not (count := _copy_some(source.fileno(), target.fileno(), at, to, end - at)):
            raise ImageError(f"{source.name} shrank while it was copied")
        at += count
        yield at


def _copy_some(source: int, target: int, at: int, to: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, min(count, _RANGE_BYTES), at, to)
    except OSError as error:
        if error.errno not in _CANNOT_COPY_RANGES:
            raise
    return os.pwrite(target, os.pread(source, min(count, _CHUNK_BYTES), at), to)
