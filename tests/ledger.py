"""Counts what the tests stood: faults by number, points made and held, and other figures.

A test says which fault it makes happen, and how, by `@pytest.mark.fault("F31", "SIGKILL to QEMU")`.
It counts as one point, which is held if it passes; one that goes through many says so by the
fixture `points`. `figures` adds to a named figure of the closing table.

It also keeps how each test ended. As a program: the closing table of several runs together, from
what `--ledger FILE` had each keep, and whether the suite passes. A test that boots machines and
failed is run again; where it passes then, that is what counts.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults import FAMILIES, NOT_HERE

# Faults that come once in some hundred runs are lived with, up to so many; each is to be mended.
FORGIVEN = 2
# Where more fail, something is broken, and to run them all again would take as long as the suite.
TRIED = 6

BEGIN, END = "<!-- made by the tests: begin -->", "<!-- made by the tests: end -->"


@dataclass
class Row:
    """One way in which a fault was injected: how often, and how often the promise held."""

    points: int = 0
    held: int = 0


@dataclass
class Outcome:
    """How one test ended, and what it stood."""

    ended: str = "passed"
    """`passed`, `failed` or `skipped`; a test that leaks has failed."""
    faults: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Number, how, points made, points held."""
    again: list[str] = field(default_factory=list)
    """What a second run of it has to run; nothing where it gets none."""
    evidence: str | None = None
    """The directory with what is known about its failure."""


