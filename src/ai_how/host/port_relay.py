"""Relays from a port inside the embedded host to the same port of this host's loopback.

For a proxy that listens there alone: guests reach it at their gateway.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from threading import BoundedSemaphore, Thread

AT_ONCE = 256
CONNECT_S = 10.0
CHUNK_BYTES = 1 << 16


def serve_relays(listeners: Mapping[int, socket.socket]) -> None:
    """Relay what connects to each of them, in threads."""
    for port, listener in listeners.items():
        Thread(target=_serve, args=(listener, port), daemon=True).start()


def _serve(listener: socket.socket, port: int) -> None:
    free = BoundedSemaphore(AT_ONCE)
    while True:
        guest, _ = listener.accept()
        free.acquire()
        try:
            Thread(target=_relay, args=(guest, port, free), daemon=True).start()
        except RuntimeError:  # no thread can be started: the client has to try again
            guest.close()
            free.release()


def _relay(guest: socket.socket, port: int, free: BoundedSemaphore) -> None:
    try:
        with guest, suppress(OSError), _connected(port) as proxy:
            proxy.settimeout(None)
            back = Thread(target=_copy, args=(proxy, guest), daemon=True)
            back.start()
            _copy(guest, proxy)
            back.join()
    finally:
        free.release()


def _connected(port: int) -> socket.socket:
    """A connection to a port of loopback. Raises OSError."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=CONNECT_S)
    except OSError:
        return socket.create_connection(("::1", port), timeout=CONNECT_S)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until the end of what comes, which is told to the other side."""
    with suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    # If the other side is gone, nothing more is wanted of this one.
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)
