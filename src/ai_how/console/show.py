"""Print texts, tables, checks, problems, errors and JSON; ask questions."""

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol, TextIO

from ai_how.console.commands import completed, has_json_lines
from ai_how.console.error_report import ErrorReport, report_of
from ai_how.console.streams import (
    Outlet,
    Style,
    can_redraw,
    console_of_rich,
    overflow_of,
    paint,
    shows_colours,
)
from ai_how.console.text import clean, to_jsonable

if TYPE_CHECKING:
    from ai_how.host.checks import Check

# A pipe has no width: each row stays on its line.
_WIDTH_OF_PIPE = 10_000
_NARROWEST = 30  # of wrapped text
_COLOURS_OF_LABELS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_STYLE_OF_STATUS = {
    "ok": Style.GOOD,
    "hint": Style.DIM,
    "warning": Style.WARN,
    "failure": Style.BAD,
}


class CheckLike(Protocol):
    """The interface of host.checks.Check, which need not be loaded to show it."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def found(self) -> str: ...
    @property
    def advice(self) -> str | None: ...


class ProblemLike(Protocol):
    """The interface of spec.problems.Problem; its text is `file:line: path: problem`."""

    @property
    def severity(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell with a colour; one without needs none of this."""

    text: object
    style: Style | None = None


def show_text(text: str, *, to_stderr: bool = False) -> None:
    """Print text unchanged; on a terminal without control characters."""
    stream = sys.stderr if to_stderr else sys.stdout
    _write_line(clean(text, keep_lines=True) if stream.isatty() else text, stream)


def pass_on(data: bytes, *, to_stderr: bool = False) -> None:
    """Write the output of a program of the user's as it is, at once."""
    stream = sys.stderr if to_stderr else sys.stdout
    if isinstance(stream, Outlet):
        stream.write_bytes(data)
    else:
        stream.write(data.decode(errors="replace"))


def show_line(text: str, style: Style | None = None) -> None:
    """Print one line of a message; foreign text in it is made harmless."""
    _write_line(paint(clean(completed(text)), style, sys.stdout), sys.stdout)


def show_log_line(label: str, text: str, *, number: int) -> None:
    """Print a line of a log behind its label, which on a terminal has the colour of its number.

    The text is foreign, and never completed; control characters but tabs are shown.
    """
    if label:
        colour = _COLOURS_OF_LABELS[number % len(_COLOURS_OF_LABELS)]
        label += "  "
        label = f"\x1b[{colour}m{label}\x1b[0m" if shows_colours(sys.stdout) else label
    _write_line(label + "\t".join(map(clean, text.split("\t"))), sys.stdout)


def clear_screen() -> None:
    """Clear the terminal; does nothing if the output is not one, or one that cannot be cleared."""
    if can_redraw(sys.stdout):
        sys.stdout.write("\x1b[H\x1b[2J")


def show_warning(text: str) -> None:
    """Print a warning on stderr: it stops nothing."""
    said = f"warning: {clean(completed(text))}"
    _write_line(paint(said, Style.WARN, sys.stderr), sys.stderr)


def show_note(text: str) -> None:
    """Print a line about the work on stderr: stdout is that of a program of the user's."""
    _write_line(paint(f"ai-how: {clean(completed(text))}", Style.DIM, sys.stderr), sys.stderr)


def show_json(value: object) -> None:
    """Print one JSON document on stdout, in ASCII: it has no control characters."""
    indent = None if has_json_lines() else 2
    _write_line(json.dumps(to_jsonable(value), indent=indent, allow_nan=False), sys.stdout)


def width_for_tables() -> int:
    """The maximum width of a row in characters."""
    if not sys.stdout.isatty():
        return _WIDTH_OF_PIPE
    return console_of_rich().width


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, is_cut: bool = False
) -> None:
    """Print a table; None is shown as `-`. Cells that are too wide are folded, or cut."""
    from rich.table import Table  # slow to import
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column, overflow=overflow_of(sys.stdout) if is_cut else "fold", no_wrap=is_cut
        )
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
    console_of_rich(width=width_for_tables()).print(table)


