"""A problem in a cluster file and its place; how places are written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

Loc = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_VALUE = 60


class Severity(StrEnum):
    """An error stops every verb; a warning says what happens instead of what the file says."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """`str()` is the line that is shown: `file:line: path: text`."""

    file: str
    line: int
    path: str
    text: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: "
        return place + (f"{self.path}: {self.text}" if self.path else self.text)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem without a line yet: reported at the first place of `about`.

    It is dropped if any place of `about` is known to be wrong: it would only be a consequence.
    """

    about: tuple[Loc, ...]
    text: str
    severity: Severity = Severity.ERROR


def error_at(text: str, *about: Loc) -> Finding:
    return Finding(about, text)


def warning_at(text: str, *about: Loc) -> Finding:
    return Finding(about, text, Severity.WARNING)


def are_related(one: Loc, other: Loc) -> bool:
    """One place lies inside the other, or they are the same."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def render_path(loc: Sequence[str | int]) -> str:
    """`clusters.hpc.compute_nodes[1].ip`; keys that are not plain words are quoted."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            word = part if _PLAIN_KEY.fullmatch(part) else render_value(part)
            path += f".{word}" if path else word
    return path


def render_value(value: object) -> str:
    """The value that was found, short and safe to print."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else f"'{value}'"
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 4] + "...'"
