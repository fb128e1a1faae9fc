"""What is wrong, as rows: a line for each finding, and one for its remedy (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass

from ai_how.monitoring.model import Finding
from ai_how.top.columns import Cell, Column, Tone
from ai_how.top.plain import age, plain

_TONES = {"critical": Tone.BAD, "warning": Tone.WARN}
_RANK = {"critical": 0, "warning": 1, "notice": 2}


@dataclass(frozen=True, slots=True)
class FindingRow:
    """A finding, or the line with its remedy."""

    finding: Finding
    now: float
    is_remedy: bool = False


def rows_of(findings: tuple[Finding, ...], now: float) -> Mapping[str, FindingRow]:
    """The worst first, and of these the newest."""
    rows: dict[str, FindingRow] = {}
    for one in sorted(findings, key=lambda one: (_RANK.get(one.severity, 3), -one.since)):
        key = f"{one.id} {one.subject} {one.text}"
        rows[key] = FindingRow(one, now)
        if one.remedy:
            rows[f"{key} remedy"] = FindingRow(one, now, is_remedy=True)
    return rows


def _cell(row: FindingRow) -> Cell:
    one = row.finding
    if row.is_remedy:
        return Cell(f"    → {plain(one.remedy)}")
    text = f"{plain(one.severity, 20)}: {plain(one.text)} ({age(row.now - one.since)})"
    return Cell(text, _TONES.get(one.severity))


# Not sorted anew: the rows are in their order.
FINDING_COLUMNS: tuple[Column[FindingRow], ...] = (
    Column("finding", "FINDINGS", _cell, lambda _: None, 60, 400),
)
