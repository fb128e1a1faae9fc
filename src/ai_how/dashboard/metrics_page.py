"""A page of metrics while it is made: families with bounded, clean and distinct series (pure)."""

import math
from dataclasses import dataclass, field

from prometheus_client.core import Metric

LONGEST_LABEL = 120
MOST_SERIES = 4096
"""Of one family, over all clusters; what is more is left out and counted."""


def label_of(text: str) -> str:
    """A label's value without control characters, and not longer than `LONGEST_LABEL`.

    Much of it was written by guests. What is no valid Unicode is replaced.
    """
    clean = text.encode("utf-8", "replace").decode("utf-8", "replace")
    shown = "".join(one if one.isprintable() else " " for one in clean[: 4 * LONGEST_LABEL])
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"


@dataclass(slots=True)
class Page:
    """What is served, as prometheus_client wants it (`collect`)."""

    families: dict[str, Metric] = field(default_factory=dict)
    left_out: int = 0
    """Series that did not fit."""
    _seen: set[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=set)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(
        self, kind: str, name: str, help_: str, value: float | None, labels: dict[str, str]
    ) -> None:
        """A sample, unless its value is not known. The first of two alike is kept."""
        if value is None or not math.isfinite(value):
            return
        clean = {key: label_of(text) for key, text in labels.items()}
        series = (name, tuple(sorted(clean.items())))
        if series in self._seen:
            return
        if self._counts.get(name, 0) >= MOST_SERIES:
            self.left_out += 1
            return
        self._seen.add(series)
        self._counts[name] = self._counts.get(name, 0) + 1
        family = self.families.get(name)
        if family is None:
            stem = name.removesuffix("_total") if kind == "counter" else name
            family = self.families[name] = Metric(stem, help_, kind)
        family.add_sample(name, clean, float(value))

    def collect(self) -> list[Metric]:
        return list(self.families.values())


@dataclass(frozen=True, slots=True)
class Series:
    """Adds samples to a page, each with these labels."""

    page: Page
    labels: dict[str, str]

    def gauge(self, name: str, help_: str, value: float | None, /, **labels: str) -> None:
        self.page.add("gauge", name, help_, value, self.labels | labels)

    def counter(self, name: str, help_: str, value: float | None, /, **labels: str) -> None:
        """`name` ends with `_total`."""
        self.page.add("counter", name, help_, value, self.labels | labels)

    def flag(self, name: str, help_: str, value: bool | None, /, **labels: str) -> None:  # noqa: FBT001
        """1 or 0; nothing if it is not known."""
        self.gauge(name, help_, None if value is None else float(value), **labels)

    def of(self, **labels: str) -> "Series":
        return Series(self.page, self.labels | labels)


def mib(value: float | None) -> float | None:
    """Bytes of so many MiB."""
    return None if value is None else value * 2**20


def seconds(value_ns: int | None) -> float | None:
    """Seconds of so many nanoseconds."""
    return None if value_ns is None else value_ns / 1e9
