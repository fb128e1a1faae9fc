"""How a command on a node ended."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ai_how.errors import GuestError

TIMED_OUT = 124  # of timeout(1)


class CommandFailedError(GuestError):
    """A command that was to be checked did not exit with 0; `result` says how it ended."""

    result: "CommandResult"


class CommandTimeoutError(GuestError):
    """A command was ended, as it took too long."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that has ended, as `subprocess.CompletedProcess` has it.

    `stdout` and `stderr` are text; what is not UTF-8 in them is replaced. A command that a signal
    ended has the exit code 128 plus its number.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    def check(self) -> "CommandResult":
        """The result itself. Raises CommandFailedError unless the exit code is 0."""
        if self.returncode == 0:
            return self
        error = CommandFailedError(
            f"{shlex.join(self.args)} failed (exit code {self.returncode})",
            details=(self.stderr or self.stdout).strip()[-2000:] or None,
        )
        error.result = self
        raise error


def words_of(command: str | Sequence[str]) -> tuple[str, ...]:
    """The words of a command; a text is a command line for the shell."""
    return ("sh", "-c", command) if isinstance(command, str) else tuple(map(str, command))
