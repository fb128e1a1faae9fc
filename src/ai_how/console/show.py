"""What is said: texts, tables, checks, problems, errors, JSON; and what is asked."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ai_how.console.commands import completed
from ai_how.console.streams import Style, paint
from ai_how.console.text import clean, to_jsonable
from ai_how.errors import AiHowError

if TYPE_CHECKING:
    from ai_how.host.checks import Check

# A pipe has no width: each row stays on its line.
_WIDTH_OF_PIPE = 10_000
_STYLE_OF_STATUS = {
    "ok": Style.GOOD,
    "hint": Style.DIM,
    "warning": Style.WARN,
    "failure": Style.BAD,
}


class CheckLike(Protocol):
    """host.checks.Check, which need not be loaded to be shown."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def found(self) -> str: ...
    @property
    def advice(self) -> str | None: ...


class ProblemLike(Protocol):
    """spec.problems.Problem; its text is `file:line: path: problem`."""

    @property
    def severity(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell with a colour; one without needs none of this."""

    text: object
    style: Style | None = None


def show_text(text: str, *, to_stderr: bool = False) -> None:
    """Text as it is; where a terminal reads it, without what a terminal would obey."""
    stream = sys.stderr if to_stderr else sys.stdout
    _write_line(clean(text, keep_lines=True) if stream.isatty() else text, stream)


def show_line(text: str, style: Style | None = None) -> None:
    """One line of ours; what is in it from outside is made harmless."""
    _write_line(paint(clean(completed(text)), style, sys.stdout), sys.stdout)


def clear_screen() -> None:
    """Begin again at the top of the terminal; nothing where the output is not one."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J")


def show_warning(text: str) -> None:
    """Something that the user should know and that stops nothing, on stderr."""
    said = f"warning: {clean(completed(text))}"
    _write_line(paint(said, Style.WARN, sys.stderr), sys.stderr)


def show_json(value: object) -> None:
    """One JSON document on stdout, in ASCII: no terminal obeys it."""
    _write_line(json.dumps(to_jsonable(value), indent=2, allow_nan=False), sys.stdout)


def width_for_tables() -> int:
    """How many characters a row may have."""
    if not sys.stdout.isatty():
        return _WIDTH_OF_PIPE
    from rich.console import Console  # as below

    return Console(file=sys.stdout).width


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, is_cut: bool = False
) -> None:
    """Rows under headings; None is shown as `-`. What finds no room is folded, or cut."""
    from rich.console import Console  # slow to import
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="ellipsis" if is_cut else "fold", no_wrap=is_cut)
    for row in rows:
        cells = (cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
        table.add_row(
            *(
                Text(
                    "-" if cell.text is None else clean(cell.text),
                    style=cell.style.for_rich if cell.style else "",
                )
                for cell in cells
            )
        )
    Console(file=sys.stdout, width=width_for_tables(), highlight=False).print(table)


def show_fields(values: Mapping[str, object]) -> None:
    """One thing's properties, aligned; a list takes a line for each of its entries."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        entries = value if isinstance(value, list | tuple) else [value]
        for number, entry in enumerate(entries):
            shown = "-" if entry is None else clean(entry)
            _write_line(f"{'' if number else name:<{width}}  {shown}", sys.stdout)


def show_checks(checks: Sequence[CheckLike]) -> None:
    """Each check with what was found; below each that is not ok, what to paste."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        status = str(check.status)
        word = paint(f"{status:<7}", _STYLE_OF_STATUS.get(status), sys.stdout)
        _write_line(f"{word}  {clean(check.name):<{width}}  {clean(check.found)}", sys.stdout)
        if check.advice and status != "ok":
            _write_line(f"{'':<{width + 11}}{clean(completed(check.advice))}", sys.stdout)


def show_problems(problems: Iterable[ProblemLike]) -> None:
    """What is wrong with a cluster file, a line each, on stderr; editors find `file:line:`."""
    for problem in problems:
        if str(problem.severity) == "error":
            _write_line(paint(clean(problem), Style.BAD, sys.stderr), sys.stderr)
        else:
            show_warning(str(problem))


def show_error(error: BaseException, *, verbose: bool = False) -> None:
    """What failed, on stderr: the brief in red, the details indented, then what to do about it.

    `verbose` adds the causes.
    """
    _write_line(paint(f"error: {clean(brief_of(error))}", Style.BAD, sys.stderr), sys.stderr)
    for line in _details_of(error, verbose=verbose):
        _write_line(f"  {clean(completed(line))}", sys.stderr)
    if hint := getattr(error, "hint", None):
        _write_line(f"hint: {clean(completed(hint))}", sys.stderr)


def show_error_json(error: BaseException, exit_code: int) -> None:
    """An error as the one document on stdout: `{"error": {…}}`."""
    show_json({"error": error_data(error) | {"exit_code": exit_code}})


def error_data(error: BaseException) -> dict[str, Any]:
    """An error as plain data; a group holds its own errors."""
    data: dict[str, Any] = {
        "kind": type(error).__name__,
        "brief": brief_of(error),
        "details": _completed(getattr(error, "details", None)),
        "hint": _completed(getattr(error, "hint", None)),
        "notes": [completed(note) for note in getattr(error, "__notes__", [])],
    }
    if isinstance(error, BaseExceptionGroup):
        data["errors"] = [error_data(one) for one in error.exceptions]
    return data


def brief_of(error: BaseException) -> str:
    """One line: our own words, or the kind of a foreign error before its own."""
    if isinstance(error, AiHowError):
        return error.brief
    if isinstance(error, BaseExceptionGroup):
        return error.message
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def confirm(question: str) -> bool:
    """Ask on stderr; only `y` or `yes` is yes, and an end of input is no."""
    sys.stderr.write(f"{clean(question, keep_lines=True)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def completed_checks(checks: Iterable["Check"]) -> "tuple[Check, ...]":
    """Checks for JSON: their advice can be pasted as that of `show_checks` can."""
    return tuple(replace(check, advice=_completed(check.advice)) for check in checks)


def _completed(text: str | None) -> str | None:
    return None if text is None else completed(text)


def _details_of(error: BaseException, *, verbose: bool) -> Iterator[str]:
    yield from (getattr(error, "details", None) or "").splitlines()
    yield from getattr(error, "__notes__", [])
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield brief_of(one)
            yield from (f"  {line}" for line in _details_of(one, verbose=verbose))
            if hint := getattr(one, "hint", None):
                yield f"  hint: {hint}"
    cause = error.__cause__
    if verbose and cause is not None:
        yield f"because: {brief_of(cause)}"
        yield from (f"  {line}" for line in _details_of(cause, verbose=verbose))


def _write_line(text: str, stream: TextIO) -> None:
    stream.write(f"{text}\n")
    stream.flush()
