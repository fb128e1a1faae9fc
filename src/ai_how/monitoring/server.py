"""Answers the readers of a collector on a Unix socket, by lines of JSON, on one thread.

A reader that does not read has no more of our memory than one answer, and is dismissed after a
while. Nobody waits for it.
"""

import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ai_how.clusters.collector_socket import listen
from ai_how.limits import start_thread

MOST_READERS = 64
LONGEST_REQUEST = 1 << 14
STUCK_S = 60.0
_LOOK_S = 5.0
_PIECE = 1 << 16
_AT_ONCE = 16
_PEER = struct.Struct("3i")  # pid, uid, gid

Answer = Callable[[dict[str, Any]], bytes]


class Server:
    """Serves until `close`. `answer` gets a request, and raises ValueError for one that is none."""

    def __init__(self, path: Path, answer: Answer, *, stuck_s: float = STUCK_S) -> None:
        self._answer = answer
        self._stuck_s = stuck_s
        self._listener = listen(path)
        self._wake, self._woken = socket.socketpair()
        self._readers: dict[int, _Reader] = {}
        self._newest = (0, b"")
        self._is_over = False
        self._left_at = time.monotonic()
        for line in (self._listener, self._wake, self._woken):
            line.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = start_thread(self._serve, name="readers")

    @property
    def idle_s(self) -> float:
        """For how long there has been no reader."""
        return 0.0 if self._readers else time.monotonic() - self._left_at

    @property
    def readers(self) -> int:
        return len(self._readers)

    def publish(self, line: bytes) -> None:
        """Send a line to each reader that follows; one that is behind misses it."""
        self._newest = (self._newest[0] + 1, line)
        self._rouse()

    def close(self) -> None:
        self._is_over = True
        self._rouse()
        self._thread.join(_LOOK_S)

    def _rouse(self) -> None:
        with suppress(OSError):
            self._wake.send(b"\0")

    def _serve(self) -> None:
        while not self._is_over:
            for key, events in self._selector.select(_LOOK_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._drain()
                elif reader := self._readers.get(key.fd):
                    self._attend(reader, events)
            for reader in list(self._readers.values()):
                self._go_on(reader)
        for reader in list(self._readers.values()):
            self._dismiss(reader)
        for line in (self._listener, self._wake, self._woken):
            line.close()
        self._selector.close()

    def _drain(self) -> None:
        with suppress(OSError):
            while self._woken.recv(_PIECE):
                pass

    def _accept(self) -> None:
        try:
            line, _ = self._listener.accept()
        except OSError:  # no descriptor is left, or it has gone again
            return
        is_full = len(self._readers) >= MOST_READERS
        if is_full or not _is_ours(line):
            why = b"it has too many readers" if is_full else b"it serves another user"
            with suppress(OSError):
                line.send(b'{"error": "%b"}\n' % why, socket.MSG_DONTWAIT)
            line.close()
            return
        line.settimeout(0)
        self._readers[line.fileno()] = _Reader(line)
        self._selector.register(line, selectors.EVENT_READ)

    def _attend(self, reader: "_Reader", events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                reader.receive()
            if events & selectors.EVENT_WRITE:
                reader.send()
        except (OSError, ValueError):
            self._dismiss(reader)

    def _go_on(self, reader: "_Reader") -> None:
        """Answer what it asked, once it has read what it got."""
        try:
            for _ in range(_AT_ONCE):
                if reader.is_busy or (request := reader.next_request()) is None:
                    break
                reader.put(self._answered(request, reader) + b"\n")
                reader.send()
            else:
                self._rouse()  # the others first
            count, newest = self._newest
            if reader.follows and not reader.is_busy and reader.told < count:
                reader.told = count
                reader.put(newest)
                reader.send()
        except (OSError, ValueError):
            self._dismiss(reader)
            return
        is_done = reader.is_gone and not reader.has_request and not reader.is_busy
        if is_done or (reader.is_busy and reader.stuck_s > self._stuck_s):
            self._dismiss(reader)
            return
        # What it asks next stays in the socket until it has read.
        wanted = selectors.EVENT_WRITE if reader.is_busy else selectors.EVENT_READ
        self._selector.modify(reader.line, wanted)

    def _answered(self, request: bytes, reader: "_Reader") -> bytes:
        try:
            asked = json.loads(request)
            if asked["ask"] == "follow":
                reader.follows = True
                return b'{"follows": true}'
            return self._answer(asked)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            said = f"this is no question: {type(error).__name__}: {error}"
            return json.dumps({"error": said[:300]}).encode()

    def _dismiss(self, reader: "_Reader") -> None:
        if self._readers.pop(reader.line.fileno(), None):
            self._selector.unregister(reader.line)
            reader.line.close()
            self._left_at = time.monotonic()


class _Reader:
    """One connection: what it has sent, and what it is sent."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.follows = False
        self.told = 0
        self.is_gone = False
        self._said = b""
        self._answer = memoryview(b"")
        self._moved_at = time.monotonic()

    @property
    def is_busy(self) -> bool:
        return bool(self._answer)

    @property
    def has_request(self) -> bool:
        return b"\n" in self._said

    @property
    def stuck_s(self) -> float:
        return time.monotonic() - self._moved_at

    def receive(self) -> None:
        """Raises ValueError for a request that is too long."""
        try:
            piece = self.line.recv(LONGEST_REQUEST)
        except BlockingIOError:
            return
        self.is_gone = not piece
        self._said += piece
        if len(self._said) > 2 * LONGEST_REQUEST:
            raise ValueError("too long")

    def next_request(self) -> bytes | None:
        request, end, rest = self._said.partition(b"\n")
        if not end:
            if len(request) > LONGEST_REQUEST:
                raise ValueError("too long")
            return None
        self._said = rest
        return request

    def put(self, answer: bytes) -> None:
        """Have an answer to send; several readers share one that is the same."""
        self._answer = memoryview(answer)
        self._moved_at = time.monotonic()

    def send(self) -> None:
        with suppress(BlockingIOError):
            while self._answer:
                sent = self.line.send(self._answer[:_PIECE])
                self._answer = self._answer[sent:]
                self._moved_at = time.monotonic()


def _is_ours(line: socket.socket) -> bool:
    """Whether our user, or root, is at the other end."""
    told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(told)[1] in {0, os.geteuid()}
