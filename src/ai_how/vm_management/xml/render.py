"""From a definition to its XML, and the check that no value became markup.

Values reach a template only as context, are escaped there, and are compared with a twin of the
same definition whose every string is plain: the two documents must have the same elements.
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

# XML 1.0 cannot hold most of these; the rest (tab, line ends) a parser turns into spaces, so the
# value would not come back as it was.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

T = TypeVar("T")


class Definition(Protocol):
    """A frozen dataclass that one template turns into one XML document."""

    @property
    def template(self) -> str:
        """The template's file name."""


def render_definition(definition: Definition) -> str:
    """The XML document of a definition.

    Raises SpecError for a value that XML cannot hold, AiHowError if a value became markup.
    """
    for place, value in _strings(definition):
        if found := _UNWRITABLE.search(value):
            raise SpecError(
                f"{place} holds a character that XML cannot",
                details=f"{found.group()!a} in {value!a}",
            )
    text = _render(definition)
    if census(read_xml(text)) != census(read_xml(_render(_plain_twin(definition)))):
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


def _strings(value: object, place: str = "") -> list[tuple[str, str]]:
    """Every string in a definition, each with its place in it."""
    parts: list[tuple[str, object]] = []
    if isinstance(value, str | PurePath):
        return [(place, str(value))]
    if is_dataclass(value):
        parts = [(f"{place}.{f.name}".lstrip("."), getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, tuple):
        parts = [(f"{place}[{number}]", item) for number, item in enumerate(value)]
    return [found for where, part in parts for found in _strings(part, where)]


def _plain_twin(value: T) -> T:
    """The same definition with a plain word for each string and path (enums are ours, and stay)."""
    twin: object = value
    if is_dataclass(value) and not isinstance(value, type):
        twin = copy(value)  # not a new one: that would be checked, and plain words are not unique
        for f in fields(value):
            object.__setattr__(twin, f.name, _plain_twin(getattr(value, f.name)))
    elif isinstance(value, tuple):
        twin = tuple(_plain_twin(item) for item in value)
    elif isinstance(value, PurePath):
        twin = PurePath("/x")
    elif isinstance(value, str) and not isinstance(value, Enum) and value:
        twin = "x"
    return cast("T", twin)


def render_domain(machine: DomainDefinition) -> str:
    """The XML to define. Raises SpecError for a value that XML cannot hold."""
    return render_definition(machine)