def show_wrapped(text: str, *, indent: int = 0, style: Style | None = None) -> None:
    """Print a sentence; on a terminal its lines end between words."""
    for line in _wrapped(clean(completed(text)), indent):
        _write_line(f"{'':<{indent}}{paint(line, style, sys.stdout)}", sys.stdout)


def show_fields(values: Mapping[str, object]) -> None:
    """Print the properties of an object, aligned; a list takes a line per entry."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        entries = value if isinstance(value, list | tuple) else [value]
        shown = ["-" if entry is None else clean(entry) for entry in entries]
        _write_beside(f"{name:<{width}}", width + 2, shown)


def show_checks(checks: Sequence[CheckLike]) -> None:
    """Print each check with its finding; below each that is not ok, the command to paste."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        status = str(check.status)
        word = paint(f"{status:<7}", _STYLE_OF_STATUS.get(status), sys.stdout)
        indent = _write_beside(
            f"{word}  {clean(check.name):<{width}}", width + 11, [clean(check.found)]
        )
        if check.advice and status != "ok":
            _write_line(f"{'':<{indent}}{clean(completed(check.advice))}", sys.stdout)


def show_problems(problems: Iterable[ProblemLike]) -> None:
    """Print the problems of a cluster file on stderr, a line each; editors find `file:line:`."""
    for problem in problems:
        if str(problem.severity) == "error":
            _write_line(paint(clean(problem), Style.BAD, sys.stderr), sys.stderr)
        else:
            show_warning(str(problem))


def show_error(error: BaseException | ErrorReport, *, verbose: bool = False) -> None:
    """Print an error on stderr: the brief in red, the details indented, then the hint.

    `verbose` adds the causes.
    """
    report = error if isinstance(error, ErrorReport) else report_of(error)
    _write_line(paint(f"error: {clean(report.brief)}", Style.BAD, sys.stderr), sys.stderr)
    for line in _details_of(report, verbose=verbose):
        _write_line(f"  {clean(line)}", sys.stderr)
    if report.hint:
        _write_line(f"hint: {clean(report.hint)}", sys.stderr)


def show_error_json(report: ErrorReport) -> None:
    """Print an error as the only document on stdout: `{"error": {…}}`, see docs/json.md."""
    show_json({"error": _data_of(report)})


def error_data(error: BaseException) -> dict[str, object]:
    """An error as a part of a document: what `show_error_json` has in `error`."""
    return _data_of(report_of(error))


def confirm(question: str) -> bool:
    """Ask on stderr; only `y` or `yes` is yes, and an end of input is no."""
    sys.stderr.write(f"{clean(question, keep_lines=True)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def completed_checks(checks: Iterable["Check"]) -> "tuple[Check, ...]":
    """The checks for JSON, with completed commands as in `show_checks`."""
    return tuple(replace(check, advice=_completed(check.advice)) for check in checks)


def _write_beside(title: str, indent: int, entries: Sequence[str]) -> int:
    """Write entries beside a title that is `indent` wide, or below it if that leaves no room.

    Returns the indent that they have.
    """
    room = width_for_tables() - indent
    if room < min(_NARROWEST, max(map(len, entries), default=0)):
        _write_line(title.rstrip(), sys.stdout)
        title, indent = "", 2
    for entry in entries:
        for line in _wrapped(entry, indent):
            _write_line(f"{title}  {line}" if title else f"{'':<{indent}}{line}", sys.stdout)
            title = ""
    return indent


def _wrapped(text: str, indent: int) -> list[str]:
    """The lines of a text beside an indent; words, such as paths and addresses, stay whole."""
    width = max(_NARROWEST, width_for_tables() - indent)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _completed(text: str | None) -> str | None:
    return None if text is None else completed(text)


def _data_of(report: ErrorReport) -> dict[str, object]:
    """The lines of an error without its Python causes, which are for debugging."""
    told = {one.name: getattr(report, one.name) for one in fields(report) if one.name != "because"}
    return told | {"errors": [_data_of(one) for one in report.errors]}


def _details_of(report: ErrorReport, *, verbose: bool) -> Iterator[str]:
    yield from (report.details or "").splitlines()
    yield from report.notes
    if report.cause:
        yield f"cause: {report.cause}"
    if report.remedy:
        yield f"remedy: {report.remedy}"
    # The details of a plan's error contain those of its steps already; a group has no details.
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
