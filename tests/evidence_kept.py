"""Keeps what is known about a test that failed, before its fixtures remove it."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost

# Keys, disks and images are not what tells why.
LEFT_OUT = {"secrets", "ssh", "storage", "images", "disks", "bases", "run"}
TOLD_BY = {".json", ".jsonl", ".log", ".txt", ".xml", ".yaml"}
MOST_FILES, MOST_BYTES = 400, 256 * 1024
# Where the helpers of the tests have the directory of a user, of clusters or of a host.
NAMES = ("state", "state_dir", "root", "directory", "host", "home")


def keep_evidence(item: pytest.Item, report: pytest.TestReport, top: Path) -> Path:
    """Write down what the test said, and copy the logs of its fixtures' directories."""
    kept = top.resolve() / re.sub(r"[^A-Za-z0-9._-]+", "-", item.nodeid)[-120:].strip("-")
    # A disk that is full must not hide the failure.
    with suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
        sections = "".join(f"\n---- {name}\n{text}" for name, text in report.sections)
        (kept / f"{report.when}.txt").write_text(
            f"{item.nodeid}\n{report.longreprtext}\n{sections}\n{_machine()}", errors="replace"
        )
        found = ((place, file) for place in _places(item) for file in _telling_files(place))
        for place, file in islice(found, MOST_FILES):
            with suppress(OSError):  # what runs on removes its files
                _copy_end(file, kept / place.name / file.relative_to(place))
    return kept


def _machine() -> str:
    """How busy the machine was."""
    lines = [f"---- machine\nload {Path('/proc/loadavg').read_text()}"]
    lines += Path("/proc/meminfo").read_text().splitlines(keepends=True)[:3]
    return "".join(lines)


def _places(item: pytest.Item) -> Iterator[Path]:
    """The directories that the test's fixtures have, themselves or one step away."""
    for value in list((getattr(item, "funcargs", None) or {}).values()):
        near = [vars(value).get(name) for name in NAMES] if hasattr(value, "__dict__") else []
        for one in (value, *near):
            path = one.paths.root.parent if isinstance(one, EmbeddedHost) else one
            if isinstance(path, Path) and path.is_dir() and len(path.parts) > 2:
                yield path


def _telling_files(place: Path) -> Iterator[Path]:
    for directory, below, names in os.walk(place):
        below[:] = [name for name in below if name not in LEFT_OUT]
        yield from (Path(directory, name) for name in names if Path(name).suffix in TOLD_BY)


def _copy_end(file: Path, target: Path) -> None:
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(opened, "rb") as source:
        seen = os.fstat(opened)
        if not stat.S_ISREG(seen.st_mode):
            return
        source.seek(max(0, seen.st_size - MOST_BYTES))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read(MOST_BYTES))
