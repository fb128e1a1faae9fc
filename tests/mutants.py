"""Every small break of a module: a condition turned round, a call left out, a number off by one.

For script/mutate. Texts, annotations and docstrings are left alone: no test should hang on them.
"""

import ast
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
# From the top down to a node: the field, and the place in it where that is a list.
Way = tuple[tuple[str, int | None], ...]

OPPOSITE = SWAPPED | {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt}


@dataclass(frozen=True)
class Mutant:
    """One break: what it is in words, and the whole module with it."""

    module: str
    function: str
    line: int
    what: str
    source: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.what}"


def mutants_of(module: str, source: str, functions: Sequence[str] = ()) -> Iterator[Mutant]:
    """Every mutant of a module, or of some of its functions; no two are the same program."""
    tree = ast.parse(source)
    seen = {ast.unparse(tree)}
    for function, path in _places(tree):
        if functions and function not in functions:
            continue
        for what, broken in _breaks(_at(tree, path)):
            if isinstance(_at(tree, path), ast.Constant):
                what += f"  in  {_statement(tree, path)}"  # noqa: PLW2901  a number says little
            mutated = _replaced(tree, path, broken)
            text = ast.unparse(mutated)
            if text not in seen:
                seen.add(text)
                yield Mutant(module, function, _line(_at(tree, path)), what, text)


def _places(tree: ast.Module) -> Iterator[tuple[str, Way]]:
    """Every node that runs, with the function around it: no annotations, no texts of errors."""

    def walk(node: ast.AST, path: Way, function: str) -> Iterator[tuple[str, Way]]:
        if path:
            yield function, path
        inner = node.name if isinstance(node, ast.FunctionDef) else function
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "type_params", "decorator_list", "bases"}:
                continue
            for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    yield from walk(child, (*path, (name, at)), inner)

    yield from walk(tree, (), "")


def _at(tree: ast.AST, path: Way) -> ast.AST:
    for name, at in path:
        tree = getattr(tree, name) if at is None else getattr(tree, name)[at]
    return tree


def _statement(tree: ast.Module, path: Way) -> str:
    """The first line of the statement around a node."""
    above = (_at(tree, path[:depth]) for depth in range(len(path), 0, -1))
    inner = next(node for node in above if isinstance(node, ast.stmt))
    lines = ast.unparse(inner).splitlines()
    return _shortened(next(line for line in lines if not line.startswith("@")))


def _line(node: ast.AST) -> int:
    return next((one.lineno for one in ast.walk(node) if hasattr(one, "lineno")), 0)


def _replaced(tree: ast.Module, path: Way, broken: ast.AST | list[ast.stmt]) -> ast.Module:
    mutated = copy.deepcopy(tree)
    *above, (name, at) = path
    parent = _at(mutated, tuple(above))
    if isinstance(broken, list):
        getattr(parent, name)[at : (at or 0) + 1] = copy.deepcopy(broken)
    elif at is None:
        setattr(parent, name, copy.deepcopy(broken))
    else:
        getattr(parent, name)[at] = copy.deepcopy(broken)
    return ast.fix_missing_locations(mutated)


def _breaks(node: ast.AST) -> Iterator[tuple[str, ast.AST | list[ast.stmt]]]:
    """What can be broken at one node: in words, and what takes its place."""
    if isinstance(node, ast.stmt):
        yield from _broken_statements(node)
    elif isinstance(node, ast.expr):
        for broken in _broken_expressions(node):
            yield f"{_short(node)}  ->  {_short(broken)}", broken
    elif isinstance(node, ast.comprehension):
        for at, test in enumerate(node.ifs):
            changed = copy.deepcopy(node)
            changed.ifs[at] = _negated(test)
            yield f"if {_short(test)}  ->  if {_short(changed.ifs[at])}", changed


def _broken_statements(node: ast.stmt) -> Iterator[tuple[str, ast.AST | list[ast.stmt]]]:
    if isinstance(node, ast.If | ast.While):
        changed = copy.deepcopy(node)
        changed.test = _negated(node.test)
        yield f"{_short(node.test)}  ->  {_short(changed.test)}", changed
    elif isinstance(node, ast.With) and _is_suppress(node.items[0].context_expr):
        yield f"without {_short(node.items[0].context_expr)}", node.body
    elif isinstance(node, ast.Return) and node.value is not None:
        # To whoever asks a question, None is the answer that False is.
        if ast.unparse(node.value) not in {"None", "False"}:
            yield f"{_short(node)}  ->  return None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Continue | ast.Break):
        other = ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
        yield f"{_short(node)}  ->  {_short(other)}", other
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if ast.unparse(node).startswith("logger."):
        return  # a text, too
    if is_call or isinstance(node, ast.Raise | ast.AugAssign | ast.Delete):
        yield f"without {_short(node)}", ast.Pass()


def _broken_expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                if swapped := SWAPPED.get(type(op)):
                    changed = copy.deepcopy(node)
                    changed.ops[at] = swapped()
                    yield changed
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.BinOp(op=ast.BitOr(), right=ast.Constant(None)):
            return  # a type, for readers
        case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd(), right=right):
            if ast.unparse(left) != "os.O_RDONLY":  # which is 0
                yield right
            yield left
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            yield ast.BinOp(left, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), right)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(_negated(test), body, orelse)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        changed = copy.deepcopy(test)
        changed.ops = [OPPOSITE[type(test.ops[0])]()]
        return changed
    return ast.UnaryOp(ast.Not(), test)


def _is_suppress(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "suppress"


def _short(node: ast.AST) -> str:
    return _shortened(" ".join(ast.unparse(node).split()))


def _shortened(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:87]}..."
