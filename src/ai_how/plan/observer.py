"""Receives the progress of a plan: the console implements it, and tests do."""

import logging
from collections.abc import Callable
from typing import ParamSpec

from ai_how.plan.step import Applied, Step
from ai_how.plan.time_left import TimeLeft

P = ParamSpec("P")
logger = logging.getLogger(__name__)


class Observer:
    """Callbacks for the progress of a plan, on the executor's thread. This one does nothing."""

    def expected(self, time_left: TimeLeft) -> None:
        """A plan like this one was carried out before; called before the first step, or never."""

    def begun(self, step: Step) -> None:
        """The step is in the journal, and is about to be applied."""

    def done(self, step: Step, applied: Applied, elapsed_s: float) -> None:
        """The step was applied, in `elapsed_s` seconds."""

    def failed(self, step: Step, error: BaseException) -> None:
        """The step raised an error."""

    def undoing(self, step: Step) -> None:
        """The step is about to be reverted."""

    def undone(self, step: Step) -> None:
        """The step was reverted."""

    def undo_failed(self, step: Step, error: BaseException) -> None:
        """The step could not be reverted, and remains."""

    def interrupted(self) -> None:
        """The first interrupt arrived: running steps still end. A second one exits at once."""


def notify(callback: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call an observer. Its errors are logged only: a closed terminal must not end the plan."""
    try:
        callback(*args, **kwargs)
    except Exception:
        logger.exception("an observer failed")
