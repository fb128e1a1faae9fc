"""The time from which a log is shown, as journalctl, docker and kubectl have it written (pure)."""

import re
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta

from ai_how.errors import SpecError

_FORMS = "10m, 2h30m, -1h, '10 min ago', now, today, yesterday, 12:00, '2026-11-30 12:00', @SECONDS"
_SECONDS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
    "w": 7 * 86400,
    "M": 30.44 * 86400,
    "y": 365.25 * 86400,
}
"""The units of systemd.time(7): a month and a year are means."""
_SHORT = {
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hr": "h",
    "hour": "h",
    "day": "d",
    "week": "w",
    "month": "M",
    "year": "y",
    "usec": "us",
    "msec": "ms",
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def read_since(text: str, now: datetime) -> datetime:
    """The time that is meant; what names no zone is of this host's. Raises SpecError for no time.

    `now` is of this host's zone, too.
    """
    words = text.strip()
    with suppress(OverflowError, ValueError, OSError):
        if found := _named(words, now) or _ago(words, now) or _absolute(words, now):
            return found
    raise SpecError(f"--since {text}: this is no time", details=f"Forms: {_FORMS}.")


def _named(words: str, now: datetime) -> datetime | None:
    days = {"today": 0, "yesterday": 1}
    if words in days:
        return datetime.combine(now.date() - timedelta(days=days[words]), time()).astimezone()
    return now if words == "now" else None


def _ago(words: str, now: datetime) -> datetime | None:
    """A span before now, with or without a sign: no log has lines of the future."""
    span = words.removesuffix(" ago") if words.endswith(" ago") else words.removeprefix("-")
    seconds, rest = 0.0, span.strip()
    while part := _PART.match(rest):
        unit = part[2]
        unit = unit if unit in _SECONDS else _SHORT.get(unit.removesuffix("s"), "")
        if not unit:
            return None
        seconds += float(part[1]) * _SECONDS[unit]
        rest = rest[part.end() :]
    return None if rest or not span.strip() else now - timedelta(seconds=seconds)


def _absolute(words: str, now: datetime) -> datetime | None:
    if words.startswith("@"):
        return datetime.fromtimestamp(float(words[1:]), UTC)
    words = re.sub(r"^(mon|tue|wed|thu|fri|sat|sun)[a-z]*,? ", "", words, flags=re.IGNORECASE)
    words = re.sub(r" ?UTC$", "+00:00", words)
    with suppress(ValueError):
        found = datetime.fromisoformat(words)
        # A date of the summer has the offset of the summer.
        return found if found.tzinfo else found.astimezone()
    if ":" not in words:
        return None
    return datetime.combine(now.date(), time.fromisoformat(words)).astimezone()
