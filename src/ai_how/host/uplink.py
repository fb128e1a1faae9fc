"""The uplink of the embedded host: pasta, and a DNS proxy, in one process outside of it.

Each command that needs the host looks whether that process runs, and starts it again if not. Guests
also work without it.
"""

import fcntl
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ai_how.host.guest_rules import NO_USER_NAMESPACES, why_no_uplink
from ai_how.host.running import FLOCK, Supervisor
from ai_how.process import Argument, start_detached
from ai_how.state.paths import EmbeddedPaths

NOT_RUNNING = "the process of the uplink is not running"
OLD_HOST = "the embedded host was started by an earlier version; it needs a restart"


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


def ensure_uplink(paths: EmbeddedPaths, supervisor: Supervisor, scope: Sequence[str]) -> None:
    """Start the process that gives this host its uplink, unless it runs or cannot run.

    `scope` is the prefix with which the host was started, to survive a logout.
    """
    if why_no_uplink() or read_uplink(paths, supervisor) != NOT_RUNNING:
        return
    argv: list[Argument] = [*scope, sys.executable, "-I", "-m", "ai_how.host.outside", paths.root]
    with Path("/dev/null").open() as nothing:
        start_detached(
            [*argv, str(supervisor.pid), str(supervisor.start_ticks)],
            log=paths.supervisor_log,
            stdin=nothing.fileno(),
        )


def read_uplink(paths: EmbeddedPaths, supervisor: Supervisor) -> str | None:
    """Why this host's guests have no uplink; None if they have one."""
    if why := why_no_uplink():
        return why
    try:
        descriptor = os.open(paths.uplink, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return NOT_RUNNING
    try:
        asked = FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)
        told = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
        if told[0] == fcntl.F_UNLCK:
            return NOT_RUNNING
        note = json.loads(os.pread(descriptor, 4096, 0))
        # The process of a host that has just ended may still hold the lock.
        is_its = note["of"] == [supervisor.pid, supervisor.start_ticks]
        return note["trouble"] if is_its else NOT_RUNNING
    except (OSError, ValueError, KeyError, TypeError):
        return NOT_RUNNING
    finally:
        os.close(descriptor)
