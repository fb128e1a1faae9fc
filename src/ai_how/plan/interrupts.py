"""Ctrl-C in two stages: the first stops and undoes the run, the second exits at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from ai_how.errors import InterruptedRunError
from ai_how.plan.observer import Observer, notify

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A terminal that closes causes two SIGHUPs, of the kernel and of the shell: they count as one.
SAME_INTERRUPT_S = 0.2


class Interrupts:
    """Handles SIGINT, SIGTERM and SIGHUP while entered, in the main thread; no signal in another.

    The first signal sets `stop`. A step's `apply` may watch `stop` to end early; `revert` must
    ignore it. The main thread must never wait for `stop`: its lock is not re-entrant, and the
    handler, which runs on that thread, sets it. The second signal raises KeyboardInterrupt, which
    leaves the block as InterruptedRunError; the journal stays as it is.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._first_at: float | None = None
        self._is_acknowledged = False
        self._previous: dict[signal.Signals, signal.Handlers] = {}

    @property
    def is_requested(self) -> bool:
        """Whether a signal arrived. `stop` is also set after a step has failed."""
        return self._first_at is not None

    def request(self) -> None:
        """Request a stop, as the first signal does."""
        self._first_at = time.monotonic()
        self.stop.set()

    def acknowledge(self, observer: Observer) -> None:
        """Notify the observer of the interrupt, once."""
        if self.is_requested and not self._is_acknowledged:
            self._is_acknowledged = True
            notify(observer.interrupted)

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in HANDLED_SIGNALS:
            # nohup and background jobs of a script ignore signals on purpose.
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
                "interrupted twice: exited at once",
                details="The steps that began are in the journal; the next command undoes them.",
            ) from None

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._first_at is None:
            self.request()
        elif time.monotonic() - self._first_at > SAME_INTERRUPT_S:
            raise KeyboardInterrupt
