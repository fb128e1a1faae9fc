"""No value of a shape can become markup, and each arrives as it was."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_how.errors import AiHowError, HostError, SpecError
from ai_how.libvirt_client.xml import census, read_xml
from ai_how.vm_management.nodes.domain_definition import CpuMode
from ai_how.vm_management.xml import render
from ai_how.vm_management.xml.render import render_definition
from shapes import COMPUTE_GPU, COMPUTE_KVM, COMPUTE_UEFI, CONTROLLER, NETWORK

# Everything that a shape can hold, at once.
FULL = replace(
    COMPUTE_GPU,
    pins=COMPUTE_KVM.pins,
    boot=CONTROLLER.boot,
    cpu=replace(COMPUTE_KVM.cpu, mode=CpuMode.CUSTOM, model="qemu64"),
)
LONGEST_BRIDGE = 15

PAYLOADS = (
    "x</name><devices><disk type='block'/></devices><name>",
    "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'/>",
    "' onload='x",
    '" y="',
    "]]><!-- &amp; &#60; &lt;",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    "{{ self.__init__.__globals__ }}",
    "{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}",
    "{# comment #}",
    "  spaces at both ends  ",
    "",
)
values = st.sampled_from(PAYLOADS) | st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
)


def with_texts(shape: object, texts: Iterator[str]) -> object:
    """The shape with each of its strings and paths replaced by the next text."""
    if is_dataclass(shape):
        kept = {f.name: with_texts(getattr(shape, f.name), texts) for f in fields(shape)}
        if "bridge" in kept:
            kept["bridge"] = kept["bridge"][:LONGEST_BRIDGE]
        return replace(shape, **kept)
    if isinstance(shape, tuple):
        return tuple(with_texts(item, texts) for item in shape)
    if isinstance(shape, Path):
        return Path(next(texts))
    return next(texts) if isinstance(shape, str) and not isinstance(shape, Enum) else shape


def texts_of(shape: object) -> list[str]:
    """The same strings and paths, in the same order."""
    if is_dataclass(shape):
        return [text for f in fields(shape) for text in texts_of(getattr(shape, f.name))]
    if isinstance(shape, tuple):
        return [text for item in shape for text in texts_of(item)]
    is_text = isinstance(shape, str | Path) and not isinstance(shape, Enum)
    return [str(shape)] if is_text else []


def slots_of(xml: str) -> list[tuple[int, str, str]]:
    """Each place in a document that can hold text, with what it holds."""
    return [
        (number, attribute, value)
        for number, element in enumerate(read_xml(xml).iter())
        for attribute, value in [("", element.text or ""), *element.attrib.items()]
    ]


def assert_all_arrive(shape, drawn: list[str]) -> None:
    marked = with_texts(shape, (f"S{number}" for number in range(len(drawn))))
    expected = render_definition(marked)
    filled = with_texts(shape, iter(drawn))
    got = render_definition(filled)
    assert census(read_xml(got)) == census(read_xml(expected))
    where = {value: (number, attribute) for number, attribute, value in slots_of(expected)}
    found = {(number, attribute): value for number, attribute, value in slots_of(got)}
    for mark, text in zip(texts_of(marked), texts_of(filled), strict=True):
        assert mark in where, f"{mark} is in no place of the XML: a field is ignored"
        assert found[where[mark]] == text


def lists_for(shape) -> st.SearchStrategy[list[str]]:
    count = len(texts_of(shape))
    return st.lists(values, min_size=count, max_size=count, unique=True)


# 400 documents with some thirty values each: about 10 000 values.
@pytest.mark.fault("S01", "markup and arbitrary text in every string of a VM")
@pytest.mark.fault("S26", "payloads in every string of a VM")
@settings(max_examples=400, deadline=None)
@given(lists_for(FULL))
def test_every_value_of_a_domain_stays_a_value(drawn):
    assert_all_arrive(FULL, drawn)


@pytest.mark.fault("S01", "markup and arbitrary text in every string of a VM with UEFI and a seed")
@settings(deadline=None)
@given(lists_for(COMPUTE_UEFI))
def test_every_value_of_a_domain_with_uefi_stays_a_value(drawn):
    assert_all_arrive(COMPUTE_UEFI, drawn)


@pytest.mark.fault("S01", "markup and arbitrary text in every string of a network")
@settings(deadline=None)
@given(lists_for(NETWORK))
def test_every_value_of_a_network_stays_a_value(drawn):
    assert_all_arrive(NETWORK, drawn)


@pytest.mark.fault("S01", "characters that XML cannot hold")
@given(
    st.text(),
    st.sampled_from("\0\x01\x08\t\n\x0b\r\x1b\x1f\x7f\ud800\udfff\ufffe\uffff"),
    st.text(),
)
@example("/dev/vda", "\n", "")
def test_a_character_that_xml_cannot_hold_is_refused_with_its_place(before, illegal, after):
    with pytest.raises(SpecError, match="title has a character that XML does not allow") as refused:
        render_definition(replace(CONTROLLER, title=before + illegal + after))
    assert refused.value.details


@pytest.mark.fault("S01", "a template without escapes")
def test_a_template_that_forgets_to_escape_is_caught(tmp_path, monkeypatch):
    (tmp_path / "careless.j2").write_text("<a>{{ definition.title|safe }}</a>")
    loader = render._environment().overlay(loader=render.FileSystemLoader(tmp_path))
    monkeypatch.setattr(render, "_environment", lambda: loader)

    class Careless(type(CONTROLLER)):
        template: ClassVar[str] = "careless.j2"

    shape = Careless(**{f.name: getattr(CONTROLLER, f.name) for f in fields(CONTROLLER)})
    assert render_definition(shape) == "<a>controller of the cluster demo</a>"
    with pytest.raises(AiHowError, match="a value changed the structure of the XML"):
        render_definition(replace(shape, title="x<b/>"))


@pytest.mark.parametrize("text", ["", "plain", "<a>", "<a/><b/>", "\0", "<a>\ud800</a>"])
def test_what_is_not_xml_is_refused_in_words(text):
    with pytest.raises(HostError, match="this XML cannot be read"):
        read_xml(text)
