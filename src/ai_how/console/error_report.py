"""The report of a failure; the text and the JSON both come from it."""

from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.console.commands import completed
from ai_how.errors import AiHowError, PlanError, ProvisioningError, brief_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """An error as data. What does not apply to it, or is not known, is None or empty.

    The commands in its texts are completed, so that they can be pasted. `cause` is one of the ids
    that docs/troubleshooting.md lists.
    """

    kind: str
    """The name of its class."""
    brief: str
    details: str | None
    hint: str | None
    notes: tuple[str, ...]
    cause: str | None
    remedy: str | None
    """What mends the cause."""
    step: str | None
    """The key of the plan's step that failed first."""
    node: str | None
    evidence: Path | None
    exit_code: int
    errors: tuple["ErrorReport", ...]
    """The errors of a plan's steps, or of a group; a plan's details contain them already."""
    because: "ErrorReport | None"


def report_of(error: BaseException) -> ErrorReport:
    """The report of an error, with its causes in the order of the events."""
    ours = error if isinstance(error, AiHowError) else None
    plan = error if isinstance(error, PlanError) else None
    cause = error.__cause__
    return ErrorReport(
        kind=type(error).__name__,
        brief=error.message if isinstance(error, BaseExceptionGroup) else brief_of(error),
        details=_completed(ours.details if ours else None),
        hint=_completed(ours.hint if ours else None),
        notes=tuple(completed(note) for note in getattr(error, "__notes__", [])),
        cause=plan.cause_id if plan else None,
        remedy=_completed(plan.remedy if plan else None),
        step=plan.step if plan else None,
        node=error.node if isinstance(error, PlanError | ProvisioningError) else None,
        evidence=plan.evidence if plan else None,
        exit_code=exit_code_of(error),
        errors=_errors_of(error),
        because=None if cause is None else report_of(cause),
    )


def exit_code_of(error: BaseException) -> int:
    """The exit code; a group has its highest one, an unknown error that of a bug."""
    if isinstance(error, BaseExceptionGroup):
        return max(map(exit_code_of, error.exceptions))
    return error.exit_code if isinstance(error, AiHowError) else AiHowError.exit_code


def _errors_of(error: BaseException) -> tuple[ErrorReport, ...]:
    if isinstance(error, BaseExceptionGroup):
        return tuple(map(report_of, error.exceptions))
    if isinstance(error, PlanError):
        return tuple(
            replace(report_of(one.error), step=one.step, node=one.node) for one in error.failures
        )
    return ()


def _completed(text: str | None) -> str | None:
    return None if text is None else completed(text)
