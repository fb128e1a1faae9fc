"""The only threads: a few daemons that call steps and hand back how each call ended."""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from ai_how.errors import LimitError
from ai_how.limits import PATIENCE_S, start_thread

if TYPE_CHECKING:
    import threading

T = TypeVar("T")

# How long the main thread waits at once: signals are heard between two slices.
POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class CallResult(Generic[T]):
    """How a call ended: `result`, or `error` where it raised."""

    key: str
    result: T | None
    error: BaseException | None
    elapsed_s: float


class DaemonPool(Generic[T]):
    """Runs calls on at most `workers` threads.

    A ThreadPoolExecutor joins its threads when the interpreter exits, so one call that hangs in C
    would keep the process alive; these are daemons, and are left behind. `on_error` is called on
    the thread of a call that raised, once its end was handed over.
    """

    def __init__(self, workers: int, *, on_error: Callable[[], None] | None = None) -> None:
        self.workers = workers
        self._on_error = on_error
        self._threads: list[threading.Thread] = []
        self._calls: queue.SimpleQueue[tuple[str, Callable[[], T]] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[CallResult[T]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release_threads()
        if kind is None:
            for thread in self._threads:
                thread.join()

    def release_threads(self) -> None:
        """Let each thread end after the call that it makes; nobody waits for that."""
        for _ in self._threads:
            self._calls.put(None)

    def submit(self, key: str, call: Callable[[], T]) -> None:
        """Have `call` made, at once where a thread is free."""
        self._calls.put((key, call))
        if len(self._threads) < self.workers:
            self._add_thread()

    def wait(self, timeout_s: float) -> list[CallResult[T]]:
        """The calls that have ended: none where none ends in time, else all that are there."""
        try:
            ended = [self._results.get(timeout=timeout_s)]
            while not self._results.empty():
                ended.append(self._results.get())
        except queue.Empty:
            return []
        return ended

    def _add_thread(self) -> None:
        """One thread more. Where the system gives none, the call waits for those that there are.

        Where there are none at all, it is made here: an undo has to come to its end.
        """
        patience_s = 0 if self._threads else PATIENCE_S
        try:
            thread = start_thread(
                self._work, name=f"step-{len(self._threads)}", patience_s=patience_s
            )
            self._threads.append(thread)
        except LimitError:
            if not self._threads:
                self._calls.put(None)
                self._work()

    def _work(self) -> None:
        while (job := self._calls.get()) is not None:
            key, call = job
            begun_at = time.monotonic()
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = call()
            # MemoryError, RecursionError and SystemExit too are that step's failure, not the end
            # of a thread for which the plan would wait for ever.
            except BaseException as error:  # noqa: BLE001
                failure = error
            self._results.put(CallResult(key, result, failure, time.monotonic() - begun_at))
            if failure is not None and self._on_error is not None:
                self._on_error()
            del job, call, result, failure
