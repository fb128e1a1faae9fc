"""`${VAR}` and `${VAR:-default}` in values; `$${` stands for a literal `${`. Never in keys."""

import re
from collections.abc import Iterator, Mapping

from ai_how.spec import yaml_tree
from ai_how.spec.problems import Finding, Loc, error_at, render_value

_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{"
)
_LONGEST_VALUE = 65_536


def expand_variables(
    tree: yaml_tree.Mapping, environment: Mapping[str, str]
) -> tuple[yaml_tree.Mapping, list[Finding]]:
    """Return the tree with every variable expanded, and the errors. `tree` is not changed."""
    findings: list[Finding] = []
    return _expanded_mapping(tree, (), environment, findings), findings


def _expanded(
    node: yaml_tree.Node, loc: Loc, environment: Mapping[str, str], findings: list[Finding]
) -> yaml_tree.Node:
    if isinstance(node, yaml_tree.Mapping):
        return _expanded_mapping(node, loc, environment, findings)
    if isinstance(node, yaml_tree.Sequence):
        items = [
            _expanded(item, (*loc, index), environment, findings)
            for index, item in enumerate(node.items)
        ]
        return yaml_tree.Sequence(node.line, items)
    if node.text is None or "${" not in node.text:
        return node
    text, faults = expand_text(node.text, environment)
    findings += [error_at(fault, loc) for fault in faults]
    return yaml_tree.Scalar(node.line, text)


def _expanded_mapping(
    node: yaml_tree.Mapping, loc: Loc, environment: Mapping[str, str], findings: list[Finding]
) -> yaml_tree.Mapping:
    entries = {
        key: yaml_tree.Entry(entry.line, _expanded(entry.node, (*loc, key), environment, findings))
        for key, entry in node.entries.items()
    }
    return yaml_tree.Mapping(node.line, entries)


def expand_text(text: str, environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the text with its variables expanded, not recursively, and the errors."""
    faults: list[str] = []
    pieces = list(_pieces(text, environment, faults))
    if sum(map(len, pieces)) > _LONGEST_VALUE:
        return text, [f"the value is longer than {_LONGEST_VALUE} characters once expanded"]
    return "".join(pieces), faults


def _pieces(text: str, environment: Mapping[str, str], faults: list[str]) -> Iterator[str]:
    end = 0
    for match in _REFERENCE.finditer(text):
        yield text[end : match.start()]
        end = match.end()
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            yield "${"
        elif name is None:
            faults.append(
                f"found {render_value(text)}; a variable is written ${{NAME}} or ${{NAME:-default}}"
            )
        elif environment.get(name) or (name in environment and default is None):
            yield environment[name]
        elif default is not None:
            yield default
        else:
            faults.append(
                f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
    yield text[end:]
