"""For the unit tests: what feeds a reader thousands of examples, in a sandbox."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import Fuzz

from ledger import Points

EXAMPLES, EXAMPLES_LONG = 250, 10_000


@pytest.fixture
def fuzz(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_long: bool,
    points: Points,
    figures: dict[str, int],
) -> Iterator[Fuzz]:
    """Feeds a check its examples and counts them; the test's home and directory are the sandbox."""
    made = Fuzz(tmp_path, EXAMPLES_LONG if is_long else EXAMPLES)
    for name in ("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(made.home))
    monkeypatch.chdir(made.home)
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # what is loaded late is not an escape
    yield made
    said = f"{made.count:,} examples, the slowest {made.slowest_s:.3f} s: {made.slowest!r:.300}"
    sys.stdout.write(f"{said}\n")
    points(made.count)
    figures["fuzz examples"] += made.count
    figures["slowest example, ms"] = max(
        figures["slowest example, ms"], round(made.slowest_s * 1000)
    )
