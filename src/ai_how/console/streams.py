"""stdout and stderr that survive the end of their readers, and facts about them."""

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

DUMB = ("", "dumb", "unknown")
"""`TERM` of terminals on which the cursor cannot be moved."""
_LEGIBLE = "ai-how-legible"
_IN_ASCII = {"…": "...", "·": "-"}


class Style(StrEnum):
    """The meaning of a colour; the value is its ANSI name."""

    GOOD = "32"
    WARN = "33"
    BAD = "1;31"
    DIM = "2"
    BOLD = "1"

    @property
    def for_rich(self) -> str:
        names = {Style.GOOD: "green", Style.WARN: "yellow", Style.BAD: "bold red"}
        return names.get(self, self.name.lower())


class Outlet:
    """A stream that accepts output even if it cannot be written: the work continues.

    A reader that ended (`| head`, a terminal) is not a failure; `lost` has any other error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lost: OSError | None = None
        self.has_reader = True
        self._stream = stream
        self._gone = (errno.EPIPE, errno.EIO) if stream.isatty() else (errno.EPIPE,)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes as they are, at once."""
        try:
            self._stream.flush()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._stream.fileno(), rest) :]
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  all else is the stream's
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        """Discard the buffered output and all later output."""
        self.has_reader = False
        if error.errno not in self._gone:
            self.lost = self.lost or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def guarded_output() -> Iterator[Outlet]:
    """Replace stdout and stderr by Outlets; yields stdout's, flushed at the end."""
    _occupy_standard_descriptors()
    previous = sys.stdout, sys.stderr
    out, err = (Outlet(stream) for stream in previous)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = previous


def pause(seconds: float) -> bool:
    """Wait while stdout has a reader; False if it no longer has one.

    A pipe does not tell a sleeping writer about that, so it is polled.
    """
    import select  # only repeated output needs it

    if not has_reader():
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors and a hang-up are always reported
    return not poll.poll(seconds * 1000)


def has_reader() -> bool:
    """Whether stdout could be written so far."""
    return getattr(sys.stdout, "has_reader", True)


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def paint(text: str, style: Style | None, stream: TextIO) -> str:
    """The text in its colour, where the stream shows colours."""
    if style is None or not shows_colours(stream):
        return text
    return f"\x1b[{style.value}m{text}\x1b[0m"


def shows_colours(stream: TextIO) -> bool:
    """Whether to use colours: on a terminal, unless its user disabled them (no-color.org)."""
    return can_redraw(stream) and not os.environ.get("NO_COLOR")


def can_redraw(stream: TextIO) -> bool:
    """Whether it is a terminal on which the cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM", "") not in DUMB


def overflow_of(stream: TextIO) -> Literal["ellipsis", "crop"]:
    """How rich cuts a line off: it ends with a `…`, which not every encoding has."""
    return "ellipsis" if (stream.encoding or "utf-8").lower().startswith("utf") else "crop"


def console_of_rich(*, width: int | None = None, soft_wrap: bool = False) -> "Console":
    """Rich's console for stdout, without colours and bold letters where they are not wanted."""
    from rich.console import Console  # slow to import

    return Console(
        file=sys.stdout,
        color_system="auto" if shows_colours(sys.stdout) else None,
        highlight=False,
        width=width,
        soft_wrap=soft_wrap,
    )


def _occupy_standard_descriptors() -> None:
    """Open closed descriptors of 0 to 2: the next opened file would get their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004
        os.set_inheritable(number, True)  # noqa: FBT003
    os.close(number)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not end a run.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=_LEGIBLE)


def _legible(error: UnicodeError) -> tuple[str | bytes, int]:
    """Our own signs in ASCII, and escapes for all others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    signs = (
        _IN_ASCII.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lost
    )
    return "".join(signs), error.end


codecs.register_error(_LEGIBLE, _legible)
