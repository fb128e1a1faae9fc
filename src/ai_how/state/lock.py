"""One run at a time: flock on a file that is never unlinked; a dead holder holds nothing."""

import fcntl
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ai_how.errors import DeadlineError, HostError, LockedError
from ai_how.state.paths import ensure_private_directory
from ai_how.waiting import Deadline, wait_until

OPENED = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def held_lock(path: Path, *, doing: str, wait_s: float = 0) -> Iterator[None]:
    """Hold the lock while the block runs; a run that waits in vain is told `doing`.

    The kernel decides who holds the lock, and frees it when the holder dies; the pid in the file is
    for people. Raises LockedError if it is not free within `wait_s`, HostError if the file system
    has no locks.
    """
    try:
        ensure_private_directory(path.parent)
        descriptor = wait_until(
            lambda: _try_lock(path), Deadline.after(wait_s), f"the lock {path}", interval_s=0.05
        )
    except DeadlineError:
        raise _locked(path) from None
    except OSError as error:
        raise HostError(
            f"{path} cannot be locked: {error.strerror}",
            hint=f"ls -ld {shlex.quote(str(path.parent))} {shlex.quote(str(path))}",
        ) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        _name_holder(descriptor, {"pid": os.getpid(), "since": since, "doing": doing})
        yield
    finally:
        _name_holder(descriptor, None)
        # The lock is released whatever the file system says.
        with suppress(OSError):
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None if another run holds it."""
    while True:
        descriptor = os.open(path, OPENED, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        if _is_at(path, descriptor):
            return descriptor
        # The file was removed while we waited: nobody else sees the lock that we hold.
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _name_holder(descriptor: int, holder: dict[str, object] | None) -> None:
    """Only information for others: on a full disk the lock holds without it."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        if holder:
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def read_holder(path: Path) -> str | None:
    """The verb, with its group, that holds the lock; None where nobody is known to.

    For people: it takes no lock, and may be a moment old.
    """
    holder = find_holder(path)
    return holder.doing if holder else None


@dataclass(frozen=True, slots=True)
class Holder:
    """A run that holds a lock."""

    pid: int
    since: str
    """In ISO 8601."""
    doing: str
    """Its verb, with its group."""


def find_holder(path: Path) -> Holder | None:
    """Who holds the lock; None where nobody is known to. As `read_holder`."""
    holder = _read_holder(path)
    return holder if holder and Path(f"/proc/{holder.pid}").exists() else None


def _read_holder(path: Path) -> Holder | None:
    """Who wrote a name into the lock file last; None just after it was taken or released."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return Holder(int(holder["pid"]), str(holder["since"]), str(holder["doing"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _locked(path: Path) -> LockedError:
    holder = _read_holder(path)
    if holder is None:
        return LockedError(f"another run holds {path}", hint=f"fuser -v {shlex.quote(str(path))}")
    return LockedError(
        f"{holder.doing} is under way in process {holder.pid}, since {holder.since}",
        details=f"It holds {path}.",
        hint=f"ps -fp {holder.pid}",
    )
