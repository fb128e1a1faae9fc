"""Encodes and decodes the journal's lines: JSON records with a checksum."""

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
    """A journal's first record: which run of which cluster it belongs to."""

    verb: str
    op_id: UUID
    cluster: str
    pid: int
    started_at: datetime
    note: dict[str, Any]


def encode_line(record: Record) -> bytes:
    """One line, with its newline: the CRC-32 of the record, then the record."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f'{{"crc":"{zlib.crc32(text.encode()):08x}","record":{text}}}\n'.encode()


def decode_line(line: bytes) -> Record | None:
    """The record of a line. None if a single byte differs from what was written."""
    try:
        record = json.loads(line)["record"]
        is_whole = encode_line(record) == line
    # A flipped bit can make the line invalid JSON or UTF-8, another type, a NaN or deep nesting.
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if is_whole and isinstance(record, dict) else None


def decode_header(record: Record) -> Header:
    """The header of a first record. Raises KeyError or ValueError if it is no header."""
    known = {name: record[name] for name in Header.__slots__}
    header: Header = _adapter(Header).validate_python(known)
    return header


def encode_step(step: Step) -> Record:
    """A record from which another process can recreate the step."""
    fields = _adapter(type(step)).dump_python(step, mode="json")
    return {"kind": step.kind, "key": step.key, "fields": fields}


def decode_step(record: Record, step_types: Mapping[str, type[Step]]) -> Step:
    """The step of a record. Raises KeyError for an unknown kind, ValueError for wrong fields."""
    step: Step = _adapter(step_types[record["kind"]]).validate_python(record["fields"])
    if step.key != record["key"]:
        raise ValueError(f"the key of a step is {step.key}, the record says {record['key']}")
    return step


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
