"""The process that watches a cluster: find it, start it, end it. `monitoring/` is what it does.

It is found by the file that it has locked, so that one that was killed stands in nobody's way.
"""

import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ai_how import __version__
from ai_how.clusters.collector_socket import connect_to
from ai_how.errors import DeadlineError, HostError
from ai_how.host.logout import outliving
from ai_how.host.reading import read_text
from ai_how.host.running import FLOCK, is_locked
from ai_how.process import start_detached
from ai_how.state.lock import OPENED
from ai_how.state.paths import ClusterPaths, Roots
from ai_how.waiting import Deadline, wait_until

READY = b"ok"
LONGEST = 1 << 16
PATIENCE_S = 60.0
END_S = 10.0
ANSWER_S = 5.0
KEEP_DAYS = 7
LEAN = {"MALLOC_ARENA_MAX": "1"}
"""glibc would give each of its threads memory of its own: 2.5 MiB more."""
STOPPED = ("stop", "suspend", "destroy", "off")
"""Why a collector was ended on purpose: then who has been looking starts no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How a cluster is watched."""

    program: tuple[str, ...]
    """The arguments of Python before ours."""
    roots: Roots
    name: str
    stays: bool = False
    """Whether it runs on when nobody asks it any more."""
    keep_days: int = KEEP_DAYS
    begun_by: str = ""
    """`start` if it is started with the cluster."""

    def argv(self) -> list[str]:
        words = [sys.executable, *self.program, str(self.roots.state), self.name]
        return [*words, "stay" if self.stays else "leave", str(self.keep_days), self.begun_by]


@dataclass(frozen=True, slots=True)
class Collector:
    """A process that watches a cluster, as it says itself."""

    pid: int
    since: float
    version: str

    @property
    def is_current(self) -> bool:
        """Whether it is of the version that is installed."""
        return self.version == __version__


def find_collector(paths: ClusterPaths) -> Collector | None:
    """The collector that runs."""
    try:
        descriptor = os.open(paths.collector, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not is_locked(descriptor):
            return None
        told = json.loads(os.pread(descriptor, LONGEST, 0))
        return Collector(int(told["pid"]), float(told["since"]), str(told["version"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(descriptor)


def hold_place(paths: ClusterPaths, since: float) -> int:
    """Be the collector of a cluster, as long as the descriptor is open.

    Raises HostError, with its process, if there is one.
    """
    descriptor = os.open(paths.collector, OPENED, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    except OSError as error:
        os.close(descriptor)
        there = find_collector(paths)
        who = f" (process {there.pid})" if there else ""
        raise HostError(f"{paths.name} is being watched already{who}") from error
    note = {"pid": os.getpid(), "since": since, "version": __version__}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(note).encode(), 0)
    return descriptor


def is_in_place(paths: ClusterPaths, descriptor: int) -> bool:
    """Whether the cluster's directory still has the file that we hold."""
    try:
        return os.path.samestat(paths.collector.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def start_collector(order: Order, *, is_setting: bool = False) -> None:
    """Have a collector that answers; one that runs already goes on. Raises HostError.

    With `is_setting` it stays as long, and keeps as much, as this order says.
    """
    paths = order.roots.cluster(order.name)
    allow_collector(paths)
    if there := find_collector(paths):
        if there.is_current:
            if is_setting:
                _settle(paths, order)
            return
        end_collector(paths)
    _turn(paths.collector_log)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            start_detached(
                [*outliving(), *order.argv()],
                log=paths.collector_log,
                stdin=theirs.fileno(),
                env=LEAN,
            )
        ours.settimeout(PATIENCE_S)
        try:
            is_ready = ours.recv(LONGEST) == READY
        except OSError:
            is_ready = False
    if is_ready or find_collector(paths):  # another run may have started one at the same time
        return
    said = (read_text(paths.collector_log) or "").strip()[-1500:]
    raise HostError(f"the process that watches {order.name} ended", details=said or None)


def end_collector(paths: ClusterPaths, why: str = "") -> bool:
    """End the collector, if there is one; whether there was.

    It notes `why` as an event; after one of `STOPPED`, who has been looking starts no other. Of
    a cluster that was never watched nothing is noted. Raises DeadlineError if it does not end.
    """
    if why in STOPPED and paths.collector.exists():
        _note_end(paths, why)
    first = find_collector(paths)
    for number in (signal.SIGTERM, signal.SIGKILL):
        there = find_collector(paths)
        if there is None:
            break
        with suppress(ProcessLookupError):
            os.kill(there.pid, number)
        with suppress(DeadlineError):
            _await_end(paths)
    _await_end(paths)
    paths.collector_socket.unlink(missing_ok=True)
    return first is not None


def read_end(paths: ClusterPaths) -> str:
    """Why the last collector was ended on purpose; empty if it was not."""
    told = read_text(_end_of(paths)) or ""
    return told if told in STOPPED else ""


def allow_collector(paths: ClusterPaths) -> None:
    """The cluster is watched again by whoever wants to."""
    with suppress(OSError):
        _end_of(paths).unlink(missing_ok=True)


def _settle(paths: ClusterPaths, order: Order) -> None:
    """Tell a collector that runs how long it stays, and what it keeps. Raises HostError."""
    told = {"ask": "settings", "stays": order.stays, "keep_days": order.keep_days}
    try:
        with connect_to(paths.collector_socket, ANSWER_S) as line:
            line.sendall(json.dumps(told).encode() + b"\n")
            answer = line.recv(LONGEST)
    except OSError as error:
        raise HostError(f"the process that watches {order.name} does not answer") from error
    if b'"done"' not in answer:
        raise HostError(f"the process that watches {order.name} refused its settings")


def _note_end(paths: ClusterPaths, why: str) -> None:
    with suppress(OSError):
        descriptor = os.open(_end_of(paths), OPENED | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(why)


def _end_of(paths: ClusterPaths) -> Path:
    return paths.collector.with_suffix(".ended")


def _await_end(paths: ClusterPaths) -> None:
    wait_until(
        lambda: find_collector(paths) is None,
        Deadline.after(END_S),
        f"the end of the process that watches {paths.name}",
        interval_s=0.02,
    )


def _turn(log: Path) -> None:
    """A process begins its own log; that of the one before is kept."""
    with suppress(OSError):
        log.replace(log.with_name(f"{log.name}.1"))
