"""Open the sockets of the DNS proxy and of the relays inside the embedded host, and send them out.

outside.py runs it there as `python -m ai_how.host.listening RELAY…`. It also names the DNS proxy in
the /etc/resolv.conf there. Standard input is a Unix socket. Of each socket one byte is sent:
whether it could be opened. A relay is ADDRESS:PORT, the gateway of a cluster and the port of a
proxy.
"""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.daemon_log import say
from ai_how.host.guest_rules import NAME_SERVERS, NAMES_INSIDE, OLD_HOST, OUR_RESOLV_CONF
from ai_how.process import Argument, start_daemon

NAMES_PORT = 53
IP_FREEBIND = 15  # linux/in.h; not in Python's socket module
KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
Place = tuple[socket.SocketKind, str, int]


def places(relays: Sequence[str]) -> list[Place]:
    """Where to listen: for names on loopback, for each relay at its ADDRESS:PORT."""
    names = [(kind, address, NAMES_PORT) for kind in KINDS for address in NAME_SERVERS]
    parts = [relay.rpartition(":") for relay in relays]
    return [*names, *((socket.SOCK_STREAM, address, int(port)) for address, _, port in parts)]


def open_inside(
    enter: Sequence[Argument], relays: Sequence[str], *, log: Path
) -> tuple[list[socket.socket], list[socket.socket]]:
    """The sockets for names, and those of the relays whose place is free inside.

    `enter` begins the command that runs inside. Raises HostError without those for names.
    """
    wanted = places(relays)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            argv = [*enter, sys.executable, "-I", "-m", "ai_how.host.listening"]
            child = start_daemon([*argv, *relays], log=log, stdin=theirs.fileno())
        said, descriptors, _, _ = socket.recv_fds(ours, len(wanted), len(wanted))
    child.wait()
    opened = iter([socket.socket(fileno=one) for one in descriptors])
    found = [next(opened) if is_open else None for is_open in said]
    count = len(KINDS) * len(NAME_SERVERS)
    names = [one for one in found[:count] if one]
    if len(names) != count:
        raise HostError(OLD_HOST)  # nobody else has these ports
    return names, [one for one in found[count:] if one]


def main(relays: Sequence[str]) -> None:
    # A host that was started without an uplink has no name server in there. /etc/resolv.conf may
    # be the real host's file by now: a rename out there takes our mount away.
    with suppress(OSError):
        if OUR_RESOLV_CONF.read_text() != NAMES_INSIDE:
            OUR_RESOLV_CONF.write_text(NAMES_INSIDE)
    lines = [_bound(*place) for place in places(relays)]
    opened = [line.fileno() for line in lines if line]
    with socket.socket(fileno=0) as out:
        socket.send_fds(out, [bytes(line is not None for line in lines)], opened)


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket | None:
    line = socket.socket(type=kind)
    # One that was killed a moment ago may have connections that are not over.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # The network of a cluster that starts has no gateway yet.
    line.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    try:
        line.bind((address, port))
        if kind is socket.SOCK_STREAM:
            line.listen()
    except OSError as error:
        say(f"port {port} inside the embedded host: {error.strerror}")
        line.close()
        return None
    return line


if __name__ == "__main__":
    main(sys.argv[1:])
