"""Standard input, output and error as bytes, for programs that run elsewhere."""

import codecs
import os
import select
import sys
import time

from ai_how.console.text import clean
from ai_how.errors import HostError

LOOK_S = 1.0
PIECE_BYTES = 64 * 1024


class ByteOutput:
    """Writes bytes unchanged; on a terminal as text without control characters."""

    def __init__(self) -> None:
        self._decoders = {
            number: codecs.getincrementaldecoder("utf-8")("replace")
            for number, stream in ((1, sys.stdout), (2, sys.stderr))
            if stream.isatty()
        }

    def write(self, data: bytes, to_stderr: bool) -> bool:  # noqa: FBT001  the form of a sink
        """Write all of it; False if the output has no reader any more.

        Raises HostError if it cannot be written for another reason.
        """
        number = 2 if to_stderr else 1
        if decoder := self._decoders.get(number):
            data = clean(decoder.decode(data), keep_lines=True).encode()
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(number, left) :]
            except BlockingIOError:  # whoever gave it to us does not block
                _wait(number, select.POLLOUT)
            except OSError as error:
                if isinstance(error, BrokenPipeError) or number in self._decoders:
                    return False
                raise HostError(f"cannot write the output: {error.strerror}") from error
        return True


class ByteInput:
    """Standard input; nothing is read of a terminal while another job has it."""

    def __init__(self) -> None:
        self._is_terminal = os.isatty(0)

    def read_head(self, most: int, within_s: float) -> tuple[bytes, bool]:
        """What is there already, up to `most` bytes, and whether that is all of it."""
        head = b""
        until = time.monotonic() + within_s
        while not self._is_terminal and len(head) < most:
            if not _wait(0, select.POLLIN, max(0.0, until - time.monotonic())):
                break
            if not (data := self.read(min(PIECE_BYTES, most - len(head)))):
                return head, True
            head += data
        return head, False

    def read(self, most: int) -> bytes:
        """Up to `most` bytes as soon as there are any; b"" at the end."""
        while True:
            if not _wait(0, select.POLLIN, LOOK_S):
                continue
            if self._is_terminal and not _is_in_foreground():
                time.sleep(LOOK_S)
                continue
            try:
                return os.read(0, most)
            except BlockingIOError:
                continue
            except OSError:
                return b""  # a terminal that is gone, or a directory


def _is_in_foreground() -> bool:
    """Whether we may read the terminal: else that would stop us."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True


def _wait(number: int, event: int, seconds: float | None = None) -> bool:
    poll = select.poll()
    poll.register(number, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
