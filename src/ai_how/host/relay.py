"""Connects standard input and output to a guest's TCP port, as ssh's ProxyCommand.

Run as `python -m ai_how.host.relay ADDRESS PORT` inside the embedded host's network. It ends when
the guest closes the connection; nc(1) would wait for the end of its standard input, and ssh for nc.
"""

import os
import socket
import sys
import threading
import time

from ai_how.host.connections import end_when_lost

SILENCE_S = 5.0  # who waits longer is told so
PATIENCE_S = 60.0  # sshd may be starting: its port is awaited, as every other service is
CHUNK_BYTES = 65536


def connect(address: str, port: int) -> socket.socket:
    """Connect as soon as the port accepts. Raises OSError if it does not in time."""
    begun = time.monotonic()
    is_told = False
    while True:
        try:
            return socket.create_connection((address, port), timeout=SILENCE_S)
        except OSError:
            waited_s = time.monotonic() - begun
            if waited_s >= PATIENCE_S:
                raise
            if waited_s >= SILENCE_S and not is_told:
                is_told = True
                sys.stderr.write(
                    f"ai-how: {address} does not answer; waiting for it up to {PATIENCE_S:.0f} s "
                    "(is the node on? see the status of its cluster)\n"
                )
            time.sleep(0.2)


def send_input(line: socket.socket) -> None:
    """Forward standard input, and its end."""
    while data := os.read(0, CHUNK_BYTES):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)


def main(address: str, port: str) -> None:
    line = connect(address, int(port))
    line.settimeout(None)
    end_when_lost(line)
    threading.Thread(target=send_input, args=(line,), daemon=True).start()
    while data := line.recv(CHUNK_BYTES):
        while data:
            data = data[os.write(1, data) :]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)  # ssh says all that there is to say
    except OSError as error:
        sys.exit(f"ai-how: {sys.argv[1]} port {sys.argv[2]}: {error}")
