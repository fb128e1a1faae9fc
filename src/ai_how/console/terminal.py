"""The user's terminal connected to a guest's serial line, until Ctrl-]."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from ai_how.errors import SpecError
from ai_how.limits import start_thread

ESCAPE = b"\x1d"  # Ctrl-], as in virsh and telnet
CHUNK_BYTES = 4096


class Line(Protocol):
    """A serial line: `recv` blocks, and returns b"" at its end."""

    def recv(self, size: int) -> bytes: ...

    def send(self, data: bytes) -> None: ...


def attach(line: Line, *, hint: str) -> None:
    """Pass bytes in both directions until the user types Ctrl-] or the line ends.

    The guest's output reaches the terminal unchanged, as on any console. Raises SpecError, with the
    `hint`, if there is no terminal.
    """
    if not sys.stdin.isatty():
        raise SpecError("a console needs a terminal", hint=hint)
    ended_r, ended_w = os.pipe()

    def show() -> None:
        try:
            while data := line.recv(CHUNK_BYTES):
                os.write(1, data)
        except OSError:
            pass  # the terminal, or the reader in its place, is gone
        finally:
            os.close(ended_w)

    with _raw_terminal():
        start_thread(show, name="console")
        while True:
            ready, _, _ = select.select([0, ended_r], [], [])
            if ended_r in ready:
                return
            typed = os.read(0, CHUNK_BYTES)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                line.send(before)
            if escape or not typed:
                return


@contextmanager
def kept_modes() -> Iterator[None]:
    """What a program in the block makes of the terminal is undone, however that program ends."""
    previous = termios.tcgetattr(0)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, previous)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    try:
        with kept_modes():
            tty.setraw(0)
            yield
    finally:
        os.write(1, b"\r\n")
