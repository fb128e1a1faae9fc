"""Passes connections to ports of this host on to ports of nodes, in the network of the nodes.

ports.py runs it as `python -m ai_how.host.port_server`. Standard input is a Unix socket: by it come
an order and the sockets, which listen already; "ok" is answered, and then what cannot be reached.
"""

import fcntl
import json
import os
import resource
import select
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from ai_how.host.connections import end_when_lost, serve_connections
from ai_how.host.port_relay import pass_both_ways
from ai_how.host.running import FLOCK, start_ticks
from ai_how.state.lock import OPENED

READY = b"ok"
LONGEST = 1 << 16
MOST_PORTS = 100
AT_ONCE = 256
CONNECT_S = 10.0
SPARE_S = 3.0
"""A node is given up so soon if another one may answer: a client waits 10 s for TLS in all."""
LOOK_S = 2.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a node, or of the first of several that answers, and its name in messages."""

    addresses: tuple[str, ...]
    port: int
    name: str


@dataclass(frozen=True, slots=True)
class Order:
    """What one process does; `targets` are in the order of the sockets."""

    targets: tuple[Target, ...]
    host: tuple[int, int] | None
    """The pid and the start time of the supervisor with which it ends; None on this host."""
    file: str | None
    """It is locked, and has `note`, while the process serves. Without one, it ends with the socket.

    The process also ends if the file is removed.
    """
    note: dict[str, Any]

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, text: bytes) -> "Order":
        told = json.loads(text)
        host = told["host"] and (told["host"][0], told["host"][1])
        targets = tuple(
            Target(tuple(one["addresses"]), one["port"], one["name"]) for one in told["targets"]
        )
        return cls(targets, host, told["file"], told["note"])


def main() -> None:
    with socket.socket(fileno=0) as line:
        text, listeners, _, _ = socket.recv_fds(line, LONGEST, MOST_PORTS)
        if not text:
            return  # who started us has ended
        try:
            _serve(line, Order.decode(text), listeners)
        finally:
            # Before the socket: who reads its end may use the ports again.
            for listener in listeners:
                os.close(listener)


def _serve(line: socket.socket, order: Order, listeners: Sequence[int]) -> None:
    """Serve until the end of the host, of who started us, or of the file."""
    watched = [line.fileno()] if order.file is None else []
    if order.host:
        pid, ticks = order.host
        try:
            watched.append(os.pidfd_open(pid))
        except ProcessLookupError:
            return
        if start_ticks(pid) != ticks:
            return
    note = _taken(Path(order.file), order) if order.file else None
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tell = partial(_tell, line) if order.file is None else _tell_nobody
    for listener, target in zip(listeners, order.targets, strict=True):
        pass_on = partial(_pass_on, Way(target), tell)
        serve = partial(serve_connections, socket.socket(fileno=listener), pass_on, at_once=AT_ONCE)
        Thread(target=serve, daemon=True).start()
    line.send(READY)
    if order.file:
        line.shutdown(socket.SHUT_RDWR)
    while not select.select(watched, [], [], LOOK_S)[0]:
        if note is not None and order.file and not _is_at(order.file, note):
            return


def _taken(path: Path, order: Order) -> int:
    """The descriptor of the file, locked and written. Raises OSError if another process has it."""
    note = os.open(path, OPENED, 0o600)
    fcntl.fcntl(note, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    text = json.dumps({**order.note, "pid": os.getpid()}).encode()
    os.ftruncate(note, 0)
    os.pwrite(note, text, 0)
    return note


def _is_at(path: str, note: int) -> bool:
    try:
        return os.path.samestat(Path(path).lstat(), os.fstat(note))
    except OSError:
        return False


class Way:
    """The way to a target, which begins with the node that answered last."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self._addresses = target.addresses
        self._port = target.port

    def connect(self) -> socket.socket:
        """Raises OSError, that of the last node, if none answers."""
        *others, last = addresses = self._addresses
        for address in others:
            with suppress(OSError):
                line = socket.create_connection((address, self._port), timeout=SPARE_S)
                self._prefer(address, addresses)
                return line
        line = socket.create_connection((last, self._port), timeout=CONNECT_S)
        self._prefer(last, addresses)
        return line

    def _prefer(self, address: str, addresses: tuple[str, ...]) -> None:
        """One assignment, as other threads connect meanwhile."""
        self._addresses = (address, *(one for one in addresses if one != address))


def _pass_on(way: Way, tell: Callable[[str], None], client: socket.socket) -> None:
    try:
        node = way.connect()
    except OSError as error:
        # As from a port that nobody has, not as from a server that says nothing.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        tell(f"{way.name}: {error.strerror or 'no answer'}")
        return
    with node:
        end_when_lost(node)
        pass_both_ways(client, node)


def _tell(line: socket.socket, text: str) -> None:
    with suppress(OSError):  # nobody reads, or not fast enough
        line.send(text.encode(), socket.MSG_DONTWAIT)


def _tell_nobody(_text: str) -> None:
    """A port that is open while its node is off is no news."""


if __name__ == "__main__":
    main()
