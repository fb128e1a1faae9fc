"""What nodes write to their serial lines, from where a run began: the logs keep every boot."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from ai_how.clusters.diagnosis.causes import find_console_cause
from ai_how.errors import DeadlineError, GuestError
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from ai_how.vm_management.context import World
from ai_how.waiting import Deadline

TAIL_BYTES = 256 * 1024
LOOK_S = 2.0


def mark_consoles(paths: ClusterPaths, state: ClusterState) -> Mapping[str, int]:
    """Where each node's log ends now: what is before that, other runs have written."""
    ends = {}
    for node in state.nodes:
        try:
            ends[node.name] = paths.console_log(node.name).stat().st_size
        except OSError:
            ends[node.name] = 0
    return ends


def prepare_log(paths: ClusterPaths, domain: str) -> None:
    """Have a file of ours for the serial line of a node that is off: virtlogd takes what is there.

    One that it made itself is root's on the system's libvirt, and is kept beside it.
    """
    log = paths.console_log(domain.removeprefix(f"{paths.name}-"))
    ensure_private_directory(log.parent)
    with suppress(FileNotFoundError):
        seen = log.lstat()
        if seen.st_uid == os.geteuid() and stat.S_ISREG(seen.st_mode):
            return
        log.rename(turned_over(log))
    log.touch(mode=0o600)


def turned_over(log: Path) -> Path:
    """Where virtlogd keeps what was in a log that grew too long."""
    return log.with_name(f"{log.name}.0")


def read_console(world: World, node: str) -> str:
    """The end of what a node wrote during this run. Raises OSError where it cannot be read."""
    with world.paths.console_log(node).open("rb") as file:
        size = file.seek(0, 2)
        begin = world.console_ends.get(node, 0)
        # A log that is shorter now was turned over by virtlogd.
        begin = 0 if begin > size else begin
        file.seek(max(begin, size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")


def wait_for_guest(world: World, node: str, uuid: UUID, deadline: Deadline) -> None:
    """Return once the guest's agent is there.

    Raises GuestError as soon as its VM or its serial line says that it never will be, and
    DeadlineError where the deadline passes, or the run is to stop.
    """
    while True:
        try:
            return world.wait_for_agent(uuid, deadline.sooner_of(LOOK_S))
        except DeadlineError:
            if deadline.has_passed or world.stop.is_set():
                raise
        try:
            said = read_console(world, node)
        except OSError:
            continue  # of a libvirt that runs as another user
        if cause := find_console_cause(said):
            raise GuestError(f"{node}: {cause}", "its agent was waited for")
