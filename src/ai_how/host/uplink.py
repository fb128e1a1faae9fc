"""The uplink of the embedded host: pasta, and a DNS proxy, in one process outside of it.

Each command that needs the host looks whether that process runs, and starts it again if not. Guests
also work without it.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.errors import DeadlineError
from ai_how.host.guest_rules import NO_USER_NAMESPACES, OLD_HOST, why_no_uplink
from ai_how.host.running import Supervisor, is_locked
from ai_how.process import Argument, start_detached
from ai_how.state.embedded_paths import EmbeddedPaths
from ai_how.state.lock import held_lock
from ai_how.waiting import Deadline, wait_until

PATIENCE_S = 10.0
BEGIN_S = 3.0
LONGEST_NOTE = 4096

STARTING = "it is being started"
NOT_RUNNING = "the process of the uplink is not running"


def uplink_remedy(trouble: str) -> str | None:
    """The command that restores the uplink, where one does."""
    if trouble == NOT_RUNNING:
        remedy = "ai-how host up"
    elif trouble == OLD_HOST:
        remedy = "ai-how host down"
    elif trouble == NO_USER_NAMESPACES:
        remedy = "sudo sysctl -w user.max_user_namespaces=15000"
    else:
        return None
    return remedy


@dataclass(frozen=True, slots=True)
class UplinkNote:
    """What the process of the uplink says in its file."""

    of: tuple[int, int]
    """The pid and the start time of the supervisor."""
    pid: int
    trouble: str | None
    """Why guests have no uplink; None if they have one."""
    relays: tuple[str, ...] = ()
    """ADDRESS:PORT of each: a gateway, and the port of this host's loopback."""
    is_current: bool = True
    """Whether the process runs."""


@dataclass(frozen=True, slots=True)
class Relays:
    """The ports of this host's loopback that the guests behind one gateway reach there."""

    gateway: str
    ports: frozenset[int]

    def among(self, every: Iterable[str]) -> tuple[str, ...]:
        """All relays, each ADDRESS:PORT, with those of this gateway as they are to be."""
        others = [one for one in every if one.rpartition(":")[0] != self.gateway]
        return tuple(sorted([*others, *(f"{self.gateway}:{port}" for port in self.ports)]))


def ensure_uplink(
    paths: EmbeddedPaths,
    supervisor: Supervisor,
    scope: Callable[[], Sequence[str]],
    *,
    relays: Relays | None = None,
) -> None:
    """Start the process that gives this host its uplink, unless it runs or cannot run.

    One that runs with other `relays` is started anew. `scope` gives the prefix with which the host
    was started, to survive a logout.
    """
    if why_no_uplink():
        return
    with held_lock(paths.uplink_lock, doing="starting the uplink", wait_s=PATIENCE_S):
        if relays and relays.ports:
            # The one that was started with the host a moment ago.
            with suppress(DeadlineError):
                wait_until(
                    lambda: _is_running(paths, supervisor),
                    Deadline.after(BEGIN_S),
                    "the uplink",
                    interval_s=0.02,
                )
        note = _read_note(paths, supervisor)
        if relays and not relays.ports and not (note and note.is_current):
            return  # it has none to take away
        # A process that has ended had the relays of other clusters as well.
        had = note.relays if note else ()
        wanted = relays.among(had) if relays else tuple(had)
        if note and note.is_current:
            if wanted == tuple(had):
                return
            with suppress(ProcessLookupError):
                os.kill(note.pid, signal.SIGTERM)
            await_uplink_end(paths, supervisor)
        argv: list[Argument] = [*scope(), sys.executable, "-I", "-m", "ai_how.host.outside"]
        argv += [paths.root, str(supervisor.pid), str(supervisor.start_ticks), *wanted]
        with Path("/dev/null").open() as nothing:
            start_detached(argv, log=paths.supervisor_log, stdin=nothing.fileno())


def read_uplink(paths: EmbeddedPaths, supervisor: Supervisor) -> str | None:
    """Why this host's guests have no uplink; None if they have one."""
    if why := why_no_uplink():
        return why
    note = _read_note(paths, supervisor)
    if note and not note.is_current and note.trouble in (None, STARTING):
        return NOT_RUNNING  # it was killed; one that gave up has said why
    return note.trouble if note else NOT_RUNNING


def await_uplink_end(paths: EmbeddedPaths, supervisor: Supervisor) -> None:
    """Wait until the process of the uplink of a host that has ended writes no more."""
    with suppress(DeadlineError):
        wait_until(
            lambda: not _is_running(paths, supervisor),
            Deadline.after(PATIENCE_S),
            "the end of the uplink",
            interval_s=0.01,
        )


def _is_running(paths: EmbeddedPaths, supervisor: Supervisor) -> bool:
    note = _read_note(paths, supervisor)
    return note is not None and note.is_current


def _read_note(paths: EmbeddedPaths, supervisor: Supervisor) -> UplinkNote | None:
    """The last words of the process of this host's uplink; None if it had none."""
    try:
        descriptor = os.open(paths.uplink, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_current = is_locked(descriptor)
        note = UplinkNote(**json.loads(os.pread(descriptor, LONGEST_NOTE, 0)))
    except (OSError, ValueError, TypeError):
        return None
    finally:
        os.close(descriptor)
    # The process of a host that has just ended may still hold the lock.
    if [*note.of] != [supervisor.pid, supervisor.start_ticks]:
        return None
    return replace(note, is_current=is_current)
