"""The list of faults and the tests agree: none is forgotten, none is counted that is not there."""

import ast
from pathlib import Path

from faults import ALL, NOT_HERE

TESTS = Path(__file__).resolve().parents[1]


def marked() -> dict[str, list[str]]:
    """The faults that tests say they make happen, and where."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                number, _how = (ast.literal_eval(argument) for argument in node.args)
                found.setdefault(number, []).append(f"{path.name}:{node.lineno}")
    return found


def test_every_fault_has_a_test_or_a_reason():
    assert sorted(set(ALL) - set(marked()) - set(NOT_HERE)) == []


def test_no_test_is_counted_for_a_fault_that_is_not_listed():
    assert {number: where for number, where in marked().items() if number not in ALL} == {}


def test_what_does_not_apply_has_no_test():
    assert sorted(set(NOT_HERE) & set(marked())) == []
