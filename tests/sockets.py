"""Ports and servers of tests."""

import socket

PORT = 8000
# A program that serves PORT of the address that it is given: it answers in capitals. It says `up`.
SERVER = f"""
import socket, sys
with socket.create_server((sys.argv[1], {PORT})) as server:
    print("up", flush=True)
    while True:
        with server.accept()[0] as line:
            line.sendall(line.recv(100).upper())
"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])
