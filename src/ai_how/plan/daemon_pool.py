"""A pool of daemon threads that run the calls of a plan, and return their results."""

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

# The longest single wait of the main thread: Python runs signal handlers between two waits.
POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class CallResult(Generic[T]):
    """The result of a call, or the error that it raised; `elapsed_s` in seconds."""

    key: str
    result: T | None
    error: BaseException | None
    elapsed_s: float


class DaemonPool(Generic[T]):
    """Runs calls on at most `workers` threads.

    A ThreadPoolExecutor joins its threads when the interpreter exits: one call that hangs in C
    would keep the process alive. These threads are daemons, so the process can exit without them.
    `on_error` is called on the thread of a call that raised, after its result was queued.
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
        """Let each thread exit after its current call. Does not wait for the threads."""
        for _ in self._threads:
            self._calls.put(None)

    def submit(self, key: str, call: Callable[[], T]) -> None:
        """Queue `call`. Starts a thread for it if there are fewer than `workers`."""
        self._calls.put((key, call))
        if len(self._threads) < self.workers:
            self._add_thread()

    def wait(self, timeout_s: float) -> list[CallResult[T]]:
        """The results so far. Waits up to `timeout_s` for the first; empty if there is none."""
        try:
            ended = [self._results.get(timeout=timeout_s)]
            while not self._results.empty():
                ended.append(self._results.get())
        except queue.Empty:
            return []
        return ended

    def _add_thread(self) -> None:
        """Start one more thread.

        If the system refuses, the queued call waits for an existing thread. If there is none, the
        call runs here, on the caller's thread: an undo must complete.
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
            # This includes MemoryError, RecursionError and SystemExit: each is a failure of the
            # step. Otherwise the thread would end, and the plan would wait for its result forever.
            except BaseException as error:  # noqa: BLE001
                failure = error
            self._results.put(CallResult(key, result, failure, time.monotonic() - begun_at))
            if failure is not None and self._on_error is not None:
                self._on_error()
            del job, call, result, failure
