"""Commands on a node that end with their connection; sshd itself ends nothing."""

import os
import select
import shlex
from collections.abc import Sequence

from ai_how.process import Completed, Daemon, start_piped
from ai_how.waiting import Deadline

PIECE_BYTES = 1 << 16

# The input of the session stays open until we end: that is told apart from the end of the command's
# own input, whose size is known. timeout(1) passes the signal on to the whole group of the command.
_LINE = """\
exec 3<&0 5< {source}
feeder=$!
timeout --kill-after=5 {limit} {command} <&5 3<&- 5<&- &
command=$!
exec > /dev/null 2>&1 5<&-
{wait}
{{ while read -r _ <&3; do :; done; kill "$command"; }} &
watcher=$!
wait "$command"
code=$?
kill "$watcher"
exit $code
"""


def tied_words(words: Sequence[str], input_bytes: int, timeout_s: float | None) -> list[str]:
    """The command for ssh; it takes so many bytes of its input for the command's."""
    line = _LINE.format(
        source=f"<(head -c {input_bytes} <&3)" if input_bytes else "/dev/null",
        wait='wait "$feeder"' if input_bytes else "",
        limit="0" if timeout_s is None else f"{timeout_s:g}",
        command=shlex.join(words),
    )
    return ["bash", "-c", line]


def run_tied(argv: Sequence[str], given: bytes, timeout_s: float | None) -> Completed | None:
    """Run ssh with such a command; None if it does not end in time, and is killed for that."""
    with (
        os.fdopen(os.memfd_create("errors"), "rb") as errors,
        start_piped(argv, errors=errors.fileno()) as child,
    ):
        try:
            output = _exchange(
                child, given, None if timeout_s is None else Deadline.after(timeout_s)
            )
        finally:
            child.kill()
            child.wait()
        if output is None:
            return None
        errors.seek(0)
        return Completed(
            child.returncode,
            output.decode(errors="replace"),
            errors.read().decode(errors="replace"),
        )


def _exchange(child: Daemon, given: bytes, deadline: Deadline | None) -> bytes | None:
    """Send the input and take the output, until the program ends; None if that takes too long."""
    assert child.stdin is not None  # noqa: S101  for mypy: it has both pipes
    assert child.stdout is not None  # noqa: S101
    rest, taken = memoryview(given), bytearray()
    os.set_blocking(child.stdin.fileno(), False)
    while True:
        left_s = None if deadline is None else deadline.remaining_s
        writers = [child.stdin] if rest else []
        readable, writable, _ = select.select([child.stdout], writers, [], left_s)
        if not (readable or writable):
            return None
        if writable:
            try:
                rest = rest[os.write(child.stdin.fileno(), rest[:PIECE_BYTES]) :]
            except BrokenPipeError:
                rest = rest[:0]
        if readable:
            part = os.read(child.stdout.fileno(), PIECE_BYTES)
            taken += part
            if not part:
                break
    ended = os.pidfd_open(child.pid)
    try:
        left_s = None if deadline is None else deadline.remaining_s
        is_over = bool(select.select([ended], [], [], left_s)[0])
    finally:
        os.close(ended)
    return bytes(taken) if is_over else None
