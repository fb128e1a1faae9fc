"""The report of a failed plan: the cause in the brief, every error in the details."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import AiHowError, StepFailure, brief_of
from ai_how.plan.step import Step, node_of


@dataclass(frozen=True, slots=True)
class Remaining:
    """A step that could not be reverted, and why."""

    step: Step
    error: BaseException

    def as_failure(self, cluster: str) -> StepFailure:
        """This as a StepFailure of a plan of that cluster."""
        return failure_of(self.step, self.error, cluster)


@dataclass(frozen=True, slots=True)
class SavedEvidence:
    """The directory with the evidence of a failure, and the cause if one was found.

    `cause` is one line for the user, `cause_id` its stable id for programs, `node` the node that
    failed, `remedy` the command that mends it.
    """

    directory: Path
    cause: str | None = None
    hint: str | None = None
    cause_id: str | None = None
    node: str | None = None
    remedy: str | None = None


def failure_of(step: Step, error: BaseException, cluster: str) -> StepFailure:
    """The failure of a step, with its node if the step is about a VM of that cluster."""
    return StepFailure(step.key, error, node_of(step.subject, cluster), step.kind)


def render_errors(failures: Iterable[StepFailure]) -> str:
    """One paragraph per error: its brief, its notes and its details."""
    return "\n".join(_render_error(failure.error) for failure in failures)


def render_remaining(remaining: Sequence[Remaining], journal: Path) -> str:
    """The steps that could not be undone, one line each."""
    lines = [f"  {left.step.key}: {left.step.describe()}" for left in remaining]
    return "\n".join(["remains:", *lines, f"The next command tries again, from {journal}.", ""])


def _render_error(error: BaseException) -> str:
    notes = getattr(error, "__notes__", [])
    where = f" ({'; '.join(notes)})" if notes else ""
    details = error.details if isinstance(error, AiHowError) else None
    return "\n".join(part for part in (brief_of(error) + where, details) if part)
