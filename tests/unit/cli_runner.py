"""The command line in the tests' own process, with places of its own."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ai_how.cli import main
from ai_how.state.paths import Roots, default_roots

GOOD = """\
version: "1.0"
clusters:
  hpc:
    name: demo
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
"""


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


class Cli:
    """Runs command lines in `home`; nothing of the user's own is seen or touched."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.home = home
        self._capsys = capsys
        for name in ("STATE", "DATA", "CACHE"):
            monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        for name in ("AI_HOW_CLUSTER", "AI_HOW_CONFIG", "AI_HOW_CONNECT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(home)

    @property
    def roots(self) -> Roots:
        return default_roots()

    def __call__(self, *words: str | Path) -> Ended:
        self._capsys.readouterr()
        with _process_as_it_was():
            code = main([str(word) for word in words])
        seen = self._capsys.readouterr()
        for text in (seen.out, seen.err):
            assert "Traceback" not in text
        return Ended(code, seen.out, seen.err)

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.write_text(text)
        return path


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    former = gc.get_threshold(), root.level, root.handlers[:]
    try:
        yield
    finally:
        gc.set_threshold(*former[0])
        root.setLevel(former[1])
        for handler in set(root.handlers).difference(former[2]):
            handler.close()
        root.handlers[:] = former[2]
