"""Sources that are asked again and again, on a few threads that may hang without each other.

A lane is a queue with its own threads. A source is asked once at a time: while it hangs, there is
no second call behind the first.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from ai_how.errors import AiHowError, LimitError
from ai_how.limits import start_thread
from ai_how.monitoring.model import SourceState

T = TypeVar("T")

MOST_TIMES = 4
"""A slow source is still asked after so many of its intervals."""


class Asked(Generic[T]):
    """One source: when it is due, its last answer, and why there is no newer one."""

    def __init__(
        self,
        name: str,
        look: Callable[[], T],
        *,
        every_s: float,
        deadline_s: float,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """It is asked every `every_s` seconds, and less often if it is slow: it should not be busy
        with our questions for more than this `share` of its time.
        """
        self.name = name
        self.every_s = every_s
        self.share = share
        self.value: T | None = None
        self.times = 0
        """How often it has answered or failed."""
        self._look = look
        self._deadline_s = deadline_s
        self._clock = clock
        self._due = clock()
        self._pause_s = every_s
        self._queued: float | None = None
        self._begun: float | None = None
        self._answered: float | None = None
        self._took_s: float | None = None
        self._trouble: str | None = None
        self._obstacle: str | None = None

    @property
    def is_due(self) -> bool:
        return self._queued is None and self._clock() >= self._due

    @property
    def is_out(self) -> bool:
        """Whether it is being asked, or waits for a thread."""
        return self._queued is not None

    @property
    def trouble(self) -> str | None:
        """Why there is no newer answer."""
        return self._lateness(self._clock()) or self._obstacle or self._trouble

    def enqueue(self) -> None:
        """It is about to be asked."""
        self._queued, self._obstacle = self._clock(), None

    def give_up(self, why: str) -> None:
        """It was not asked, or has not answered, and nobody waits any longer."""
        if not self.times:
            self._obstacle = self._obstacle or why

    def hurry(self, within_s: float = 0.0) -> None:
        """It is due then at the latest."""
        self._due = min(self._due, self._clock() + within_s)

    def cannot(self, why: str, *, forget: bool) -> None:
        """There is no sense in asking it now."""
        if self._queued is None:
            self._obstacle, self._due = why, self._clock()
            if forget:
                self.value = None

    def run(self) -> None:
        """Ask it, on a thread of its lane."""
        self._begun = begun = self._clock()
        try:
            self.value = self._look()
        except AiHowError as error:
            self._trouble = error.brief
        except OSError as error:
            self._trouble = error.strerror or str(error)
        except Exception as error:  # noqa: BLE001  a bug, or a guest that found one, is a gap as well
            self._trouble = f"a bug of ai-how: {type(error).__name__}: {error}"[:200]
        else:
            self._trouble, self._answered = None, self._clock()
            self._took_s = self._answered - begun
        took_s = self._clock() - begun
        self._pause_s = min(max(self.every_s, took_s / self.share), MOST_TIMES * self.every_s)
        self._due = max(begun + self._pause_s, self._clock() + min(1.0, self.every_s))
        self.times += 1
        self._begun = self._queued = None

    def state(self) -> SourceState:
        """How it stands. Its times are right also if the clock of the host was set meanwhile."""
        now, answered = self._clock(), self._answered
        return SourceState(
            name=self.name,
            every_s=round(max(self.every_s, self._pause_s), 1),
            at=None if answered is None else round(time.time() - (now - answered), 3),
            took_s=None if self._took_s is None else round(self._took_s, 4),
            trouble=self.trouble,
        )

    def _lateness(self, now: float) -> str | None:
        begun, queued = self._begun, self._queued
        if begun is not None and now - begun > self._deadline_s:
            return f"no answer for {now - begun:.0f} s"
        if begun is None and queued is not None and now - queued > self._deadline_s:
            return "it has to wait: others that are asked do not answer"
        return None


class Lane:
    """A queue of sources, and at most so many threads that ask them."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._name = name
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = 0
        self._guard = threading.Lock()

    def ask(self, source: Asked[T]) -> None:
        """Ask a source soon, on one of our threads."""
        source.enqueue()
        with self._guard:
            starts = self._idle <= self._queue.qsize() and len(self._threads) < self._most
        self._queue.put(source.run)
        if starts:
            with suppress(LimitError):  # then it waits for the threads that there are
                self._threads.append(
                    start_thread(self._work, name=f"watch-{self._name}", patience_s=0)
                )

    def close(self) -> None:
        """Let each thread end after what it does now. Does not wait: one may hang."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while True:
            with self._guard:
                self._idle += 1
            run = self._queue.get()
            with self._guard:
                self._idle -= 1
            if run is None:
                return
            run()
