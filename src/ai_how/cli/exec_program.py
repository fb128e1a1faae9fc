"""`hpc exec`: a program in a guest with our standard input and output, or its result as JSON."""

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_how import console
from ai_how.console.byte_streams import ByteInput, ByteOutput
from ai_how.errors import HostError
from ai_how.guest.exec_channel import HEAD_BYTES, ExecChannel, Input

if TYPE_CHECKING:
    from ai_how.guest.agent import GuestAgent

# An input that is there already goes with the program, without a question of its own.
HEAD_S = 0.05
MOST_COLLECTED = 64 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """The document of `--json`. What is no UTF-8 is also there as base64."""

    exit_code: int
    output: str
    errors: str
    output_base64: str | None
    errors_base64: str | None


def execute(
    agent: "GuestAgent",
    command: Sequence[str],
    *,
    timeout_s: float | None,
    shown: str,
    is_json: bool,
) -> int:
    """Run a command in a guest, and return its exit code."""
    given = ByteInput()
    head, is_whole = given.read_head(HEAD_BYTES, HEAD_S)
    collected = Collected()
    sink = collected.write if is_json else ByteOutput().write
    channel = ExecChannel(agent, Input(head, None if is_whole else given.read), sink)
    code = channel.run(argv_of(command), timeout_s=timeout_s, shown=shown)
    if is_json:
        console.show_json(collected.result(code))
    return code


class Collected:
    """The output of a program, for a document that has it whole."""

    def __init__(self) -> None:
        self._pieces = (bytearray(), bytearray())

    def write(self, data: bytes, to_stderr: bool) -> bool:
        self._pieces[to_stderr].extend(data)
        if sum(map(len, self._pieces)) > MOST_COLLECTED:
            raise HostError(
                "the output is larger than 64 MiB, too large for one JSON document",
                hint="leave --json out: then the output is passed on as it comes",
            )
        return True

    def result(self, code: int) -> Result:
        output, errors = map(bytes, self._pieces)
        return Result(
            code,
            output.decode("utf-8", "replace"),
            errors.decode("utf-8", "replace"),
            _base64_unless_text(output),
            _base64_unless_text(errors),
        )


def _base64_unless_text(data: bytes) -> str | None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")
    return None


def argv_of(command: Sequence[str]) -> list[bytes]:
    """The argv for the guest: a program, or a shell for a command line in one word."""
    is_line = len(command) == 1 and shlex.quote(command[0]) != command[0]
    words = ["/bin/sh", "-c", command[0]] if is_line else command
    return [word.encode("utf-8", "surrogateescape") for word in words]
