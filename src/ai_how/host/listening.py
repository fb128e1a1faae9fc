"""Open the sockets of the DNS proxy inside the embedded host, and send them out.

name_proxy.py runs it there as `python -m ai_how.host.listening`; standard input is a Unix socket.
"""

import socket

from ai_how.host.guest_rules import NAME_SERVERS

NAMES_PORT = 53
KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)


def main() -> None:
    lines = [_bound(kind, address) for kind in KINDS for address in NAME_SERVERS]
    with socket.socket(fileno=0) as out:
        socket.send_fds(out, [b"\n"], [line.fileno() for line in lines])


def _bound(kind: socket.SocketKind, address: str) -> socket.socket:
    line = socket.socket(type=kind)
    # One that was killed a moment ago may have connections that are not over.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    line.bind((address, NAMES_PORT))
    if kind is socket.SOCK_STREAM:
        line.listen()
    return line


if __name__ == "__main__":
    main()
