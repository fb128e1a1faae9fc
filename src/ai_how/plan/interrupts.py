"""Ctrl-C in two stages: the first asks to stop and undo, the second leaves at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from ai_how.errors import InterruptedRunError
from ai_how.plan.observer import Observer, notify

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A lost terminal hangs up twice, by the kernel and by the shell: that is one wish, not two.
SAME_INTERRUPT_S = 0.2


class Interrupts:
    """While entered (in the main thread), signals are wishes to stop.

    The first sets `stop`; what applies a step may watch it to end early, what reverts one must not,
    and the main thread must not wait for it (its lock is not re-entrant, and the handler sets it).
    The second raises KeyboardInterrupt wherever the main thread is, which leaves the block as
    InterruptedRunError with the journal as it was.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._first_at: float | None = None
        self._is_acknowledged = False
        self._previous: dict[signal.Signals, signal.Handlers] = {}

    @property
    def is_requested(self) -> bool:
        """Whether the user wants to stop; `stop` is also set when a step has failed."""
        return self._first_at is not None

    def request(self) -> None:
        """Wish to stop, as a first signal does."""
        self._first_at = time.monotonic()
        self.stop.set()

    def acknowledge(self, observer: Observer) -> None:
        """Tell the observer, once, that the wish was heard."""
        if self.is_requested and not self._is_acknowledged:
            self._is_acknowledged = True
            notify(observer.interrupted)

    def __enter__(self) -> Self:
        for number in HANDLED_SIGNALS:
            # Under nohup, or in the background of a script, a signal was told to be ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError(
                "interrupted twice: left at once",
                details="What had begun is in the journal; the next command undoes it.",
            ) from None

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._first_at is None:
            self.request()
        elif time.monotonic() - self._first_at > SAME_INTERRUPT_S:
            raise KeyboardInterrupt