@dataclass
class Ledger:
    """One run of the tests."""

    tests: dict[str, Outcome] = field(default_factory=lambda: defaultdict(Outcome))
    figures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    repeated: dict[str, Outcome] = field(default_factory=dict)
    """How the tests ended at first that were run again."""
    troubles: list[str] = field(default_factory=list)
    """Why no second run can save this one."""

    def add(self, test: str, number: str, how: str, points: int, held: int) -> None:
        self.tests[test].faults.append((number, how, points, held))

    @property
    def rows(self) -> dict[tuple[str, str], Row]:
        """The points of all tests, by fault and way."""
        rows: dict[tuple[str, str], Row] = defaultdict(Row)
        for outcome in self.tests.values():
            for number, how, points, held in outcome.faults:
                rows[number, how].points += points
                rows[number, how].held += held
        return rows

    def keep(self, file: Path, exit_code: int) -> None:
        """Write this run down, to be added to others."""
        tests = {test: asdict(outcome) for test, outcome in self.tests.items()}
        kept = {"exit_code": exit_code, "tests": tests, "figures": self.figures}
        file.write_text(json.dumps(kept))

    def add_kept(self, file: Path) -> None:
        """Add a run that was written down; figures of the same name add up."""
        kept = self._read(file)
        if kept is None:
            self.troubles.append(f"a part of the suite ended early: it has not written {file.name}")
            return
        tests, exit_code = kept["tests"], kept["exit_code"]
        has_failed = any(told["ended"] == "failed" for told in tests.values())
        if exit_code != int(has_failed):
            # Ctrl-C, files that cannot be imported, a bug of pytest's: not any one test's failure.
            self.troubles.append(f"pytest ended with exit code {exit_code} ({file.name})")
        self._add_tests(tests)
        for name, value in kept["figures"].items():
            self.figures[name] += value

    def add_second_run(self, file: Path) -> None:
        """Let a run that repeated tests say how they ended; without its word they have failed."""
        if kept := self._read(file):
            self.repeated |= {test: self.tests[test] for test in kept["tests"]}
            self._add_tests(kept["tests"])

    def to_run_again(self) -> list[list[str]]:
        """What each second run has to run: one for a test, one for all of a file that is in order.

        None where too much has failed.
        """
        runs: dict[str, list[str]] = {}
        for outcome in self.tests.values():
            if outcome.ended == "failed" and outcome.again:
                # Those of one file that is in order begin alike, and the last is the longest.
                runs[outcome.again[0]] = outcome.again
        return list(runs.values()) if len(runs) <= TRIED and not self.troubles else []

    def verdict(self) -> Iterator[str]:
        """What needed a second run, what failed, and the count: the last lines of the suite."""
        needed = self._needed_second_run()
        failed = [test for test, outcome in self.tests.items() if outcome.ended == "failed"]
        if needed:
            yield "needed a second run, each of which is a fault to be mended:"
            for test in needed:
                yield f"  {test}"
                yield f"    evidence: {self.repeated[test].evidence}"
        if len(self._findings()) > FORGIVEN:
            yield f"that is more than {FORGIVEN}, so the suite fails"
        if failed:
            yield "failed:"
        for test in failed:
            first = self.repeated.get(test, self.tests[test])
            yield f"  {test}{', also when it was run alone' if test in self.repeated else ''}"
            yield f"    evidence: {first.evidence}"
        yield from self.troubles
        ends = [outcome.ended for outcome in self.tests.values()]
        yield ", ".join(f"{ends.count(end)} {end}" for end in ("passed", "failed", "skipped"))

    @property
    def has_passed(self) -> bool:
        ends = {outcome.ended for outcome in self.tests.values()}
        within = len(self._findings()) <= FORGIVEN
        return "passed" in ends and "failed" not in ends and within and not self.troubles

    def _needed_second_run(self) -> list[str]:
        return [
            test
            for test, first in self.repeated.items()
            if first.ended == "failed" and self.tests[test].ended != "failed"
        ]

    def _findings(self) -> set[str]:
        """One for a test, one for a file that is in order: its later tests fail with the first."""
        return {self.repeated[test].again[0] for test in self._needed_second_run()}

    def _add_tests(self, tests: dict[str, dict[str, Any]]) -> None:
        self.tests |= {test: Outcome(**told) for test, told in tests.items()}

    @staticmethod
    def _read(file: Path) -> dict[str, Any] | None:
        return json.loads(file.read_text()) if file.exists() else None

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
            yield "| fault | how it is injected | times | held | date |"
            yield "|---|---|---:|---:|---|"
            for number, text in numbers.items():
                if number not in NOT_HERE:
                    yield f"| **{number}** | **{text}** | | | |"
                ways = sorted((how, row) for (one, how), row in rows.items() if one == number)
                yield from (f"| {number} | {how} | {' | '.join(row)} |" for how, row in ways)
            yield ""
        figures = {cells[0]: cells[1:] for cells in _cells(former) if len(cells) == 3}
        figures |= {name: [f"{value:,}", today] for name, value in self.figures.items()}
        yield from ("### Figures", "", "| what | how many | date |", "|---|---:|---|")
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
        """Count `made` more points, of which `held` passed (by default all)."""
        self.made = (self.made or 0) + made
        self.held = (self.held or 0) + (made if held is None else held)


def main() -> None:
    """Print the table and the verdict of runs that were kept; exit code 1 where they failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--report", type=Path, help="write the table of faults into this file")
    parser.add_argument("--to-run-again", action="store_true", help="print only that, a run a line")
    parser.add_argument("--again", type=Path, nargs="*", default=[], help="of the second runs")
    parser.add_argument("kept", type=Path, nargs="+", help="what --ledger FILE wrote")
    asked = parser.parse_args()
    ledger = Ledger()
    for file in asked.kept:
        ledger.add_kept(file)
    for file in asked.again:
        ledger.add_second_run(file)
    lines = ["\t".join(run) for run in ledger.to_run_again()]
    if not asked.to_run_again:
        lines = [*ledger.summary(), "", *ledger.verdict()]
    for line in lines:
        print(line)  # noqa: T201  a program of its own
    if asked.report:
        asked.report.write_text(ledger.renewed(asked.report.read_text()))
    sys.exit(not ledger.has_passed and not asked.to_run_again)


if __name__ == "__main__":
    main()
