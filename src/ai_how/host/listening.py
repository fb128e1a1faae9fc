"""Open the sockets of the DNS proxy and of the relays inside the embedded host, and send them out.

outside.py runs it there as `python -m ai_how.host.listening PORT…`. It also names the DNS proxy in
the /etc/resolv.conf there. Standard input is a Unix socket. Of each socket one byte is sent:
whether it could be opened.
"""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.daemon_log import say
from ai_how.host.guest_rules import NAME_SERVERS, NAMES_INSIDE
from ai_how.process import Argument, start_daemon

NAMES_PORT = 53
RESOLV_CONF = Path("/etc/resolv.conf")
KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
Place = tuple[socket.SocketKind, str, int]


def places(ports: Sequence[int]) -> list[Place]:
    """Where to listen: for names on loopback, at each of the ports on every address."""
    names = [(kind, address, NAMES_PORT) for kind in KINDS for address in NAME_SERVERS]
    return [*names, *((socket.SOCK_STREAM, "", port) for port in ports)]


def open_inside(
    enter: Sequence[Argument], ports: Sequence[int], *, log: Path
) -> tuple[list[socket.socket], dict[int, socket.socket]]:
    """The sockets for names, and those of the ports that are free inside.

    `enter` begins the command that runs inside. Raises HostError without those for names.
    """
    wanted = places(ports)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            argv = [*enter, sys.executable, "-I", "-m", "ai_how.host.listening"]
            child = start_daemon([*argv, *map(str, ports)], log=log, stdin=theirs.fileno())
        said, descriptors, _, _ = socket.recv_fds(ours, len(wanted), len(wanted))
    child.wait()
    opened = iter([socket.socket(fileno=one) for one in descriptors])
    found = [next(opened) if is_open else None for is_open in said]
    names = [one for one, place in zip(found, wanted, strict=False) if place[1] and one]
    if len(names) != len(KINDS) * len(NAME_SERVERS):
        raise HostError("no name server could be started for guests")
    relays = zip(ports, found[len(names) :], strict=True)
    return names, {port: one for port, one in relays if one}


def main(ports: Sequence[int]) -> None:
    # A host that was started without an uplink has no name server in there. Only inside does a link
    # of that name lead to our own file, and not to one of the real host.
    with suppress(OSError):
        if RESOLV_CONF.read_text() != NAMES_INSIDE:
            RESOLV_CONF.write_text(NAMES_INSIDE)
    lines = [_bound(*place) for place in places(ports)]
    opened = [line.fileno() for line in lines if line]
    with socket.socket(fileno=0) as out:
        socket.send_fds(out, [bytes(line is not None for line in lines)], opened)


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket | None:
    line = socket.socket(type=kind)
    # One that was killed a moment ago may have connections that are not over.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    main([int(word) for word in sys.argv[1:]])
