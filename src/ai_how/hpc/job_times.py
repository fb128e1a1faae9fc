"""Times and limits of SLURM's jobs, for people (pure)."""

import re
from datetime import datetime

_LIMIT = re.compile(r"(?:(\d{1,6})-)?(?:(\d{1,6}):)?(\d{1,6}):(\d{1,2})")
_DAY = 86400


def at(moment: float | None) -> str:
    """A time of day here, with the date if it is not near; `?` if it is not known."""
    if moment is None:
        return "?"
    there = datetime.fromtimestamp(moment).astimezone()
    is_near = abs(moment - datetime.now().timestamp()) < _DAY / 2  # noqa: DTZ005  only a difference
    return f"{there:%H:%M:%S}" if is_near else f"{there:%Y-%m-%d %H:%M}"


def ago(seconds: float) -> str:
    """`in 5 min`, `3 s ago`."""
    size = abs(seconds)
    for unit, length in (("d", _DAY), ("h", 3600), ("min", 60)):
        if size >= 2 * length or (unit != "d" and size >= length):
            text = f"{size / length:.0f} {unit}"
            break
    else:
        text = f"{size:.0f} s"
    return f"in {text}" if seconds >= 0 else f"{text} ago"


def duration_s(text: str) -> float | None:
    """A limit of SLURM's in seconds: `1-00:00:00`, `00:05:00`; None if there is none."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(one or 0) for one in found.groups())
    return float(days * _DAY + hours * 3600 + minutes * 60 + seconds)


def limit_text(text: str) -> str:
    """A limit of SLURM's for people."""
    return "no limit" if text in {"", "UNLIMITED", "Partition_Limit"} else text
