"""No line of the documentation is wider than 120 columns.

Two kinds of line cannot be wrapped and are left out: the rows of the tables in docs/internals.md
and docs/json.md, and what the tests write into docs/reliability.md.
"""

import re
from pathlib import Path

import pytest

from ledger import BEGIN, END

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 120
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
GENERATED = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_of_the_page_is_too_wide(page: Path) -> None:
    has_wide_tables = page.name in ("internals.md", "json.md")
    lines = GENERATED.sub("", page.read_text()).splitlines()
    wide = [line for line in lines if len(line) > COLUMNS]
    assert [line for line in wide if not (has_wide_tables and line.startswith("|"))] == []
