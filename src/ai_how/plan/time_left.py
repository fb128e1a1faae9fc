"""Estimates how long a plan still takes, from the last run of a plan like it."""

import math
import time
from collections.abc import Callable, Sequence

SHORTEST_S = 3.0  # whoever waits for less needs no estimate
_OVERDUE = 2.0  # times as long as the last run: nothing is estimated then
_TRUST = 0.25  # the share of the last run after which the pace of this one counts half
_PACES = (0.5, 3.0)
_SMOOTHING_S = 2.0


class TimeLeft:
    """How long a plan of `steps` steps still takes, if it proceeds as a run like it did.

    `past_s` has when the steps of that run were done, in seconds from its beginning, in ascending
    order and in equal parts of the steps: the last entry is when it ended. `now` is a monotonic
    clock.
    """

    def __init__(
        self, past_s: Sequence[float], steps: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._past_s = past_s
        self._steps = steps
        self._now = now
        self._begun_at = self._done_at = now()
        self._done = 0
        self._left_s = self._total_s
        self._shown_s = math.inf
        self._shown_at = self._begun_at

    @property
    def _total_s(self) -> float:
        return self._past_s[-1]

    def step_done(self) -> None:
        """A step has ended; steps are equal, as each plan like it has the same ones."""
        self._done += 1
        self._done_at = self._now()

    def describe(self) -> str | None:
        """`about 20 s left`; None if the last run was too short for that.

        What it says goes down slowly, and up only when it was clearly wrong.
        """
        if self._total_s < SHORTEST_S:
            return None
        now = self._now()
        estimate_s = self._estimate_s(now)
        passed_s, self._shown_at = now - self._shown_at, now
        expected_s = max(self._left_s - passed_s, 0.0)
        share = 1 - math.exp(-passed_s / _SMOOTHING_S)
        self._left_s = expected_s + share * (estimate_s - expected_s)
        if estimate_s <= 0 or now - self._begun_at > _OVERDUE * self._total_s:
            return f"takes longer than the last time ({self._total_s:.0f} s)"
        rounded_s = _rounded(self._left_s)
        if rounded_s < self._shown_s or self._left_s > self._shown_s + _grain_s(self._shown_s):
            self._shown_s = rounded_s
        return f"about {_words(self._shown_s)} left"

    def _estimate_s(self, now: float) -> float:
        """What was left of the last run when it was as far as this one, at the pace of this one."""
        reached_s, due_s = self._past_at(self._done), self._past_at(self._done + 1)
        # Between two steps it goes on, until the next one is due.
        going_s = (now - self._done_at) / self._pace(reached_s, self._done_at)
        reached_s = min(reached_s + going_s, due_s)
        return (self._total_s - reached_s) * self._pace(reached_s, now)

    def _past_at(self, done: int) -> float:
        """When the last run had done so many steps."""
        parts = len(self._past_s)
        part, rest = divmod(min(done, self._steps) * parts, self._steps)
        before_s = self._past_s[part - 1] if part else 0.0
        return before_s + (self._past_s[min(part, parts - 1)] - before_s) * rest / self._steps

    def _pace(self, reached_s: float, at: float) -> float:
        """How much slower this run is, which at time `at` was as far as the last at `reached_s`."""
        trust_s = _TRUST * self._total_s
        slowest, fastest = _PACES
        return min(max((at - self._begun_at + trust_s) / (reached_s + trust_s), slowest), fastest)


def _rounded(seconds: float) -> float:
    grain_s = _grain_s(seconds)
    return max(grain_s, grain_s * round(seconds / grain_s))


def _grain_s(seconds: float) -> float:
    """How exactly a time is told."""
    return next(
        (grain for below, grain in ((10, 1.0), (60, 5.0), (180, 10.0)) if seconds < below), 60.0
    )


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if _grain_s(seconds) == 60 else f"{seconds:.0f} s"  # noqa: PLR2004
