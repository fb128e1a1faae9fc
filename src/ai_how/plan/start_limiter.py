"""Applies a plan's ConcurrencyLimit: decides which ready steps may begin."""

from collections import deque
from collections.abc import Iterable

from ai_how.plan.step import ConcurrencyLimit, Step


class StartLimiter:
    """Holds back the first step of a segment while the maximum number of segments runs.

    Segments begin in the order in which they become ready, so a slow one occupies one slot and
    blocks no other. Used by one thread.
    """

    def __init__(self, limit: ConcurrencyLimit | None) -> None:
        segments = limit.segments if limit else ()
        self._maximum = limit.maximum if limit else 0
        self._segment_of = {key: segment for segment in segments for key in segment}
        self._firsts = {segment[0] for segment in segments}
        self._held: deque[Step] = deque()
        self._under_way: set[tuple[str, ...]] = set()

    def admit(self, ready: Iterable[Step], *, is_idle: bool) -> list[Step]:
        """Which of the `ready` steps and of those held back may begin now.

        With `is_idle` (no step of the plan runs) no segment runs either: the remaining steps of
        those that began need a step that has failed.
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
        """Free the slot of the step's segment if this was its last step, or failed."""
        segment = self._segment_of.get(key)
        if segment and (has_failed or key == segment[-1]):
            self._under_way.discard(segment)
