"""Frames to and from a program in a guest, over ssh: a letter, the length, the content."""

import json
import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ai_how.errors import GuestError
from ai_how.guest.exec_frames import HEAD_BYTES, encode
from ai_how.process import Daemon, dying_with_us, start_piped
from ai_how.waiting import Deadline

CHUNK_BYTES = 1 << 16
_MOST_BYTES = 1 << 28
_END_S = 2.0


class LinkLostError(GuestError):
    """The connection ended before the program at its other end.

    `last` is the last frame of that program which nobody has received, None if there is none.
    """

    last: tuple[str, bytes] | None = None


@dataclass(slots=True)
class Link:
    """The connection to one program in a guest."""

    child: Daemon
    errors: int
    """The descriptor of a file with what ssh says."""

    @classmethod
    def open(cls, argv: Sequence[str]) -> "Link":
        """Start ssh, away from the terminal: Ctrl-C is for us. It ends with us, however we end."""
        errors = os.memfd_create("errors")
        return cls(start_piped(dying_with_us(argv), errors=errors, is_apart=True), errors)

    def close(self) -> None:
        """End the connection, when the other end has all that was sent; in two seconds at most.

        The program there sees that its input has ended.
        """
        until = Deadline.after(_END_S)
        if self.child.stdin:
            self.child.stdin.close()
        if self.child.stdout:
            number = self.child.stdout.fileno()
            while select.select([number], [], [], until.remaining_s)[0]:
                if not os.read(number, CHUNK_BYTES):
                    break
            self.child.stdout.close()
        self.child.send_signal(signal.SIGTERM)
        self.child.wait()
        os.close(self.errors)

    def send(self, kind: str, content: bytes = b"") -> None:
        """Raises LinkLostError if the connection has ended."""
        rest = memoryview(encode(kind, content))
        assert self.child.stdin is not None  # noqa: S101  for mypy: it has a pipe
        try:
            while rest:
                rest = rest[os.write(self.child.stdin.fileno(), rest) :]
        except BrokenPipeError:
            error = self._lost()
            with suppress(LinkLostError):
                while True:
                    error.last = self.receive()
            raise error from None

    def send_json(self, kind: str, value: object) -> None:
        self.send(kind, json.dumps(value).encode())

    def receive(self) -> tuple[str, bytes]:
        """The next frame. Raises LinkLostError if the connection ends, GuestError for nonsense."""
        head = self._read(HEAD_BYTES)
        length = int.from_bytes(head[1:], "big")
        if length > _MOST_BYTES:
            raise GuestError("the guest sent something unexpected", details=repr(head))
        return chr(head[0]), self._read(length)

    def _read(self, count: int) -> bytes:
        assert self.child.stdout is not None  # noqa: S101
        parts = []
        while count:
            part = os.read(self.child.stdout.fileno(), min(count, 1 << 20))
            if not part:
                raise self._lost()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _lost(self) -> LinkLostError:
        said = os.pread(self.errors, CHUNK_BYTES, 0).decode(errors="replace").strip()
        return LinkLostError("the connection was lost", details=said or None)
