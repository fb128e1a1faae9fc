"""Connects to ports of nodes, in their network, and hands the connections out.

dialing.py runs it as `python -m ai_how.host.dialer`. Standard input is a Unix socket: by it come
addresses and ports, one after the other, and each is answered: "ok" and the connection, or why not.
"""

import json
import socket
from contextlib import suppress

from ai_how.host.connections import end_when_lost

CONNECT_S = 2.0
LONGEST = 1024
READY = b"ok"


def main() -> None:
    with socket.socket(fileno=0) as line:
        while order := line.recv(LONGEST):
            answer(line, order)


def answer(line: socket.socket, order: bytes) -> None:
    """Answer one order. Its sender has checked it."""
    address, port = json.loads(order)
    try:
        node = socket.create_connection((address, port), timeout=CONNECT_S)
    except OSError as error:
        line.send((error.strerror or "no answer").encode())
        return
    with node:
        end_when_lost(node)
        node.setblocking(True)  # noqa: FBT003
        socket.send_fds(line, [READY], [node.fileno()])


if __name__ == "__main__":
    with suppress(ConnectionError, KeyboardInterrupt):  # whoever asked has ended
        main()
