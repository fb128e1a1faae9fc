"""Ports of this host that lead to ports of nodes, and the process that passes connections on.

Its sockets are opened here, and it is in the network of the nodes: on the embedded host inside. The
process of a cluster's own ports (`expose`) is found by the file that it has locked.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ai_how.errors import DeadlineError, HostError
from ai_how.host.logout import outliving
from ai_how.host.port_server import LONGEST, READY, Order, Target
from ai_how.host.reading import read_text
from ai_how.host.running import is_locked
from ai_how.process import Argument, Daemon, start_daemon, start_detached
from ai_how.state.paths import ClusterPaths
from ai_how.waiting import Deadline, wait_until

PATIENCE_S = 30.0
END_S = 5.0
PAUSE_S = 1.0
MODULE = "ai_how.host.port_server"
UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a node, and the address and port of this host where it is reached."""

    node: str
    port: int
    address: str
    host_port: int
    node_address: str
    spare_addresses: tuple[str, ...] = ()
    """Those of other nodes that it leads to as long as that one does not answer."""

    @property
    def place(self) -> str:
        return place_of(self.address, self.host_port)

    @property
    def target(self) -> Target:
        addresses = (self.node_address, *self.spare_addresses)
        return Target(addresses, self.port, f"{self.node}:{self.port}")

    def __str__(self) -> str:
        return f"{self.place} -> {self.node}:{self.port}"


@dataclass(frozen=True, slots=True)
class WayIn:
    """How a process gets into the network of the nodes."""

    enter: tuple[str, ...] = ()
    """The prefix of its command; empty on this host."""
    host: tuple[int, int] | None = None
    """The pid and the start time of the supervisor of the embedded host."""


@dataclass(frozen=True, slots=True)
class ServedPorts:
    """The ports of a cluster, as the process that serves them says."""

    ports: tuple[Port, ...]
    pid: int
    host: tuple[int, int] | None
    is_current: bool = True
    """Whether the process runs."""


def place_of(address: str, port: int) -> str:
    """ADDRESS:PORT as it is written in URLs."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_loopback(address: str) -> bool:
    """Whether only processes of this host can connect there."""
    return ip_address(address).is_loopback


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens there. Raises HostError with the reason if that cannot be."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET  # noqa: PLR2004
    line = socket.socket(family)
    try:
        # A server that ended a moment ago may have connections that are not over.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        line.bind((address, port))
        line.listen()
    except OSError as error:
        line.close()
        raise _refused(address, port, error) from None
    return line


def _refused(address: str, port: int, error: OSError) -> HostError:
    place = place_of(address, port)
    if error.errno == errno.EADDRINUSE:
        return HostError(f"{place} is in use on this host", hint=f"ss -ltnp 'sport = :{port}'")
    if error.errno == errno.EACCES:
        first = (read_text(UNPRIVILEGED) or "1024").strip()
        return HostError(f"only root may listen on {place}; your ports begin at {first}")
    if error.errno == errno.EADDRNOTAVAIL:
        return HostError(f"{address} is not an address of this host", hint="ip -brief address")
    return HostError(f"{place} cannot be used: {error.strerror}")


def find_ports(paths: ClusterPaths) -> ServedPorts | None:
    """The ports of a cluster that are open, or were when their process was killed."""
    try:
        descriptor = os.open(paths.ports, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_current = is_locked(descriptor)
        told = json.loads(os.pread(descriptor, LONGEST, 0))
        host = told["host"] and (int(told["host"][0]), int(told["host"][1]))
        ports = tuple(_read_port(one) for one in told["ports"])
        return ServedPorts(ports, int(told["pid"]), host, is_current)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    finally:
        os.close(descriptor)


def _read_port(told: Mapping[str, Any]) -> Port:
    return Port(**{**told, "spare_addresses": tuple(told.get("spare_addresses", ()))})


def open_ports(paths: ClusterPaths, way: WayIn, ports: Sequence[Port]) -> None:
    """Have exactly these ports of a cluster open, by a process that outlives us.

    Raises HostError if one is in use, or the process does not start; then none is open.
    """
    there = find_ports(paths)
    if there and there.is_current and (there.ports, there.host) == (tuple(ports), way.host):
        return
    close_ports(paths)
    if not ports:
        return
    note = {"ports": [asdict(one) for one in ports], "host": way.host}
    order = Order(tuple(one.target for one in ports), way.host, str(paths.ports), note)
    with listening(ports) as listeners:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                argv = [*outliving(), *_argv(way)]
                start_detached(argv, log=paths.ports_log, stdin=theirs.fileno())
            is_ready = _hand_over(ours, order, listeners)
    if not is_ready:
        close_ports(paths)
        said = (read_text(paths.ports_log) or "").strip()[-1500:]
        raise HostError("the process for the ports of the cluster ended", details=said or None)


def close_ports(paths: ClusterPaths) -> None:
    """End the process of a cluster's ports, if it runs. Raises DeadlineError if it does not end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        there = find_ports(paths)
        if there is None or not there.is_current:
            break
        with suppress(ProcessLookupError):
            os.kill(there.pid, number)
        with suppress(DeadlineError):
            _await_end(paths)
    _await_end(paths)
    paths.ports.unlink(missing_ok=True)


def _await_end(paths: ClusterPaths) -> None:
    def is_over() -> bool:
        there = find_ports(paths)
        return there is None or not there.is_current

    wait_until(is_over, Deadline.after(END_S), "the end of the cluster's ports", interval_s=0.01)


@contextmanager
def listening(ports: Sequence[Port]) -> Iterator[list[socket.socket]]:
    """A socket for each, which are closed here after the block. Raises HostError."""
    with ExitStack() as stack:
        yield [stack.enter_context(listen(one.address, one.host_port)) for one in ports]


def forward(
    ports: Sequence[Port],
    listeners: Sequence[socket.socket],
    find_way: Callable[[], WayIn | None],
    tell: Callable[[str], None],
) -> None:
    """Pass connections on until the caller is interrupted; `tell` gets what could not be reached.

    The process that does it ends with us, however we end. It is started again when the host was:
    `find_way` gives None while that is down. Raises HostError if it does not start.
    """
    order = Order(tuple(one.target for one in ports), None, None, {})
    is_told = False
    while True:
        way = find_way()
        if way is None:
            if not is_told:
                tell("the embedded host is down; waiting for it")
            is_told = True
            time.sleep(PAUSE_S)
            continue
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, _started(way, theirs):
            is_ready = _hand_over(ours, replace(order, host=way.host), listeners)
            if is_ready and is_told:
                tell("the embedded host is up again")
                is_told = False
            with suppress(ConnectionResetError):
                while said := ours.recv(LONGEST):
                    tell(said.decode(errors="replace"))
        if not is_ready and find_way() == way:
            raise HostError("the process that passes connections on ended", hint="ai-how doctor")


@contextmanager
def _started(way: WayIn, line: socket.socket) -> Iterator[Daemon]:
    with line:
        child = start_daemon(_argv(way), log=Path("/dev/null"), stdin=line.fileno())
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _argv(way: WayIn) -> list[Argument]:
    return [*way.enter, sys.executable, "-I", "-m", MODULE]


def _hand_over(line: socket.socket, order: Order, listeners: Sequence[socket.socket]) -> bool:
    """Give the process its order and its sockets; whether it serves."""
    line.settimeout(PATIENCE_S)
    try:
        socket.send_fds(line, [order.encode()], [one.fileno() for one in listeners])
        return line.recv(LONGEST) == READY
    except OSError:
        return False
    finally:
        line.settimeout(None)
