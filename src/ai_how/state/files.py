"""How ai-how writes a file: completely or not at all, private, and durable."""

import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ai_how.errors import StateError

DRAFT_SUFFIX = ".draft"
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync)."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; os.write may stop short."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_file(path: Path, *, largest: int | None = None) -> bytes:
    """The content of a file, or its first `largest` bytes. Raises OSError for a link."""
    # Do not wait for a writer if a pipe is in its place.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(-1 if largest is None else largest)


@contextmanager
def replaced_atomically(path: Path, *, mode: int = 0o600) -> Iterator[Path]:
    """A draft beside `path` to write to; it replaces `path` when the block succeeds.

    `path` always has the old or the new content, and drafts of killed runs are removed. The writers
    of one path hold one lock. Raises StateError if the file system fails; a failed fsync is not
    repeated, as the kernel may mark the lost pages clean.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{DRAFT_SUFFIX}")
    try:
        sweep_drafts(path)
        os.close(os.open(draft, NEW_FILE, mode))
        yield draft
        _fsync(draft, os.O_RDONLY | os.O_NOFOLLOW)
        draft.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise StateError(
            f"{path} could not be written: {error.strerror}",
            hint=f"df -h {shlex.quote(str(path.parent))}",
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def sweep_drafts(path: Path) -> None:
    """Remove the drafts of `path` from killed runs."""
    for entry in os.scandir(path.parent):
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(DRAFT_SUFFIX):
            Path(entry.path).unlink(missing_ok=True)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
