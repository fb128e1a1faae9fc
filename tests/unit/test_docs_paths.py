"""Each program file that the documentation names is there."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`(?:[\w-]+ )?([\w/*.-]+\.(?:py|j2))\b")
# What the demo writes, and what users do as docs/workflows.md shows.
WRITTEN = {
    *("hello_mpi.py", "squares_dask.py", "squares_parsl.py", "squares_submitit.py"),
    *("site_settings.py", "two_nodes.py"),
}
FILES = [
    f"/{path.relative_to(ROOT)}"
    for top in ("src", "tests", "bench", "script", "stubs")
    for path in (ROOT / top).rglob("*")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = set(NAMED.findall(page.read_text()))
    lost = [name for name in named if not any(fnmatch(file, f"*/{name}") for file in FILES)]
    assert sorted(set(lost) - WRITTEN) == []


def test_there_are_files_to_look_for() -> None:
    assert len({name for page in PAGES for name in NAMED.findall(page.read_text())}) > 40
