"""Reads what SLURM prints as JSON, without trust (pure): bounded, one object after the other.

The forms differ between versions: since 23.02 a number is `{"set", "infinite", "number"}`, before
it is a number or null; states are a list of words, before one word.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from ai_how.errors import GuestError
from ai_how.guest.serial_log import one_line

MOST_BYTES = 32 << 20
"""About 5000 jobs."""
MOST = 2**53
NO_VALUES = frozenset({2**32 - 2, 2**32 - 1})
"""SLURM's NO_VAL and INFINITE, where a version prints them as they are."""
Object = Mapping[str, Any]

_DECODER = json.JSONDecoder(parse_constant=lambda _name: None)
_SPACE = " \t\r\n"


def unpacked(data: bytes) -> str:
    """The text of a gzip stream. Raises GuestError if it is none, or longer than `MOST_BYTES`."""
    reader = zlib.decompressobj(wbits=31)
    try:
        text = reader.decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise GuestError("SLURM's answer is damaged", details=str(error)) from error
    if reader.unconsumed_tail:
        raise GuestError(f"SLURM's answer is longer than {MOST_BYTES >> 20} MiB")
    return text.decode("utf-8", "replace")


def objects_of(text: str, name: str) -> Iterator[Object]:
    """The objects of the list `name` at the top of a JSON document; the rest is not built.

    Raises GuestError if the text is no such document, or is cut short.
    """
    # Quotes in a string are escaped, so that no name of a job looks like this.
    begin = re.search(rf'"{name}"\s*:\s*\[', text)
    if begin is None:
        raise GuestError(f"SLURM's answer has no {name}")
    place = begin.end()
    while True:
        place = _skip(text, place, _SPACE + ",")
        if text[place : place + 1] == "]":
            return
        found, place = _decode(text, place)
        if isinstance(found, dict):
            yield found


def object_of(text: str, name: str) -> Object:
    """The object `name` at the top of a JSON document; empty if there is none."""
    begin = re.search(rf'"{name}"\s*:\s*(?={{)', text)
    if begin is None:
        return {}
    found, _ = _decode(text, begin.end())
    return found if isinstance(found, dict) else {}


def _decode(text: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        raise GuestError("SLURM's answer is no JSON", details=str(error)[:200]) from error


def _skip(text: str, place: int, what: str) -> int:
    while place < len(text) and text[place] in what:
        place += 1
    return place


def number(value: object) -> float | None:
    """A number that is set and finite, from 0 to 2^53; None for anything else."""
    if isinstance(value, Mapping):
        if value.get("set") is False or value.get("infinite") is True:
            return None
        value = value.get("number")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if value in NO_VALUES:
        return None
    return float(value) if 0 <= value <= MOST else None  # also false for NaN


def whole(value: object) -> int | None:
    """A whole number, as `number`."""
    found = number(value)
    return None if found is None else int(found)


def moment(value: object) -> float | None:
    """A time in Unix seconds; SLURM's 0 is none."""
    return number(value) or None


def text_of(value: object) -> str | None:
    """One line of text; None if it is empty, `(null)` or no text."""
    if not isinstance(value, str):
        return None
    found = one_line(value[:1000])
    return None if found in {"", "(null)", "N/A"} else found


def words_of(*values: object) -> tuple[str, ...]:
    """Words of SLURM in lower case, from a word or a list of them."""
    found: list[str] = []
    for value in values:
        every = value[:32] if isinstance(value, list) else (value,)
        found += [one_line(one)[:40].lower() for one in every if isinstance(one, str) and one]
    return tuple(dict.fromkeys(found))
