"""Relays from a port inside the embedded host to the same port of this host.

For a proxy that listens here: guests may not connect to this host, and reach it at their gateway.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import BoundedSemaphore, Thread

from ai_how.host.network_facts import read_own_addresses

AT_ONCE = 256
CONNECT_S = 10.0
PAUSE_S = 0.2
CHUNK_BYTES = 1 << 16


def serve_relays(listeners: Sequence[socket.socket]) -> None:
    """Relay what connects to each of them to its port, in threads."""
    for listener in listeners:
        port = listener.getsockname()[1]
        Thread(target=_serve, args=(listener, port), daemon=True).start()


def _serve(listener: socket.socket, port: int) -> None:
    free = BoundedSemaphore(AT_ONCE)
    while True:
        free.acquire()
        try:
            guest, _ = listener.accept()
        except OSError:  # too many files are open, or it was gone before
            free.release()
            time.sleep(PAUSE_S)
            continue
        try:
            Thread(target=_relay, args=(guest, port, free), daemon=True).start()
        except RuntimeError:  # no thread can be started: the client has to try again
            guest.close()
            free.release()


def _relay(guest: socket.socket, port: int, free: BoundedSemaphore) -> None:
    try:
        with guest, suppress(OSError), _connected(port) as proxy:
            proxy.settimeout(None)
            for side in (guest, proxy):
                _notice_its_end(side)
            back = Thread(target=_copy, args=(proxy, guest), daemon=True)
            back.start()
            _copy(guest, proxy)
            back.join()
    finally:
        free.release()


def _notice_its_end(side: socket.socket) -> None:
    """A guest whose power is cut says nothing more: find out within some minutes."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _connected(port: int) -> socket.socket:
    """A connection to a port of loopback, else of another address of this host. Raises OSError."""
    addresses = ["127.0.0.1", "::1", *read_own_addresses()]
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), timeout=CONNECT_S)
    return socket.create_connection((addresses[-1], port), timeout=CONNECT_S)


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
