"""What is said: texts, tables, checks, problems, errors, JSON; and what is asked."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol, TextIO

from ai_how.console.commands import completed
from ai_how.console.error_report import ErrorReport, report_of
from ai_how.console.streams import Style, paint
from ai_how.console.text import clean, to_jsonable

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


def show_error(error: BaseException | ErrorReport, *, verbose: bool = False) -> None:
    """What failed, on stderr: the brief in red, the details indented, then what to do about it.

    `verbose` adds the causes.
    """
    report = error if isinstance(error, ErrorReport) else report_of(error)
    _write_line(paint(f"error: {clean(report.brief)}", Style.BAD, sys.stderr), sys.stderr)
    for line in _details_of(report, verbose=verbose):
        _write_line(f"  {clean(line)}", sys.stderr)
    if report.hint:
        _write_line(f"hint: {clean(report.hint)}", sys.stderr)


def show_error_json(report: ErrorReport) -> None:
    """An error as the one document on stdout: `{"error": {…}}`, which docs/json.md describes."""
    show_json({"error": _data_of(report)})


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


def _data_of(report: ErrorReport) -> dict[str, object]:
    """An error without what it was raised from, which is for people who debug."""
    told = {one.name: getattr(report, one.name) for one in fields(report) if one.name != "because"}
    return told | {"errors": [_data_of(one) for one in report.errors]}


def _details_of(report: ErrorReport, *, verbose: bool) -> Iterator[str]:
    yield from (report.details or "").splitlines()
    yield from report.notes
    if report.cause:
        yield f"cause: {report.cause}"
    # The details of a plan's error tell those of its steps already; a group has no details.
    for one in report.errors if report.details is None else ():
        yield one.brief
        yield from (f"  {line}" for line in _details_of(one, verbose=verbose))
        if one.hint:
            yield f"  hint: {one.hint}"
    if verbose and report.because is not None:
        yield f"because: {report.because.brief}"
        yield from (f"  {line}" for line in _details_of(report.because, verbose=verbose))


def _write_line(text: str, stream: TextIO) -> None:
    stream.write(f"{text}\n")
    stream.flush()
