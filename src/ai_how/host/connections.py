"""Serve the connections of a listening socket in threads, a limited number at a time."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import BoundedSemaphore, Thread

PAUSE_S = 0.2
LOST_S = 120
"""A node that has not answered for so long has lost its connections: its VM was killed."""
_TIMES = 6


def end_when_lost(line: socket.socket) -> None:
    """Have a connection to a node end if the node is gone: nobody there closes it."""
    every = LOST_S // _TIMES
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TIMES - 1)
    # The same for what was sent and is not acknowledged.
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000)


def serve_connections(
    listener: socket.socket, serve: Callable[[socket.socket], None], *, at_once: int
) -> None:
    """Pass each connection to `serve`, on a thread of its own; it is closed after. For ever.

    If no thread can be started, the connection is closed: its client has to try again.
    """
    free = BoundedSemaphore(at_once)

    def begin(line: socket.socket) -> None:
        try:
            with line, suppress(OSError):
                serve(line)
        finally:
            free.release()

    while True:
        free.acquire()
        try:
            line, _ = listener.accept()
        except OSError:  # too many files are open, or it was gone before
            free.release()
            time.sleep(PAUSE_S)
            continue
        try:
            Thread(target=begin, args=(line,), daemon=True).start()
        except RuntimeError:
            line.close()
            free.release()
