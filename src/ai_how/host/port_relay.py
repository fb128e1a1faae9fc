"""Relays from a port inside the embedded host to the same port of this host.

For a proxy that listens here: guests may not connect to this host, and reach it at their gateway.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import Thread

from ai_how.host.connections import serve_connections
from ai_how.host.network_facts import read_own_addresses

AT_ONCE = 256
CONNECT_S = 10.0
CHUNK_BYTES = 1 << 16


def serve_relays(listeners: Sequence[socket.socket]) -> None:
    """Relay what connects to each of them to its port, in threads."""
    for listener in listeners:
        relay = partial(_relay, listener.getsockname()[1])
        serve = partial(serve_connections, listener, relay, at_once=AT_ONCE)
        Thread(target=serve, daemon=True).start()


def _relay(port: int, guest: socket.socket) -> None:
    with _connected(port) as proxy:
        pass_both_ways(guest, proxy)


def pass_both_ways(one: socket.socket, other: socket.socket) -> None:
    """Pass what comes by each of two connections on to the other, until both have ended."""
    for side in (one, other):
        side.settimeout(None)
        _notice_its_end(side)
    back = Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


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
