"""The QEMU guest agent as a control channel: run programs, push bytes, set the clock.

The answers of a guest are never trusted: sizes are limited (libvirt_client), types are checked, and
the output is only shown or matched. Commands are those of QEMU's docs/interop/qemu-ga-ref.
"""

import base64
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from ai_how.errors import (
    AgentUnresponsiveError,
    ConnectionLostError,
    DeadlineError,
    GuestError,
)
from ai_how.waiting import Deadline, wait_until

ASK_TIMEOUT_S = 20.0  # under emulation, with every core busy, an answer can take seconds
LOOK_S = 2.0  # for optional questions
POLL_S = 0.1
MOST_CLOCK_NS = 2**63


class Channel(Protocol):
    """The part of the libvirt client that the agent needs."""

    def agent_command(
        self, uuid: UUID, command: Mapping[str, object], timeout_s: float
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class GuestResult:
    """How a program in a guest ended."""

    exit_code: int
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class RawResult:
    """How a program in a guest ended, with its output as it is."""

    exit_code: int
    output: bytes
    errors: bytes


@dataclass(frozen=True, slots=True)
class GuestAgent:
    """The agent of one VM. Every method raises GuestError if the guest does not comply."""

    channel: Channel
    uuid: UUID
    name: str

    def run(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes | None = None,
        stop: threading.Event | None = None,
        on_wait: Callable[[], None] | None = None,
        poll_s: float = POLL_S,
        shown: str | None = None,
    ) -> GuestResult:
        """Run a program to its end.

        Raises DeadlineError if it does not end in time, and ConnectionLostError if libvirtd ended
        with the answer: then the program may have run. `on_wait` is called at each poll, for
        failures before the deadline. Errors name the program as `shown`.
        """
        done = self.run_raw(
            argv, deadline, stdin=stdin, stop=stop, on_wait=on_wait, poll_s=poll_s, shown=shown
        )
        return GuestResult(
            done.exit_code,
            done.output.decode("utf-8", "replace"),
            done.errors.decode("utf-8", "replace"),
        )

    def run_raw(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes | None = None,
        stop: threading.Event | None = None,
        on_wait: Callable[[], None] | None = None,
        poll_s: float = POLL_S,
        shown: str | None = None,
    ) -> RawResult:
        """Like `run`, for output that is no text."""
        arguments: dict[str, object] = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "capture-output": True,
        }
        if stdin is not None:
            arguments["input-data"] = base64.b64encode(stdin).decode("ascii")
        pid = number_of(self.ask("guest-exec", arguments, deadline), "pid", int)
        lost: ConnectionLostError | None = None

        def ended() -> Mapping[str, object] | None:
            nonlocal lost
            if on_wait:
                on_wait()
            try:
                seen = self.ask("guest-exec-status", {"pid": pid}, deadline)
            except ConnectionLostError as error:
                lost = error
                return None  # the program continues without us; the deadline decides
            except AgentUnresponsiveError:
                return None
            except GuestError:
                if lost:  # the agent reports the end of a program once, and that answer was lost
                    raise lost from None
                raise
            return seen if number_of(seen, "exited", bool) else None

        what = f"the end of {shown or argv[0]} in {self.name}"
        try:
            seen = wait_until(ended, deadline, what, interval_s=poll_s, stop=stop)
        except DeadlineError:
            self._end(pid)
            raise
        # Absent if a signal ended it.
        code = number_of(seen, "exitcode", int) if "exitcode" in seen else -1
        return RawResult(code, bytes_of(seen, "out-data"), bytes_of(seen, "err-data"))

    def check(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes | None = None,
        stop: threading.Event | None = None,
    ) -> str:
        """Like `run`, but return the output. Raises GuestError if the exit code is not 0."""
        done = self.run(argv, deadline, stdin=stdin, stop=stop)
        if done.exit_code != 0:
            raise GuestError(
                f"{argv[0]} failed in {self.name} (exit code {done.exit_code})",
                details=(done.errors or done.output).strip()[-2000:] or None,
            )
        return done.output

    def read_clock_ns(self, timeout_s: float = ASK_TIMEOUT_S) -> int:
        """The guest's time in nanoseconds since 1970, as `set_clock` takes it."""
        answer = self.channel.agent_command(self.uuid, {"execute": "guest-get-time"}, timeout_s)
        if (
            not isinstance(answer, int)
            or isinstance(answer, bool)
            or not 0 <= answer < MOST_CLOCK_NS
        ):
            raise GuestError(f"{self.name} does not report its time")
        return answer

    def file_systems(self) -> object:
        """The guest's answer about its file systems, not parsed."""
        return self.channel.agent_command(self.uuid, {"execute": "guest-get-fsinfo"}, LOOK_S)

    def set_clock(self, time_ns: int) -> None:
        """Set the guest's time of day.

        The agent also tries to write the hardware clock, with a program that our image lacks, and
        reports a failure although the time is set. Only the clock afterwards counts.
        """
        command = {"execute": "guest-set-time", "arguments": {"time": time_ns}}
        try:
            self.channel.agent_command(self.uuid, command, ASK_TIMEOUT_S)
        except AgentUnresponsiveError:
            raise
        except GuestError:
            return

    def shut_down(self) -> None:
        """Ask the guest to power off; it does not answer this command."""
        self.channel.agent_command(
            self.uuid,
            {
                "execute": "guest-exec",
                "arguments": {"path": "/usr/bin/systemctl", "arg": ["poweroff"]},
            },
            ASK_TIMEOUT_S,
        )

    def ask(
        self, command: str, arguments: Mapping[str, object], deadline: Deadline
    ) -> Mapping[str, object]:
        """The agent's answer to one command, which must be an object."""
        answer = self.ask_raw(command, arguments, deadline)
        if not isinstance(answer, dict):
            raise GuestError(f"the agent of {self.name} gave an invalid answer to {command}")
        return answer

    def ask_raw(self, command: str, arguments: Mapping[str, object], deadline: Deadline) -> object:
        """The agent's answer to one command, whatever it is."""
        timeout_s = max(1.0, min(ASK_TIMEOUT_S, deadline.remaining_s))
        return self.channel.agent_command(
            self.uuid, {"execute": command, "arguments": arguments}, timeout_s
        )

    def _end(self, pid: int) -> None:
        """End a program that is no longer waited for, if the guest still answers."""
        with suppress(GuestError, ConnectionLostError):
            kill = {"path": "/bin/busybox", "arg": ["kill", "-TERM", str(pid)]}
            self.ask("guest-exec", kill, Deadline.after(ASK_TIMEOUT_S))


def number_of(answer: Mapping[str, object], name: str, kind: type[int]) -> int:
    """A number or boolean of an answer. Raises GuestError if it is anything else."""
    value = answer.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise GuestError(f"the agent gave an invalid answer: {name} is {value!r:.80}")
    return value


def bytes_of(answer: Mapping[str, object], name: str) -> bytes:
    """The bytes of an answer; none if it has no such key. Raises GuestError for no base64."""
    value = answer.get(name, "")
    with suppress(ValueError):
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    raise GuestError(f"the agent gave an invalid answer: {name} is not base64")
