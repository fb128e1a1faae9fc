"""Counts what the tests stood: faults by number, points made and held, and other figures.

A test says which fault it makes happen, and how, by `@pytest.mark.fault("F31", "SIGKILL to QEMU")`.
It counts as one point, which is held if it passes; one that goes through many says so by the
fixture `points`. `figures` adds to a named figure of the closing table.

As a program: the closing table of several runs together, from what `--ledger FILE` had each keep.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from faults import FAMILIES, NOT_HERE

BEGIN, END = "<!-- made by the tests: begin -->", "<!-- made by the tests: end -->"


@dataclass
class Row:
    """One way in which a fault was made, and how often that was withstood."""

    points: int = 0
    held: int = 0


@dataclass
class Ledger:
    """One run of the tests."""

    rows: dict[tuple[str, str], Row] = field(default_factory=lambda: defaultdict(Row))
    figures: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, number: str, how: str, points: int, held: int) -> None:
        row = self.rows[number, how]
        row.points += points
        row.held += held

    def keep(self, file: Path) -> None:
        """Write this run down, to be added to others."""
        rows = [[*way, row.points, row.held] for way, row in self.rows.items()]
        file.write_text(json.dumps({"rows": rows, "figures": self.figures}))

    def add_kept(self, file: Path) -> None:
        """Add a run that was written down; figures of the same name add up."""
        kept = json.loads(file.read_text())
        for number, how, points, held in kept["rows"]:
            self.add(number, how, points, held)
        for name, value in kept["figures"].items():
            self.figures[name] += value

    def summary(self) -> Iterator[str]:
        """The closing table: one line a family, then the figures."""
        for family, numbers in FAMILIES.items():
            rows = [row for (number, _), row in self.rows.items() if number in numbers]
            points, held = sum(row.points for row in rows), sum(row.held for row in rows)
            wanted = [number for number in numbers if number not in NOT_HERE]
            there = len({number for number, _ in self.rows if number in numbers})
            yield f"{family:<24}{f'{held}/{points}':>14} held   {there} of {len(wanted)} faults"
        for name, value in self.figures.items():
            yield f"{name:<24}{value:>14,}"

    def renewed(self, page: str) -> str:
        """The page with what this run found; what it did not look at stays, with its own date."""
        head, _, rest = page.partition(BEGIN)
        former, _, tail = rest.partition(END)
        lines = "\n".join(self._render(former.splitlines()))
        return f"{head}{BEGIN}\n{lines}\n{END}{tail}"

    def _render(self, former: Iterable[str]) -> Iterator[str]:
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        rows = {tuple(cells[:2]): cells[2:] for cells in _cells(former) if len(cells) == 5}
        for (number, how), row in self.rows.items():
            rows[number, how] = [str(row.points), str(row.held), today]
        for family, numbers in FAMILIES.items():
            yield from (f"### {family[0].upper()}{family[1:]}", "")
            for number, text in numbers.items():
                if reason := NOT_HERE.get(number):
                    yield f"**{number}** {text}: does not apply, {reason}."
                    yield ""
            yield "| fault | how it was made | points | held | on |"
            yield "|---|---|---:|---:|---|"
            for number, text in numbers.items():
                if number not in NOT_HERE:
                    yield f"| **{number}** | **{text}** | | | |"
                ways = sorted((how, row) for (one, how), row in rows.items() if one == number)
                yield from (f"| {number} | {how} | {' | '.join(row)} |" for how, row in ways)
            yield ""
        figures = {cells[0]: cells[1:] for cells in _cells(former) if len(cells) == 3}
        figures |= {name: [f"{value:,}", today] for name, value in self.figures.items()}
        yield from ("### Figures", "", "| what | how many | on |", "|---|---:|---|")
        yield from (f"| {name} | {' | '.join(rest)} |" for name, rest in figures.items())


def _cells(lines: Iterable[str]) -> Iterator[list[str]]:
    """The cells of the lines of tables that a run has filled."""
    for line in lines:
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("| ") and cells[-1][:2] == "20":
            yield cells


@dataclass
class Points:
    """What one test has stood so far; one point where it does not say."""

    made: int | None = None
    held: int | None = None

    def __call__(self, made: int, *, held: int | None = None) -> None:
        """Count `made` more points, of which `held` (all, unless said) were withstood."""
        self.made = (self.made or 0) + made
        self.held = (self.held or 0) + (made if held is None else held)


def main() -> None:
    """Print the table of the runs that were kept; renew a page with it where one is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--report", type=Path, help="write the table of faults into this file")
    parser.add_argument("kept", type=Path, nargs="+", help="what --ledger FILE wrote")
    asked = parser.parse_args()
    ledger = Ledger()
    for file in asked.kept:
        ledger.add_kept(file)
    print("\n".join(ledger.summary()))  # noqa: T201  a program of its own
    if asked.report:
        asked.report.write_text(ledger.renewed(asked.report.read_text()))


if __name__ == "__main__":
    main()
