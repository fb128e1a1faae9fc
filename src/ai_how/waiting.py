"""Waiting: a deadline is set once at the top and passed down; the only polling loop."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from ai_how.errors import DeadlineError
from ai_how.limits import start_thread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A time on the monotonic clock, so that a change of the wall clock has no effect."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self.at

    def sooner_of(self, seconds: float) -> "Deadline":
        """This deadline, or `seconds` from now if that is earlier."""
        return Deadline(min(self.at, time.monotonic() + seconds))


def wait_until(
    ask: Callable[[], T | None],
    deadline: Deadline,
    what: str,
    *,
    interval_s: float = 0.2,
    stop: threading.Event | None = None,
) -> T:
    """Poll `ask` until the answer is neither None nor False, and return it.

    Exceptions of `ask` pass through. Raises DeadlineError, naming `what`, when the deadline passes
    or `stop` is set first.
    """
    pause = stop or threading.Event()
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if pause.is_set():
            raise DeadlineError(f"stopped waiting for {what}")
        if deadline.has_passed:
            raise DeadlineError(f"timed out waiting for {what}")
        pause.wait(min(interval_s, deadline.remaining_s))


def call_with_timeout(function: Callable[[], T], timeout_s: float) -> T:
    """The result of `function`; TimeoutError if it is late, and its thread is left behind."""
    return call_in_thread(function, name="libvirt-call").result(timeout_s)


def call_in_thread(function: Callable[[], T], *, name: str) -> Future[T]:
    """The result of `function`, or its error, which a thread of its own will have.

    It is a daemon thread: a C call that never returns must not keep the interpreter from ending.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            answer = function()
        except Exception as error:  # noqa: BLE001  not swallowed: it is raised in the caller's thread
            future.set_exception(error)
        else:
            future.set_result(answer)

    start_thread(work, name=name)
    return future
