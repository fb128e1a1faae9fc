"""Connections from this process to ports of nodes, also into the embedded host's network."""

import json
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.dialer import CONNECT_S, LONGEST, READY
from ai_how.host.ports import WayIn
from ai_how.process import Daemon, start_daemon

MODULE = "ai_how.host.dialer"
PATIENCE_S = 10.0  # its process may have to be started


class Dialer:
    """Connects to nodes. Several threads may use it; they wait for one another.

    On the embedded host it keeps a process in the network of the nodes, which ends with us.
    `find_way` gives None while that host is down.
    """

    def __init__(self, find_way: Callable[[], WayIn | None]) -> None:
        self._find_way = find_way
        self._lock = threading.Lock()
        self._child: tuple[WayIn, socket.socket, Daemon] | None = None

    def connect(self, address: str, port: int) -> socket.socket:
        """A connection without a timeout. Raises HostError with the reason if there is none."""
        with self._lock:
            way = self._find_way()
            if way is None:
                raise HostError("the host of the VMs is down")
            if not way.enter:
                return _connect_here(address, port)
            if self._child and (self._child[0] != way or self._child[2].poll() is not None):
                self._end()
            if self._child is None:
                self._child = _start(way)
            return self._ask(self._child[1], address, port)

    def close(self) -> None:
        with self._lock:
            self._end()

    def _ask(self, line: socket.socket, address: str, port: int) -> socket.socket:
        try:
            line.settimeout(PATIENCE_S)
            line.send(json.dumps([address, port]).encode())
            told, found, _, _ = socket.recv_fds(line, LONGEST, 1)
        except OSError as error:
            # An answer that is late would be taken for that to the next question.
            self._end()
            raise HostError(f"{address} port {port}: {error.strerror or 'no answer'}") from None
        if told == READY and found:
            return socket.socket(fileno=found[0])
        if not told:
            self._end()
        raise HostError(f"{address} port {port}: {told.decode(errors='replace') or 'no answer'}")

    def _end(self) -> None:
        if self._child:
            _, line, child = self._child
            self._child = None
            line.close()
            with suppress(OSError):
                child.kill()
            child.wait()


def _connect_here(address: str, port: int) -> socket.socket:
    try:
        line = socket.create_connection((address, port), timeout=CONNECT_S)
    except OSError as error:
        raise HostError(f"{address} port {port}: {error.strerror or 'no answer'}") from None
    line.settimeout(None)
    return line


def _start(way: WayIn) -> tuple[WayIn, socket.socket, Daemon]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [*way.enter, sys.executable, "-I", "-m", MODULE]
        child = start_daemon(argv, log=Path("/dev/null"), stdin=theirs.fileno())
    return way, ours, child
