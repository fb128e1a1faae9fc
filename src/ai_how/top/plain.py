"""Text for the screen: what others wrote is made harmless, figures are made short (pure)."""

import re

UNKNOWN = "-"
LONGEST = 400
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, palettes
    r"|\x1b[0-~]"
)
_UNITS = "KMGTPE"
_KIB = 1024
_TEN = 9.95  # from here on, a figure has no decimal
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def plain(text: object, longest: int = LONGEST) -> str:
    """One line that a terminal shows as it is: no escapes, controls or invisible characters."""
    line = str(text)
    if len(line) <= longest and line.isprintable():
        return line.rstrip()
    # What is cut off is not looked at; an escape that is cut loses its first byte below.
    bare = _ESCAPES.sub("", line[: 4 * longest].expandtabs(8))
    kept = "".join(char if char.isprintable() else " " for char in bare).rstrip()
    return kept if len(kept) <= longest else f"{kept[: longest - 1]}…"


def size(count: float | None) -> str:
    """Bytes in four or five characters: `17`, `9.8K`, `312M`."""
    if count is None:
        return UNKNOWN
    if count < _KIB:
        return f"{count:.0f}"
    unit = -1
    while count >= _KIB - 0.5 and unit < len(_UNITS) - 1:
        count, unit = count / _KIB, unit + 1
    return f"{count:.1f}{_UNITS[unit]}" if count < _TEN else f"{count:.0f}{_UNITS[unit]}"


def mib(count: float | None) -> str:
    """Like `size`, of MiB."""
    return size(None if count is None else count * _KIB * _KIB)


def figure(value: float | None) -> str:
    """A number with one decimal, where it is small."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if abs(value) < _TEN else f"{value:.0f}"


def part(used: str, given: str) -> str:
    """`used/given`; one `-` if neither is known."""
    return UNKNOWN if used == given == UNKNOWN else f"{used}/{given}"


def percent(share: float | None) -> str:
    """A share of one: `83%`."""
    return UNKNOWN if share is None else f"{share * 100:.0f}%"


def duration(seconds: float | None) -> str:
    """As squeue has it: `0:07`, `1:02:03`, `2-00:00:00`."""
    if seconds is None:
        return UNKNOWN
    left = max(0, int(seconds))
    days, left = divmod(left, _DAY)
    hours, left = divmod(left, _HOUR)
    minutes, left = divmod(left, _MINUTE)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{left:02}"
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def age(seconds: float) -> str:
    """How long, in one unit: `40 s`, `12 min`, `3 h`, `2 d`."""
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"
