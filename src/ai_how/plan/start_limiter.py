"""Lets the segments of a plan begin, no more of them at once than its limit allows."""

from collections import deque
from collections.abc import Iterable

from ai_how.plan.step import ConcurrencyLimit, Step


class StartLimiter:
    """Holds the first step of a segment back while as many others are under way as may be.

    Whichever is ready first goes first, so a segment that takes long keeps one place, not a queue.
    Used by one thread.
    """

    def __init__(self, limit: ConcurrencyLimit | None) -> None:
        segments = limit.segments if limit else ()
        self._maximum = limit.maximum if limit else 0
        self._segment_of = {key: segment for segment in segments for key in segment}
        self._firsts = {segment[0] for segment in segments}
        self._held: deque[Step] = deque()
        self._under_way: set[tuple[str, ...]] = set()

    def admit(self, ready: Iterable[Step], *, is_idle: bool) -> list[Step]:
        """Which of these, and of those that were held back, may begin now.

        Where nothing else of the plan goes on (`is_idle`), no segment is under way: the steps that
        are left of it wait for what has failed.
        """
        admitted: list[Step] = []
        for step in ready:
            (self._held if step.key in self._firsts else admitted).append(step)
        if is_idle and not admitted:
            self._under_way.clear()
        while self._held and len(self._under_way) < self._maximum:
            step = self._held.popleft()
            self._under_way.add(self._segment_of[step.key])
            admitted.append(step)
        return admitted

    def finished(self, key: str, *, has_failed: bool) -> None:
        """A step has ended."""
        segment = self._segment_of.get(key)
        if segment and (has_failed or key == segment[-1]):
            self._under_way.discard(segment)
