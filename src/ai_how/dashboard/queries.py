"""What a request may ask for: numbers that are numbers, and no more than fits in an answer."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ai_how.errors import SpecError

MOST_POINTS = 2000
MOST_LINES, LINES = 1000, 200
DAY_S = 86400.0
LONGEST_S = 400 * DAY_S
FAR_S = 1e11
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,12})?(e[+-]?\d{1,2})?", re.I)


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when, in Unix seconds."""

    since: float
    until: float


def read_span(asked: Mapping[str, str], *, default_s: float) -> Span:
    """`since` and `until`; a negative number is seconds before now. Raises SpecError."""
    now = time.time()
    until = _time(asked, "until", now, now)
    since = _time(asked, "since", now, until - default_s)
    if since >= until:
        raise SpecError("since must be before until")
    if until - since > LONGEST_S:
        raise SpecError(f"at most {LONGEST_S / DAY_S:.0f} days can be asked for")
    return Span(since, until)


def read_step(asked: Mapping[str, str], span: Span) -> float:
    """Seconds between two points; more than was asked for, if there were too many of them."""
    step = _number(asked, "step", 0.0)
    if step < 0 or step > LONGEST_S:
        raise SpecError("step is no number of seconds")
    return max(step, (span.until - span.since) / MOST_POINTS, 1.0)


def read_series(asked: Mapping[str, str]) -> tuple[str, str]:
    """The name of a series, and its subject. Raises SpecError for what none can have."""
    name, subject = asked.get("name", ""), asked.get("subject", "")
    if not _NAME.fullmatch(name) or not _SUBJECT.fullmatch(subject):
        raise SpecError("name and subject of a series were expected")
    return name, subject


def read_lines(asked: Mapping[str, str]) -> int:
    lines = _number(asked, "lines", LINES)
    if not 1 <= lines <= MOST_LINES:
        raise SpecError(f"lines is 1 to {MOST_LINES}")
    return int(lines)


def _time(asked: Mapping[str, str], name: str, now: float, default: float) -> float:
    found = _number(asked, name, default)
    found = now + found if found < 0 else found
    if not 0 <= found <= FAR_S:
        raise SpecError(f"{name} is no time in seconds")
    return found


def _number(asked: Mapping[str, str], name: str, default: float) -> float:
    text = asked.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not math.isfinite(found := float(text)):
        raise SpecError(f"{name} is no number")
    return found
