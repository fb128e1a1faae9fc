"""Connects standard input and output to a guest's TCP port, as ssh's ProxyCommand.

Run as `python -m ai_how.host.relay ADDRESS PORT` inside the embedded host's network. It ends when
the guest closes the connection; nc(1) would wait for the end of its standard input, and ssh for nc.
"""

import os
import socket
import sys
import threading
import time

PATIENCE_S = 60.0  # sshd may be starting: its port is awaited, as every other service is
CHUNK_BYTES = 65536


def connect(address: str, port: int) -> socket.socket:
    """Connect as soon as the port accepts. Raises OSError if it does not in time."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.2)


def send_input(line: socket.socket) -> None:
    """Forward standard input, and its end."""
    while data := os.read(0, CHUNK_BYTES):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)


def main(address: str, port: str) -> None:
    line = connect(address, int(port))
    line.settimeout(None)
    threading.Thread(target=send_input, args=(line,), daemon=True).start()
    while data := line.recv(CHUNK_BYTES):
        while data:
            data = data[os.write(1, data) :]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"ai-how: {sys.argv[1]} port {sys.argv[2]}: {error}")
