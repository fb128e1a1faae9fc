"""A program on a terminal of its own, and what that terminal shows."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess  # noqa: TID251  a program is spoken to while it runs
import termios
import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len

# What the views write: text, control characters, and sequences of these forms.
_PIECE = re.compile(r"\x1b\[([0-9;?<>=$]*)([A-Za-z])|\x1b\[[0-9;?$]*p|([\r\n\b])|([^\x1b\r\n\b]+)")


class Terminal:
    """The program leads the session of the terminal."""

    def __init__(self, argv: Sequence[str], *, rows: int = 24, columns: int = 80, **env) -> None:
        self.rows, self.columns = rows, columns
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.master)
        self.child = subprocess.Popen(  # noqa: S603
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
            preexec_fn=_lead,  # noqa: PLW1509  the terminal is to be its own
        )
        os.close(slave)
        self.shown = b""

    def wait_for(self, text: bytes, within_s: float = 60) -> None:
        """Until it was written."""
        self._until(lambda: text in self.shown, within_s, repr(text))

    def wait_to_show(self, text: str, within_s: float = 60) -> str:
        """Until it is on the screen; the line with it."""
        self._until(lambda: any(text in line for line in self.screen()), within_s, text)
        return next(line for line in self.screen() if text in line)

    def wait_until(self, is_so: Callable[[list[str]], bool], what: str, within_s: float) -> None:
        """Until the screen is as it is to be."""
        self._until(lambda: is_so(self.screen()), within_s, what)

    def _until(self, is_so: Callable[[], bool], within_s: float, what: str) -> None:
        until = time.monotonic() + within_s
        while not is_so():
            text = "\n".join(self.screen())
            assert time.monotonic() < until, f"waited for {what}:\n{text}\n{self.shown[-2000:]!r}"
            self.read()

    def read(self) -> None:
        if select.select([self.master], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self.master, 65536)
            except OSError:
                time.sleep(0.1)  # nobody has the other side open

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def screen(self) -> list[str]:
        """The lines that it shows."""
        return screen_of(self.shown.decode("utf-8", "ignore"), self.rows, self.columns)

    def end(self, within_s: float = 60) -> int:
        """Its exit code, when it has ended by itself."""
        self._until(lambda: self.child.poll() is not None, within_s, "its end")
        self.read()
        return self.child.returncode

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.master)

    def assert_restored(self) -> None:
        """The modes are as before; the other screen, the mouse and the cursor are, too."""
        assert termios.tcgetattr(self.master) == self.before
        for mode in (b"1049", b"1000", b"1003", b"1006", b"2004", b"1004"):
            on, off = b"\x1b[?" + mode + b"h", b"\x1b[?" + mode + b"l"
            assert self.shown.rfind(off) > self.shown.rfind(on) or on not in self.shown, mode
        if b"\x1b[?25l" in self.shown:
            assert self.shown.rfind(b"\x1b[?25h") > self.shown.rfind(b"\x1b[?25l")


def screen_of(written: str, rows: int, columns: int) -> list[str]:
    """What a terminal shows of this: as much of one as the views use."""
    lines = [[" "] * columns for _ in range(rows)]
    y = x = 0
    for found in _PIECE.finditer(written):
        words, verb, control, text = found[1], found[2], found[3], found[4]
        if verb == "H":
            numbers = [int(one or 1) for one in (words or "1;1").split(";")]
            y, x = min(numbers[0], rows) - 1, min(numbers[-1], columns) - 1
        elif verb == "J" or (verb == "h" and words == "?1049"):
            lines = [[" "] * columns for _ in range(rows)]
        elif control == "\r":
            x = 0
        elif control == "\n":
            y = min(y + 1, rows - 1)
        elif text:
            for char in text:
                if (wide := cell_len(char)) and x + wide <= columns:
                    lines[y][x : x + wide] = [char] + [""] * (wide - 1)
                    x += wide
    return ["".join(line).rstrip() for line in lines]


def _lead() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
