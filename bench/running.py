"""Runs our own program and measures it, in a state directory that ends with the run."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import BenchError, Results, Run

ROOT = Path(__file__).resolve().parent.parent
AI_HOW = ROOT / ".venv" / "bin" / "ai-how"
STARTS = 4
"""Of each kind, where kinds are compared."""


@dataclass(frozen=True)
class Bench:
    """A state directory of its own, and a working directory that holds the cluster file.

    `data` has a store of images of its own; without it, that is the user's.
    """

    state: Path
    work: Path
    data: Path | None = None

    def argv(self, words: str) -> list[str]:
        options = ["--state-dir", str(self.state), "--connect", "embedded"]
        return [str(AI_HOW), *options, *shlex.split(words)]

    def run(self, words: str, *, stdin: Path | None = None) -> tuple[Run, str]:
        """Run `ai-how WORDS` to its end, with a file as its input.

        Raises BenchError with its output where it fails.
        """
        kept = users_environment()
        if self.data:
            kept["XDG_DATA_HOME"] = str(self.data)
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            (stdin or Path(os.devnull)).open("rb") as given,
        ):
            began = time.monotonic()
            child = subprocess.Popen(
                self.argv(words),
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=self.work,
                env=kept,
            )
            # wait4, not Popen.wait: only it says what this one child used.
            _, status, used = os.wait4(child.pid, 0)
            wall_s = time.monotonic() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            printed = out.read()
            if child.returncode != 0:
                said = (err.read() + printed).strip()[-2000:]
                raise BenchError(f"ai-how {words}: exit code {child.returncode}\n{said}")
        return Run(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024), printed

    def clean_up(self) -> None:
        """Leave nothing: no guest, no embedded host; says what could not be ended."""
        for words in ("hpc destroy --force", "host down --force"):
            try:
                self.run(words)
            except BenchError as error:
                say(str(error))


def start_by_turns(bench: Bench, results: Results, files: Mapping[str, Path]) -> None:
    """Cold and warm starts of 1 + 2, of each kind in turn; all are restored from the same VMs."""
    for how, option in (("cold", "--no-warm"), ("warm", "")):
        if how == "warm":
            bench.run(f"image warm {next(iter(files.values()))}")
        for _ in range(STARTS):
            for kind, file in files.items():
                title = f"hpc start, {how}, 1 + 2, {kind}"
                say(f"... {title}")
                run, _ = bench.run(f"hpc start {option} {file}")
                results.runs.setdefault(title, []).append(run)
                bench.run(f"hpc destroy --force {file}")


@contextmanager
def prepared(state: Path | None) -> Iterator[Bench]:
    """A bench in fresh directories, gone afterwards (a `state` that was given stays)."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ai-how-bench-")))
        work = home / "work"
        work.mkdir()
        bench = Bench(state or home / "state", work)
        bench.run("init")
        yield bench


def users_environment() -> dict[str, str]:
    """Ours without settings of ai-how and of Python, which may compile our modules each time."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("AI_HOW_", "PYTHON"))}


def say(line: str) -> None:
    """What goes on, for whoever waits."""
    print(line, file=sys.stderr, flush=True)
