"""SLURM's expressions for many nodes: `compute-[01-04,07],login` (pure)."""

import re
from collections.abc import Iterator

MOST = 4096
_PARTS = re.compile(r"(?:[^,\[\]]|\[[^\]]*\])+")
_BRACKET = re.compile(r"\[([^\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def expand(text: str) -> tuple[str, ...]:
    """The names, at most 4096. What is no such expression stays as it is."""
    found: list[str] = []
    for part in _PARTS.findall(text[: 64 * 1024]):
        for name in _names(part.strip()):
            if len(found) >= MOST:
                return tuple(found)
            found.append(name)
    return tuple(found)


def _names(part: str) -> Iterator[str]:
    bracket = _BRACKET.search(part)
    if bracket is None:
        if part:
            yield part
        return
    before, after = part[: bracket.start()], part[bracket.end() :]
    for number in _numbers(bracket[1]):
        for rest in _names(after) if after else ("",):
            yield f"{before}{number}{rest}"


def _numbers(text: str) -> Iterator[str]:
    for one in text.split(","):
        found = _RANGE.fullmatch(one.strip())
        if found is None:
            yield one.strip()
            continue
        first, last = found[1], found[2] or found[1]
        for number in range(int(first), min(int(last), int(first) + MOST) + 1):
            yield str(number).zfill(len(first))
