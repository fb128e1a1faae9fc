"""All errors of ai-how; each has a brief, details, a hint and an exit code."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

SOMETHING_IS_WRONG = 8
"""The exit code of a verb that looked, and found that something is wrong: that is no error."""


@dataclass(eq=False)
class AiHowError(Exception):
    """A failure that we understand.

    `brief` is one line; `details` may be many; `hint` is a command to paste or one line of advice.
    """

    brief: str
    details: str | None = None
    hint: str | None = None
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details) if part)


class SpecError(AiHowError):
    """The cluster file, or the way a command was used, is wrong."""

    exit_code = 2


class HostError(AiHowError):
    """The workstation cannot do what was asked."""

    exit_code = 3


class LimitError(HostError):
    """A limit on threads, processes, memory or file size was reached."""


class ToolError(HostError):
    """A program that we ran failed, or is not installed."""


class ImageError(HostError):
    """An image is missing, damaged, or not bootable for ai-how."""


class OwnershipError(HostError):
    """Something that is not ours is in the place of one of our objects."""


class LibvirtError(HostError):
    """libvirt refused; `code` is its VIR_ERR_* number, None if the answer was lost."""

    code: int | None = None


class ConnectionLostError(LibvirtError):
    """The daemon ended, or does not answer: the current state is unknown."""


class StateError(HostError):
    """The state on disk cannot be read, or is from a newer version."""


class GuestError(HostError):
    """A guest did not carry out a command."""


class AgentUnresponsiveError(GuestError):
    """A guest agent did not answer in time; the command may have been executed."""


class DeadlineError(HostError):
    """A wait ended by its deadline."""


class ProgramTimeoutError(DeadlineError):
    """A program did not end within the time that its user gave it; the code is timeout(1)'s."""

    exit_code = 124


def brief_of(error: BaseException) -> str:
    """One line: our own text, or the class of a foreign error before its text."""
    if isinstance(error, AiHowError):
        return error.brief
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


@dataclass(frozen=True, slots=True)
class StepFailure:
    """An error of a plan, and the step that raised it.

    `step` is that step's key and `kind` its kind; both are None for an error of the plan's own
    work, such as its journal. `node` is the node that the step is about, and None where it is about
    no single one.
    """

    step: str | None
    error: BaseException
    node: str | None = None
    kind: str | None = None


@dataclass(eq=False)
class PlanError(AiHowError):
    """A run that failed, and everything that is known about the cause.

    `failures` are in the order of the events. `cause_id` is one of the ids in
    docs/troubleshooting.md, None if the cause is not known, and `remedy` what mends it. `node` is
    the node of the cause, and `evidence` the directory that was saved before the undo.
    """

    failures: tuple[StepFailure, ...] = ()
    cause_id: str | None = None
    remedy: str | None = None
    node: str | None = None
    evidence: Path | None = None

    @property
    def step(self) -> str | None:
        """The key of the step that failed first."""
        return self.failures[0].step if self.failures else None


class PlanFailedError(PlanError):
    """A plan failed, and everything that it made was undone."""

    exit_code = 4


class UndoIncompleteError(PlanError):
    """A plan failed and not all of it could be undone; the details list what remains."""

    exit_code = 5


@dataclass(eq=False)
class ProvisioningError(AiHowError):
    """The cluster is up, but a playbook failed: `task` failed first, on `node`, if it is known."""

    node: str | None = None
    task: str | None = None
    exit_code = 7


class LockedError(AiHowError):
    """Another run holds the lock."""

    exit_code = 6


class InterruptedRunError(PlanError):
    """The user interrupted the run; what it had made was undone or is in the journal."""

    exit_code = 130
