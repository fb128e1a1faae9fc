"""Parse YAML text to a tree with line numbers. Dangerous input is refused before it is built:

size, depth, aliases that multiply, duplicate keys, tags, several documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from ai_how.spec.problems import Loc, render_value

MAX_BYTES = 1 << 20
MAX_LINES = 20_000
MAX_LINE_LENGTH = 16_384
MAX_DEPTH = 32
MAX_VALUES = 10_000

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    _CORE + word for word in ["str", "int", "float", "bool", "null", "map", "seq"]
)
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


_EXPLAINED = {
    "found character '\\t'": "a tab; indent with spaces",
    "but found '<block mapping start>'": "the indentation does not match the lines above",
    "but found '<block sequence start>'": "the indentation does not match the lines above",
    "mapping values are not allowed here": "a `key:` is not allowed here; check the indentation, "
    "and the `:` and quotes of this line and the one above",
    "found unexpected end of stream": "a quote is not closed",
    "but got '<stream end>'": "a bracket is not closed",
}
"""The parser's words for the mistakes that people make, and ours."""


class YamlRefusedError(Exception):
    """The YAML text is not accepted; `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


@dataclass(slots=True)
class Scalar:
    """`text` is as written, None for null. The reader of the tree decides about the type."""

    line: int
    text: str | None
    size: int = 1


@dataclass(slots=True)
class Sequence:
    line: int
    items: list["Node"] = field(default_factory=list)
    size: int = 1


@dataclass(slots=True)
class Entry:
    line: int
    node: "Node"


@dataclass(slots=True)
class Mapping:
    line: int
    entries: dict[str, Entry] = field(default_factory=dict)
    size: int = 1


Node = Scalar | Sequence | Mapping


def read_tree(text: str) -> Mapping:
    """The one mapping that the text holds. Raises YamlRefusedError."""
    _refuse_oversize(text)
    try:
        return _Composer(YAML(typ="safe", pure=True).parse(text)).document()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlRefusedError(line, "a character that YAML does not allow") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlRefusedError(
            mark.line + 1 if mark else 1, f"not valid YAML: {_explain(error)}"
        ) from None
    except (YAMLError, ValueError) as error:
        # The scanner lets chr() fail on an escape such as "\\U00110000".
        raise YamlRefusedError(1, f"not valid YAML: {error}") from None


def _explain(error: MarkedYAMLError) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return next((ours for theirs, ours in _EXPLAINED.items() if theirs in said), said)


def find_place(tree: Mapping, loc: Loc) -> tuple[int, Loc]:
    """The line of a place (or of the nearest enclosing one), and the place as it is written.

    A single item that stands for a list of one has no index in the file.
    """
    node: Node | None = tree
    line = tree.line
    written: list[str | int] = []
    for part in loc:
        if isinstance(node, Mapping) and part == 0:
            continue
        written.append(part)
        if isinstance(node, Mapping) and part in node.entries:
            entry = node.entries[str(part)]
            line, node = entry.line, entry.node
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            node = None
    return line, tuple(written)


def plain(node: Node) -> Any:  # noqa: ANN401  the one place where the file is still untyped
    """The tree as dicts, lists, strings and None."""
    if isinstance(node, Mapping):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.text


def _refuse_oversize(text: str) -> None:
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise YamlRefusedError(1, f"the file is larger than {MAX_BYTES} bytes")
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise YamlRefusedError(MAX_LINES + 1, f"the file has more than {MAX_LINES} lines")
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_LENGTH:
            raise YamlRefusedError(number, f"the line is longer than {MAX_LINE_LENGTH} characters")


class _Composer:
    """Builds the tree from the parser's events, and stops at the first thing that is refused."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.anchors: dict[str, Node] = {}
        self.values = 0

    def document(self) -> Mapping:
        next(self.events)
        event = next(self.events)
        if not isinstance(event, DocumentStartEvent):
            raise YamlRefusedError(1, "the file is empty; `version` and `clusters` are required")
        top = self._node(next(self.events), depth=1)
        next(self.events)
        event = next(self.events)
        if isinstance(event, DocumentStartEvent):
            raise YamlRefusedError(_line(event), "a second document; only one is allowed")
        if not isinstance(top, Mapping):
            found = "a list" if isinstance(top, Sequence) else render_value(top.text)
            raise YamlRefusedError(top.line, f"found {found}; the file must be a mapping of keys")
        return top

    def _node(self, event: NodeEvent, depth: int) -> Node:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise YamlRefusedError(line, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            return self._alias(event, line)
        self._count(1, line)
        _refuse_tag(event, line)
        node: Node
        if isinstance(event, ScalarEvent):
            quoted = event.style is not None or event.tag == f"{_CORE}str"
            is_null = not quoted and event.value in _NULLS
            node = Scalar(line, None if is_null else event.value)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(line, depth)
        else:
            node = self._mapping(line, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: AliasEvent, line: int) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise YamlRefusedError(
                line, f"the alias {render_value(event.anchor)} has no anchor before it"
            )
        self._count(node.size, line)
        return node

    def _count(self, size: int, line: int) -> None:
        self.values += size
        if self.values > MAX_VALUES:
            raise YamlRefusedError(line, f"more than {MAX_VALUES} values, with aliases expanded")

    def _sequence(self, line: int, depth: int) -> Sequence:
        sequence = Sequence(line)
        while not isinstance(event := next(self.events), SequenceEndEvent):
            item = self._node(event, depth + 1)
            sequence.items.append(item)
            sequence.size += item.size
        return sequence

    def _mapping(self, line: int, depth: int) -> Mapping:
        mapping = Mapping(line)
        merged: list[Mapping] = []
        seen: dict[str, int] = {}
        while isinstance(event := next(self.events), NodeEvent):
            key, is_merge = self._key(event)
            if key in seen:
                raise YamlRefusedError(
                    _line(event),
                    f"the key {render_value(key)} occurs twice; the first is in line {seen[key]}",
                )
            seen[key] = _line(event)
            value = self._node(next(self.events), depth + 1)
            mapping.size += value.size
            if is_merge:
                merged += _merged(value)
            else:
                mapping.entries[key] = Entry(seen[key], value)
        for source in merged:
            for key, entry in source.entries.items():
                mapping.entries.setdefault(key, entry)
        return mapping

    def _key(self, event: NodeEvent) -> tuple[str, bool]:
        line = _line(event)
        if not isinstance(event, ScalarEvent):
            raise YamlRefusedError(line, "a key must be a plain word")
        self._count(1, line)
        _refuse_tag(event, line)
        if event.anchor is not None:
            self.anchors[event.anchor] = Scalar(line, event.value)
        return event.value, event.value == "<<" and event.style is None


def _merged(value: Node) -> list[Mapping]:
    """What `<<` brings in: one mapping or a list of them, the earlier one winning."""
    sources = value.items if isinstance(value, Sequence) else [value]
    found = [source for source in sources if isinstance(source, Mapping)]
    if len(found) != len(sources):
        raise YamlRefusedError(value.line, "`<<` takes a mapping, or a list of mappings")
    return found


def _refuse_tag(event: Any, line: int) -> None:  # noqa: ANN401  ruamel's events are untyped
    tag = event.tag
    if tag not in (None, "!") and tag not in _PLAIN_TAGS:
        shown = render_value(tag.replace(_CORE, "!!"))
        raise YamlRefusedError(line, f"the tag {shown} is not allowed; write the value without it")


def _line(event: Any) -> int:  # noqa: ANN401
    return int(event.start_mark.line) + 1
