"""Renders a definition to XML, and checks that no value became markup.

Values reach a template only through its context, and are escaped there. The result is compared with
the XML of a copy of the definition in which every string is "x": both must have the same elements.
"""

import re
from copy import copy
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path, PurePath
from typing import Protocol, TypeVar, cast

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ai_how.errors import AiHowError, SpecError
from ai_how.libvirt_client.xml import MARK_NAMESPACE, census, read_xml
from ai_how.vm_management.nodes.domain_definition import DomainDefinition

# XML 1.0 does not allow most of these. A parser turns the others (tab, line ends) into spaces,
# which would change the value.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

T = TypeVar("T")


class Definition(Protocol):
    """A frozen dataclass that a template renders to one XML document."""

    @property
    def template(self) -> str:
        """The template's file name."""


def render_definition(definition: Definition) -> str:
    """The XML document of a definition.

    Raises SpecError for a value that XML does not allow, AiHowError if a value became markup.
    """
    for field, value in _strings(definition):
        if found := _UNWRITABLE.search(value):
            raise SpecError(
                f"{field} has a character that XML does not allow",
                details=f"{found.group()!a} in {value!a}",
            )
    text = _render(definition)
    if census(read_xml(text)) != census(read_xml(_render(_placeholder_copy(definition)))):
        raise AiHowError("a value changed the structure of the XML; it was not used", details=text)
    return text


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _render(definition: Definition) -> str:
    template = _environment().get_template(definition.template)
    return template.render(definition=definition, mark_namespace=MARK_NAMESPACE)


def _strings(value: object, path: str = "") -> list[tuple[str, str]]:
    """Every string in a definition, each with the path of its field."""
    parts: list[tuple[str, object]] = []
    if isinstance(value, str | PurePath):
        return [(path, str(value))]
    if is_dataclass(value):
        parts = [(f"{path}.{f.name}".lstrip("."), getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, tuple):
        parts = [(f"{path}[{number}]", item) for number, item in enumerate(value)]
    return [found for where, part in parts for found in _strings(part, where)]


def _placeholder_copy(value: T) -> T:
    """A copy of a definition with "x" for each string and path. Enums are safe, and stay."""
    placeholder: object = value
    if is_dataclass(value) and not isinstance(value, type):
        placeholder = copy(value)  # skips __post_init__, which requires unique names
        for f in fields(value):
            object.__setattr__(placeholder, f.name, _placeholder_copy(getattr(value, f.name)))
    elif isinstance(value, tuple):
        placeholder = tuple(_placeholder_copy(item) for item in value)
    elif isinstance(value, PurePath):
        placeholder = PurePath("/x")
    elif isinstance(value, str) and not isinstance(value, Enum) and value:
        placeholder = "x"
    return cast("T", placeholder)


def render_domain(definition: DomainDefinition) -> str:
    """The XML of a VM. Raises SpecError for a value that XML does not allow."""
    return render_definition(definition)
