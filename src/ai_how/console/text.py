"""Values as text that is safe to show, and objects as JSON (pure)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePath
from typing import Any
from uuid import UUID

_AS_TEXT = (PurePath, UUID, IPv4Address, IPv4Network)


def clean(value: object, *, keep_lines: bool = False) -> str:
    """The text of a value without terminal control or invisible characters.

    Names and messages come from other users' VMs and from guests: an escape sequence in them must
    be shown, not executed.
    """
    kept = "\n\t" if keep_lines else ""
    return "".join(
        char if char.isprintable() or char in kept else _visible(char) for char in str(value)
    )


def to_jsonable(value: Any) -> Any:  # noqa: ANN401, PLR0911  JSON; a return per kind
    """Convert an object for `json.dumps`. Raises TypeError for an unsupported type."""
    if isinstance(value, Enum):
        return to_jsonable(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(to_jsonable(key)): to_jsonable(item) for key, item in value.items()}
    if hasattr(value, "model_dump"):  # pydantic's, which --help must not import
        return to_jsonable(value.model_dump(by_alias=True))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        items = [to_jsonable(item) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    raise TypeError(f"{type(value).__name__} cannot be shown as JSON")


def _visible(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
