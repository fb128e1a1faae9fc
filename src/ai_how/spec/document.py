"""The explained cluster file: the commented file of `ai-how init`, and the JSON Schema."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from ai_how.spec.hardware import Spec
from ai_how.spec.models import ClusterFile
from ai_how.spec.reader import DEFAULT_DATA
from ai_how.spec.shape import fields_of, models_in

_HEAD = """\
# A cluster file of ai-how: `ai-how validate` checks it, `ai-how hpc start` starts the cluster.
# A line with # and no space after it is a setting with an example value: remove the # to use it.
# ${NAME} and ${NAME:-default} are replaced by environment variables.
"""
_WIDTH = 100
_NOTES = frozenset(("title", "description", "default", "examples"))
_CHOICES = frozenset(("pattern", "enum", "const", "format"))
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_PLAIN_TEXT = re.compile(r"[A-Za-z/][A-Za-z0-9./_+-]*")
_WORDS_OF_YAML = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def render_default_file() -> str:
    """A file that has the same effect as no file, and explains every field."""
    return _HEAD + "\n".join(_section(ClusterFile, DEFAULT_DATA, "")) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the cluster file, for editors."""
    schema: dict[str, Any] = _with_variables(ClusterFile.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "ai-how cluster file",
    }


def _with_variables(schema: Any) -> Any:  # noqa: ANN401  JSON
    """The same schema, in which every value may also be text that contains `${`."""
    if isinstance(schema, list):
        return [_with_variables(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    limits = {key: value for key, value in schema.items() if key not in _NOTES}
    if limits.get("type") in ("integer", "number", "boolean") or limits.keys() & _CHOICES:
        notes = {key: value for key, value in schema.items() if key in _NOTES}
        return {"anyOf": [limits, _VARIABLE], **notes}
    return {
        key: {name: _with_variables(item) for name, item in value.items()}
        if key in ("properties", "$defs")
        else _with_variables(value)
        for key, value in schema.items()
    }


def _section(model: type[Spec], given: Mapping[str, Any] | None, indent: str) -> Iterator[str]:
    """Every field with its description; fields that are not in `given` are commented out."""
    for key, info in fields_of(model).items():
        value = None if given is None else given.get(key)
        inner = () if _is_shown_short(info) else models_in(info.annotation)
        if inner or model is ClusterFile:
            yield ""
        yield from _comment(info, indent)
        mark = indent if value is not None else f"{indent}#"
        if not inner:
            shown = value if value is not None else (info.examples or [None])[0]
            yield f"{mark}{key}: {render_scalar(shown)}"
        elif value is None and _is_list(info):
            yield f"{mark}{key}:"
            yield from _as_list_item(_section(inner[-1], None, f"{indent}    "))
        elif get_origin(info.annotation) is dict:
            yield f"{mark}{key}:"
            yield f"{indent}  {mark.strip()}{(info.examples or ['name'])[0]}:"
            yield from _section(inner[-1], value, f"{indent}    ")
        else:
            yield f"{mark}{key}:"
            yield from _section(inner[-1], value, f"{indent}  ")


def _is_shown_short(info: FieldInfo) -> bool:
    """Whether it has a short form, of which there is an example, beside one with fields."""
    return bool(info.examples) and get_origin(info.annotation) not in (dict, tuple)


def _is_list(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is tuple


def _as_list_item(lines: Iterator[str]) -> Iterator[str]:
    """The lines as a list item: the first setting gets the dash."""
    is_first = True
    for line in lines:
        before, mark, setting = line.partition("#")
        if is_first and mark and not setting.startswith(" "):
            yield f"{before[:-2]}#- {setting}"
            is_first = False
        else:
            yield line


def _comment(info: FieldInfo, indent: str) -> Iterator[str]:
    text = (info.description or "") + (" Required." if info.is_required() else "")
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def render_scalar(value: object) -> str:
    """A scalar as YAML, as a person would write it."""
    is_plain = isinstance(value, str) and _PLAIN_TEXT.fullmatch(value)
    if is_plain and str(value).lower() not in _WORDS_OF_YAML:
        return str(value)
    return json.dumps(value)
