"""What blocks, off the loop: in threads, only so many at once, each waited for only so long."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ai_how.errors import LimitError
from ai_how.waiting import call_in_thread

T = TypeVar("T")

MOST_AT_ONCE = 8
MOST_WAITING = 64
PATIENCE_S = 15.0


class Work:
    """Runs calls in daemon threads. One that hangs keeps its place until it returns."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._waiting = 0

    async def do(self, function: Callable[[], T], *, patience_s: float | None = None) -> T:
        """The result of `function`, within `patience_s`, by default `PATIENCE_S`.

        Raises what it raises, TimeoutError if it is late, and LimitError if too many wait.
        """
        if self._waiting >= MOST_WAITING:
            raise LimitError("too many requests wait for an answer")
        self._waiting += 1
        try:
            async with asyncio.timeout(patience_s or PATIENCE_S):
                await self._places.acquire()
                try:
                    future = asyncio.wrap_future(call_in_thread(function, name="dashboard-call"))
                except BaseException:
                    self._places.release()
                    raise
                future.add_done_callback(self._leave)
                return await asyncio.shield(future)
        finally:
            self._waiting -= 1

    def _leave(self, future: "asyncio.Future[T]") -> None:
        """Give its place to the next, and take note of its error: nobody may wait for it."""
        self._places.release()
        if not future.cancelled():
            future.exception()
