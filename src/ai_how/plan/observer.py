"""Who hears how a plan goes; the console is one, a test another."""

import logging
from collections.abc import Callable
from typing import ParamSpec

from ai_how.plan.step import Applied, Step

P = ParamSpec("P")
logger = logging.getLogger(__name__)


class Observer:
    """Hears how a plan goes, on the thread that carries it out; this one stays silent."""

    def begun(self, step: Step) -> None:
        """Its intent is on disk and its change is about to be made."""

    def done(self, step: Step, applied: Applied, elapsed_s: float) -> None:
        """It was applied."""

    def failed(self, step: Step, error: BaseException) -> None:
        """It could not be applied."""

    def undoing(self, step: Step) -> None:
        """It is about to be reverted."""

    def undone(self, step: Step) -> None:
        """It was reverted."""

    def undo_failed(self, step: Step, error: BaseException) -> None:
        """It could not be reverted, and remains."""

    def interrupted(self) -> None:
        """The user's wish to stop was heard: running steps still end, a second one leaves."""


def notify(message: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call an observer; a closed terminal, or a bug in it, must not cut a plan short."""
    try:
        message(*args, **kwargs)
    except Exception:
        logger.exception("an observer failed")
