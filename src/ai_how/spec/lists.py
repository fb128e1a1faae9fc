"""Fields that can be written in several ways: one item or a list, a node or a group."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

# Tags of unions. They appear in pydantic's locations; `without_tags` removes them.
NODE, GROUP, LIST, POOLS, LAYOUT = "<node>", "<group>", "<list>", "<pools>", "<layout>"
MIG_FILE = "<mig file>"
# What pydantic puts behind a key that is wrong itself.
_KEY = "[key]"
_TAGS = frozenset((NODE, GROUP, LIST, POOLS, LAYOUT, MIG_FILE, _KEY))


def without_tags(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(part for part in loc if part not in _TAGS)


@dataclass(frozen=True, slots=True)
class OneOrList:
    """A list whose only element may be written without the list."""

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.as_list, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        as_list = handler(schema)
        return {"anyOf": [as_list, as_list["items"]]}

    @staticmethod
    def as_list(value: object) -> object:
        return [value] if isinstance(value, dict | str) else value


@dataclass(frozen=True, slots=True)
class TextOrSection:
    """A section that may be written as one text, from which `section_of` makes the section."""

    section_of: Callable[[str], dict[str, str]]

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.as_section, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "string"}]}

    def as_section(self, value: object) -> object:
        return self.section_of(value) if isinstance(value, str) else value


def named(text: str) -> dict[str, str]:
    """The section of a text that is only its name."""
    return {"name": text}


def tag_of_node(value: object) -> str:
    """A node with a `count` is a group."""
    is_group = "count" in value if isinstance(value, dict) else hasattr(value, "count")
    return GROUP if is_group and not isinstance(value, str) else NODE


def tag_of_workers(value: object) -> str:
    """Workers are a list, one group, or pools of them by name."""
    if isinstance(value, dict) and all(isinstance(item, dict | list) for item in value.values()):
        return POOLS
    return LIST
