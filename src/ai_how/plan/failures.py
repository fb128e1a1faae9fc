"""How a plan that failed is told: the cause in the brief, every error in the details."""

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
        """The same as one of the errors of a plan of that cluster."""
        return failure_of(self.step, self.error, cluster)


@dataclass(frozen=True, slots=True)
class SavedEvidence:
    """Where the evidence of a failure is, and the cause that it shows, where it shows one.

    `cause` is one line for people, `cause_id` stands for it in programs, and `node` is the node
    that it is about.
    """

    directory: Path
    cause: str | None = None
    hint: str | None = None
    cause_id: str | None = None
    node: str | None = None


def failure_of(step: Step, error: BaseException, cluster: str) -> StepFailure:
    """What a step of a plan of that cluster failed with."""
    return StepFailure(step.key, error, node_of(step.subject, cluster), step.kind)


def render_errors(failures: Iterable[StepFailure]) -> str:
    """Each error with its details and with the notes that were added on its way."""
    return "\n".join(_render_error(one.error) for one in failures)


def render_remaining(remaining: Sequence[Remaining], journal: Path) -> str:
    """What could not be taken back, in the steps' own words."""
    lines = [f"  {one.step.key}: {one.step.describe()}" for one in remaining]
    return "\n".join(["remains:", *lines, f"The next command tries again, from {journal}.", ""])


def _render_error(error: BaseException) -> str:
    notes = getattr(error, "__notes__", [])
    where = f" ({'; '.join(notes)})" if notes else ""
    details = error.details if isinstance(error, AiHowError) else None
    return "\n".join(part for part in (brief_of(error) + where, details) if part)
