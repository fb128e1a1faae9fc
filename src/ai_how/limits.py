"""Limits of the system: retry, then report the limit and its remedy.

A thread or process that cannot be started causes an error that does not name the limit.
"""

import os
import pwd
import re
import resource
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ai_how.errors import LimitError

# Our threads and programs are short-lived: another one may end in this time.
PATIENCE_S = 3.0
PAUSE_S = 0.05
STACK_BYTES = 8 << 20

REFUSED = "Resource temporarily unavailable"
_NO_THREAD = "can't start new thread"
_BEGINNING = re.compile(r"fork|thread|clone|process|create helper", re.I)  # the last: dnsmasq

# The second is qemu-img's message for the same.
_TOO_LARGE = re.compile("File too large|size is too large for file format")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit that applies to us: how much is left, and the remedy."""

    room: int
    words: str
    remedy: str


def begin(call: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """The result of `call`, which starts a thread or process; repeated while that is refused.

    Raises LimitError with the limit that was reached.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except (BlockingIOError, RuntimeError) as error:
            if not is_refusal(error):
                raise
            if time.monotonic() >= until:
                raise no_more_tasks() from error
        time.sleep(PAUSE_S)


def start_thread(
    target: Callable[[], object], *, name: str, patience_s: float = PATIENCE_S
) -> threading.Thread:
    """Start a daemon thread. Raises LimitError if no more are allowed."""

    def started() -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    return begin(started, patience_s=patience_s)


def is_refusal(error: BaseException) -> bool:
    """Whether an error means that no thread or process can be started."""
    is_thread = isinstance(error, RuntimeError) and _NO_THREAD in str(error)
    return isinstance(error, BlockingIOError) or is_thread


def find_told_limit(text: str) -> LimitError | None:
    """The limit that another program reached, by its output; None if it reached none."""
    if any(REFUSED in line and _BEGINNING.search(line) for line in text.splitlines()):
        return no_more_tasks()
    is_finite = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return no_larger_file() if is_finite and _TOO_LARGE.search(text) else None


def no_more_tasks() -> LimitError:
    """The error of the limit with the least room left."""
    nearest = min(_limits(), key=lambda one: one.room, default=None)
    brief = "no more processes or threads can be started"
    if nearest is None:
        return LimitError(brief, details=REFUSED, hint="cat /proc/sys/kernel/threads-max")
    return LimitError(f"{brief}: {nearest.words}", hint=nearest.remedy)


def require_tasks(needed: int, what: str) -> None:
    """Raises LimitError if this number of processes and threads is not available."""
    nearest = min(_limits(), key=lambda one: one.room, default=None)
    if nearest is not None and nearest.room < needed:
        raise LimitError(
            f"{what} needs {needed} processes and threads: {nearest.words}",
            details=f"{max(nearest.room, 0)} are left",
            hint=nearest.remedy,
        )


def no_larger_file() -> LimitError:
    """The error for a write that RLIMIT_FSIZE refused."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    what = f"no file may be larger than {most} bytes (ulimit -f)"
    return LimitError(what, hint="ulimit -f unlimited  # then repeat the command")


def find_memory_limit() -> LimitError | None:
    """The error for memory that RLIMIT_AS refused; None if there is no such limit."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    what = f"out of memory: the limit of a program is {most >> 20} MiB (ulimit -v)"
    return LimitError(what, hint="ulimit -v unlimited  # then repeat the command")


def _limits() -> Iterator[_Limit]:
    yield from _limit_of_user()
    yield from limits_of_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if most - used < 2 * STACK_BYTES and (error := find_memory_limit()):
            yield _Limit(0, error.brief, str(error.hint))


def _limit_of_user() -> Iterator[_Limit]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    if soft == hard:
        remedy = "sudo prlimit --pid $$ --nproc=unlimited  # then repeat the command"
    else:
        word = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        remedy = f"ulimit -u {word}  # then repeat the command"
    words = f"the limit of user {user} is {soft} (ulimit -u)"
    yield _Limit(soft - _count_tasks(os.getuid()), words, remedy)


def _count_tasks(uid: int) -> int:
    count = 0
    for entry in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, ValueError):
            fields = dict(line.partition(":")[::2] for line in entry.read_text().splitlines())
            count += int(fields["Threads"]) if int(fields["Uid"].split()[0]) == uid else 0
    return count


def limits_of_cgroups(told: Path, root: Path) -> Iterator[_Limit]:
    """The limits of our cgroup, named in `told`, and of its ancestors below `root`."""
    for directory in _cgroups(told, root):
        with suppress(OSError, ValueError):
            most = int((directory / "pids.max").read_text())  # or `max`
            used = int((directory / "pids.current").read_text())
            words = f"the limit of cgroup {directory} is {most} (pids.max)"
            yield _Limit(most - used, words, _remedy(directory))


def _cgroups(told: Path, root: Path) -> Iterator[Path]:
    """The directories of our cgroup and its ancestors, cgroup v1 or v2."""
    try:
        lines = told.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, kinds, path = line.split(":", 2)
        top = root if not kinds else root / "pids"
        if kinds in ("", "pids"):
            own = top / path.lstrip("/")
            yield from (one for one in (own, *own.parents) if one.is_relative_to(top))


def _remedy(directory: Path) -> str:
    if directory.suffix in (".slice", ".scope", ".service"):
        return f"sudo systemctl set-property {shlex.quote(directory.name)} TasksMax=infinity"
    return f"echo max | sudo tee {shlex.quote(str(directory / 'pids.max'))}"
