"""The last hour of a cluster in memory, at full resolution."""

import math
import threading
from array import array
from collections.abc import Iterable

from ai_how.monitoring.model import Snapshot
from ai_how.monitoring.points import points_of

POINTS = 720
"""An hour, if a round takes five seconds."""
MOST_SERIES = 8192
"""Some 700 nodes; with all of them full, 45 MiB."""
MOST_STEPS = 5000
NAN = math.nan

Series = list[tuple[float, float | None]]


class History:
    """The newest points of each series. For many threads."""

    def __init__(self, *, points: int = POINTS, most_series: int = MOST_SERIES) -> None:
        self._size = points
        self._most = most_series
        self._times = array("d")
        self._values: dict[tuple[str, str], array[float]] = {}
        self._next = 0
        self._newest = -math.inf
        self._lock = threading.Lock()

    @property
    def oldest_at(self) -> float | None:
        """The time of the oldest point that is kept."""
        with self._lock:
            return min((at for at in self._times if at == at), default=None)  # noqa: PLR0124  NaN

    def add(self, seen: Snapshot) -> None:
        """Keep its figures. If the clock was set back, what came after is forgotten."""
        with self._lock:
            if seen.at < self._newest:
                self._forget_after(seen.at)
            self._newest = seen.at
            place = self._next % self._size
            self._next += 1
            if len(self._times) < self._size:
                self._times.append(NAN)
                for values in self._values.values():
                    values.append(NAN)
            self._times[place] = seen.at
            for values in self._values.values():
                values[place] = NAN
            for name, subject, value in points_of(seen):
                if value is not None:
                    self._values_of(name, subject)[place] = value

    def names(self) -> list[tuple[str, str]]:
        """Name and subject of each series."""
        with self._lock:
            return sorted(self._values)

    def points(self, name: str, subject: str, since: float, until: float) -> Series:
        """The points as they came, in the order of their times; a gap is None."""
        with self._lock:
            values = self._values.get((name, subject))
            if values is None:
                return []
            found = [
                (at, None if math.isnan(value) else value)
                for at, value in zip(self._times, values, strict=True)
                if since <= at < until
            ]
        return sorted(found, key=lambda point: point[0])

    def _values_of(self, name: str, subject: str) -> "array[float]":
        values = self._values.get((name, subject))
        if values is None:
            values = array("d", [NAN]) * len(self._times)
            if len(self._values) < self._most:
                self._values[name, subject] = values
        return values

    def _forget_after(self, at: float) -> None:
        for place, time in enumerate(self._times):
            if time >= at:
                self._times[place] = NAN


def in_steps(points: Iterable[tuple[float, float | None]], grid: "Grid") -> Series:
    """The mean of each step of a grid; None for a step without a point that is known."""
    sums = array("d", bytes(8 * grid.count))
    counts = array("L", bytes(array("L").itemsize * grid.count))
    for at, value in points:
        step = grid.step_of(at)
        if value is not None and 0 <= step < grid.count:
            sums[step] += value
            counts[step] += 1
    return [
        (grid.since + step * grid.step_s, sums[step] / counts[step] if counts[step] else None)
        for step in range(grid.count)
    ]


class Grid:
    """Steps of equal length from a time on; longer ones than asked for if they are too many."""

    def __init__(self, since: float, until: float, step_s: float) -> None:
        if not all(math.isfinite(one) for one in (since, until, step_s)):
            raise ValueError("no such span of time")
        span = max(0.0, until - since)
        self.step_s = max(step_s, span / MOST_STEPS, 0.001)
        self.since = since
        self.count = min(MOST_STEPS, math.ceil(span / self.step_s))

    def step_of(self, at: float) -> int:
        return math.floor((at - self.since) / self.step_s)
