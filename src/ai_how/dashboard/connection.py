"""One connection of the server: whose it is, and how long it may take."""

import asyncio
import logging
import os
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 200
# For the head of a request, and for the rest of an answer that nobody reads.
REQUEST_S, REST_S = 10.0, 10.0
_TABLES = {False: Path("/proc/net/tcp"), True: Path("/proc/net/tcp6")}
_ALIVE = 1  # ESTABLISHED: only then the number of the user is that of a process


class Connection(H11Protocol):
    """uvicorn's, which waits for ever, and for everybody."""

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  uvicorn's own
        super().__init__(*arguments, **named)
        self.app_state = {**self.app_state, "abort": self._abort}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS or not is_of_user(transport):
            transport.abort()
        else:
            self._timer = self.loop.call_later(REQUEST_S, self._abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_waited_for = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not is_waited_for or self.transport.get_protocol() is not self:
            self._disarm()
        elif self._timer is None and (self.conn.trailing_data[0] or self._has_body_left()):
            self._timer = self.loop.call_later(REQUEST_S, self._abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(REST_S, self._abort)

    def _has_body_left(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _abort(self) -> None:
        self.transport.abort()


def is_of_user(transport: asyncio.Transport) -> bool:
    """Whether a process of our user, of root, or of who called sudo is at the other end.

    Every user of a machine reaches its loopback address, and a browser sends the cookies of
    127.0.0.1 to every port, of whichever user. Where the kernel does not tell, the token decides.
    """
    line = transport.get_extra_info("socket")
    try:
        uid = uid_of_peer(line.getpeername(), line.getsockname())
    except OSError:
        return False  # it is gone
    except LookupError:
        return False
    if uid is None:
        return True
    allowed = {os.geteuid(), 0, int(os.environ.get("SUDO_UID") or 0)}
    if uid not in allowed:
        _note_stranger(uid)
    return uid in allowed


@cache
def _note_stranger(uid: int) -> None:
    """Once for each user: they could fill the terminal."""
    logger.warning("connections of user %s are refused: the page is not theirs", uid)


def uid_of_peer(peer: tuple[Any, ...], own: tuple[Any, ...]) -> int | None:
    """The user of the process that connected from `peer` to `own`, both on this host.

    None if the kernel does not tell; LookupError if that connection is over.
    """
    try:
        lines = _TABLES[":" in peer[0]].read_text().splitlines()[1:]
    except OSError:
        return None
    ends = [_hexadecimal(peer), _hexadecimal(own)]
    for line in lines:
        fields = line.split()
        if fields[1:3] == ends and int(fields[3], 16) == _ALIVE:
            return int(fields[7])
    raise LookupError(f"no process is connected from {peer}")


def _hexadecimal(end: tuple[Any, ...]) -> str:
    """An address and port as the kernel writes them: words of the machine's byte order."""
    family = socket.AF_INET6 if ":" in end[0] else socket.AF_INET
    packed = socket.inet_pton(family, end[0])
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    step = -1 if sys.byteorder == "little" else 1
    return f"{''.join(word[::step].hex().upper() for word in words)}:{end[1]:04X}"
