"""The short past of a few figures, for rules that a single look cannot answer (pure).

It is bounded: half an hour of each figure, a point a minute at most.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

LENGTH_S = 1800.0
STEP_S = 60.0
SHORTEST_S = 300.0
"""No rate is told of a shorter time."""


@dataclass(slots=True)
class _Figure:
    """One figure: its points, oldest first, and when it grew last."""

    points: deque[tuple[float, float]] = field(default_factory=deque)
    last: tuple[float, float] | None = None
    grew_at: float | None = None
    grew_by: float = 0.0
    true_since: float | None = None


class Past:
    """What was seen before, by a key for each figure. A clock that was set back empties it."""

    def __init__(self) -> None:
        self._figures: dict[Hashable, _Figure] = {}
        self._at: float | None = None

    def begin(self, at: float) -> None:
        """A look at `at` begins."""
        if self._at is not None and at < self._at:
            self._figures.clear()
        self._at = at

    def note(self, key: Hashable, at: float, value: float) -> None:
        """The figure had this value at `at`. A value of the same moment is noted once."""
        figure = self._figures.setdefault(key, _Figure())
        if figure.last is not None and at <= figure.last[0]:
            return
        if figure.last is not None and value > figure.last[1]:
            figure.grew_at, figure.grew_by = at, value - figure.last[1]
        figure.last = (at, value)
        points = figure.points
        if not points or at - points[-1][0] >= STEP_S:
            points.append((at, value))
        while at - points[0][0] > LENGTH_S:
            points.popleft()

    def rate(self, key: Hashable) -> float | None:
        """Its mean growth per second; None where too little of it is known."""
        figure = self._figures.get(key)
        if figure is None or figure.last is None:
            return None
        begun_at, first = figure.points[0]
        took_s = figure.last[0] - begun_at
        return (figure.last[1] - first) / took_s if took_s >= SHORTEST_S else None

    def growth(self, key: Hashable, within_s: float) -> float | None:
        """By how much it grew when it grew last, if that is not longer ago; None otherwise."""
        figure = self._figures.get(key)
        if figure is None or figure.grew_at is None or self._at is None:
            return None
        return figure.grew_by if self._at - figure.grew_at <= within_s else None

    def restart(self, key: Hashable) -> None:
        """Forget the figure: what it counts began again."""
        self._figures.pop(key, None)

    def last(self, key: Hashable) -> float | None:
        """Its last value."""
        figure = self._figures.get(key)
        return figure.last[1] if figure and figure.last else None

    def true_for_s(self, key: Hashable, at: float, *, is_true: bool) -> float:
        """Note a condition at `at`; for how long it has been true, without a gap, until then."""
        figure = self._figures.setdefault(key, _Figure())
        if not is_true:
            figure.true_since = None
            return 0.0
        if figure.true_since is None:
            figure.true_since = at
        return max(0.0, at - figure.true_since)
