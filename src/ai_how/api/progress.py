"""The progress of a start, stop or destroy, for a callback."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied, Step

Event = Literal["begun", "done", "failed", "undone"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that has begun or ended. `seconds` is how long it took, of one that is done."""

    event: Event
    step: str
    """Its key, such as `boot/hpc-compute-01`."""
    what: str
    """What it does, in a few words."""
    seconds: float | None = None


class ProgressObserver(Observer):
    """Tells a callback, on the thread that started the verb; what it raises is logged only."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell

    def begun(self, step: Step) -> None:
        """The step is in the journal."""
        self._tell(Progress("begun", step.key, step.describe()))

    def done(self, step: Step, applied: Applied, elapsed_s: float) -> None:  # noqa: ARG002
        """The step was applied."""
        self._tell(Progress("done", step.key, step.describe(), elapsed_s))

    def failed(self, step: Step, error: BaseException) -> None:  # noqa: ARG002
        """The step raised an error, which the verb raises at its end."""
        self._tell(Progress("failed", step.key, step.describe()))

    def undone(self, step: Step) -> None:
        """The step was reverted."""
        self._tell(Progress("undone", step.key, step.describe()))
