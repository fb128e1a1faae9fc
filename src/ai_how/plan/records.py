"""The journal's lines: a step or a fact as JSON with a checksum, and back."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from ai_how.plan.step import Step

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """A journal's first record: whose run it is of."""

    verb: str
    op_id: UUID
    cluster: str
    pid: int
    started_at: datetime
    note: dict[str, Any]


def encode_line(record: Record) -> bytes:
    """One line, newline included, with the crc32 of the record before it."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f'{{"crc":"{zlib.crc32(text.encode()):08x}","record":{text}}}\n'.encode()


def decode_line(line: bytes) -> Record | None:
    """The record of a line; None where a single byte of it is not as it was written."""
    try:
        record = json.loads(line)["record"]
        is_whole = encode_line(record) == line
    # What a flipped bit can make of JSON: no JSON, no mapping, no text, a NaN, a thousand brackets.
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if is_whole and isinstance(record, dict) else None


def decode_header(record: Record) -> Header:
    """The header of a first record. KeyError or ValueError for one that is not ours."""
    known = {name: record[name] for name in Header.__slots__}
    header: Header = _adapter(Header).validate_python(known)
    return header


def encode_step(step: Step) -> Record:
    """What it takes to make the same step in another process."""
    fields = _adapter(type(step)).dump_python(step, mode="json")
    return {"kind": step.kind, "key": step.key, "fields": fields}


def decode_step(record: Record, step_types: Mapping[str, type[Step]]) -> Step:
    """The step of a record. KeyError for a kind that is not known, ValueError for other fields."""
    step: Step = _adapter(step_types[record["kind"]]).validate_python(record["fields"])
    if step.key != record["key"]:
        raise ValueError(f"a step is called {step.key}, and not as written")
    return step


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
