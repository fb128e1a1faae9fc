"""Changes of a YAML file that leave each other byte of it alone (pure).

A parser that writes the file again would keep its values, but not each quote, blank and comment.
So the parser only says where things are, and the text is changed there. The caller compares the
values afterwards: where YAML is written in an unusual way, an edit may miss.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode


class UnfitYamlError(ValueError):
    """The text cannot be changed in this way; its message says why."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """The text between two offsets becomes another one."""

    start: int
    end: int
    text: str


def put_entry(text: str, key: str, lines: Iterable[str], is_same: Callable[[str], bool]) -> str:
    """A list of the top level has this entry, in place of the one of the same name or at its end.

    `lines` are those of the entry, without indentation; `is_same` is asked for the `name` of each.
    """
    root, values = _parse(text)
    value = values.get(key)
    if value is None:
        return _with_end(text) + f"{key}:\n" + _entry(lines, 0)
    if isinstance(value, SequenceNode) and value.value:
        if value.flow_style:
            raise UnfitYamlError(f"{key} is a list in one line")
        spans = _spans(text, value)
        new = _entry(lines, value.start_mark.column)
        for item, (start, end) in zip(value.value, spans, strict=True):
            if is_same(_name(item)):
                return _apply(text, _Edit(start, end, new))
        end = spans[-1][1]
        return _apply(text, _Edit(end, end, new if text[:end].endswith("\n") else f"\n{new}"))
    if not _is_empty(value):
        raise UnfitYamlError(f"{key} is not a list")
    start = _line_start(text, root[key].start_mark.index)
    end = _line_end(text, root[key].end_mark.index)
    line = _without(text, value, start, end)
    return _apply(text, _Edit(start, end, line + _entry(lines, 0)))


def remove_entry(text: str, key: str, is_same: Callable[[str], bool]) -> str:
    """A list of the top level without the entries of this name."""
    root, values = _parse(text)
    value = values.get(key)
    if not isinstance(value, SequenceNode):
        return text
    found = [item for item in value.value if is_same(_name(item))]
    if not found:
        return text
    if value.flow_style:
        raise UnfitYamlError(f"{key} is a list in one line")
    spans = _spans(text, value)
    edits = [
        _Edit(start, end, "")
        for item, (start, end) in zip(value.value, spans, strict=True)
        if is_same(_name(item))
    ]
    if len(found) == len(value.value):
        after = root[key].end_mark.index + 1
        edits.append(_Edit(after, after, " []"))
    return _apply(text, *edits)


def put_value(text: str, key: str, value: str) -> str:
    """A word of the top level, as YAML has it, instead of the former one."""
    _, values = _parse(text)
    former = values.get(key)
    if former is None:
        return _with_end(text) + f"{key}: {value}\n"
    if not isinstance(former, ScalarNode):
        raise UnfitYamlError(f"{key} is not a word")
    start, end = former.start_mark.index, former.end_mark.index
    blank = "" if start and text[start - 1] in " \t" else " "
    return _apply(text, _Edit(start, end, blank + value))


def _parse(text: str) -> tuple[dict[str, Node], dict[str, Node]]:
    """The keys and the values of the top level."""
    try:
        root = YAML(pure=True).compose(text)
    except (YAMLError, ValueError) as error:
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UnfitYamlError(f"it cannot be read: {problem}") from error
    if root is None:
        return {}, {}
    if not isinstance(root, MappingNode):
        raise UnfitYamlError("it has no fields")
    if root.flow_style:
        raise UnfitYamlError("it is JSON")
    pairs = [(str(key.value), key, value) for key, value in root.value]
    return {name: key for name, key, _ in pairs}, {name: value for name, _, value in pairs}


def _name(item: Node) -> str:
    if not isinstance(item, MappingNode):
        return ""
    return next((str(value.value) for key, value in item.value if key.value == "name"), "")


def _spans(text: str, value: SequenceNode) -> list[tuple[int, int]]:
    """Where the entries of a list in lines of their own begin and end."""
    starts = [_line_start(text, item.start_mark.index) for item in value.value]
    ends = [*starts[1:], _line_start(text, value.end_mark.index)]
    if value.end_mark.index >= len(text.rstrip()):
        ends[-1] = len(text)
    for start in starts:
        if not text[start:].lstrip(" ").startswith("-"):
            raise UnfitYamlError("a list has its entries not in lines of their own")
    return [(start, _trimmed(text, start, end)) for start, end in zip(starts, ends, strict=True)]


def _trimmed(text: str, start: int, end: int) -> int:
    """The end without the blank lines and comments that belong to what follows."""
    lines = text[start:end].splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        end -= len(lines.pop())
    return end


def _is_empty(value: Node) -> bool:
    if isinstance(value, SequenceNode):
        return not value.value
    return isinstance(value, ScalarNode) and str(value.tag).endswith(":null")


def _without(text: str, value: Node, start: int, end: int) -> str:
    """The line of a key without its empty value; one that is not written is anywhere after it."""
    if value.start_mark.index == value.end_mark.index:
        return _with_end(text[start:end])
    before = text[start : value.start_mark.index].rstrip(" ")
    return _with_end(before + text[value.end_mark.index : end])


def _entry(lines: Iterable[str], column: int) -> str:
    first = [f"{' ' * column}- ", *([f"{' ' * column}  "] * len(tuple(lines)))]
    return "".join(f"{head}{line}\n" for head, line in zip(first, lines, strict=False))


def _line_start(text: str, offset: int) -> int:
    return text.rfind("\n", 0, offset) + 1


def _line_end(text: str, offset: int) -> int:
    found = text.find("\n", offset)
    return len(text) if found < 0 else found + 1


def _with_end(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _apply(text: str, *edits: _Edit) -> str:
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
