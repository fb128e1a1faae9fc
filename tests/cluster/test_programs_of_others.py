"""docs/workflows.md as it stands: programs from PyPI that submit jobs, each by its own backend.

The image gets them with all that they need, in the versions of tests/data/programs_of_others.txt.
An image with five programs, and jobs that emulated nodes need minutes for: long runs only.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from pages import COMMAND_S, DOCS, blocks, commands, program, run_commands

pytestmark = [pytest.mark.slurm, pytest.mark.long]

PAGE = (DOCS / "workflows.md").read_text()
PINNED = Path(__file__).parents[1] / "data" / "programs_of_others.txt"
PROGRAMS = ("Dask", "Parsl", "submitit", "Snakemake", "ReFrame")
LOST = """\
import os, subprocess, time
import submitit
job = submitit.AutoExecutor(folder="lost-%j").submit(os._exit, 3)
while subprocess.check_output(["squeue", "--noheader"]):
    time.sleep(1)
print(job.done(force_check=True), job.state)
"""


def section_of(title: str) -> str:
    [found] = [one for one in re.split(r"^## ", PAGE, flags=re.MULTILINE) if one.startswith(title)]
    return found


class Cluster:
    """The cluster of the page, in the directory of its user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"

    def follow(self, title: str) -> None:
        run_commands(list(commands(section_of(title))), self.directory, self.state_dir)

    def ssh(self, line: str, stdin: str = "") -> str:
        """What a command line prints on the controller, on either stream, whatever its end."""
        argv = [*shlex.split(program(self.state_dir)), "hpc", "ssh", "--", line]
        done = run(argv, check=False, cwd=self.directory, timeout_s=COMMAND_S, stdin=stdin)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("workflows"))
    for name, text in files_of_page().items():
        (made.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (made.directory / name).write_text(text)
    (made.directory / "requirements.txt").write_text(PINNED.read_text())
    try:
        made.follow("A cluster")
        yield made
        made.follow("The end")
    finally:
        ours = shlex.split(program(made.state_dir))
        for words in (
            ["hpc", "destroy", "--cluster", "workflows", "--force"],
            ["host", "down", "--force"],
        ):
            run([*ours, *words], check=False, timeout_s=COMMAND_S)


def files_of_page() -> dict[str, str]:
    """The files that users write, each named in the text before its block."""
    ...
