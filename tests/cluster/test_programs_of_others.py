"""docs/workflows.md as it stands: programs from PyPI that submit jobs, each by its own backend.

Emulated nodes need minutes for the jobs of five programs: long runs only.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.process import Completed, run
from ai_how.waiting import Deadline, wait_until
from pages import COMMAND_S, DOCS, block_of, commands, program, run_commands

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.in_order]

PAGE = (DOCS / "workflows.md").read_text()
# How the block of each file begins.
FILES = {
    "cluster.yaml": "version:",
    "squares_dask.py": "import socket\n\nimport dask\n",
    "squares_parsl.py": "import parsl\n",
    "squares_submitit.py": "import socket\n\nimport submitit\n",
    "Snakefile": "rule total:",
    "profiles/default/config.yaml": "executor: slurm",
    "site_settings.py": "site_configuration",
    "two_nodes.py": "import reframe",
}
# The programs of the page, and what they need, each in one version.
PINNED = Path(__file__).parents[1] / "data" / "programs_of_others.txt"
PROGRAMS = ("Dask", "Parsl", "submitit", "Snakemake", "ReFrame")
ASKS = """
from parsl.providers.slurm import slurm
is_by_squeue = slurm.SlurmProvider()._translate_table is slurm.squeue_translate_table
print("squeue" if is_by_squeue else "sacct")
"""
LOST = """\
import os, subprocess, time
import submitit
job = submitit.AutoExecutor(folder="lost-%j").submit(os._exit, 3)
while subprocess.check_output(["squeue", "--noheader"]):
    time.sleep(1)
print(job.done(force_check=True), job.state)
"""


class Follower:
    """A user who follows the page, in a directory with its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        for name, start in FILES.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block_of(PAGE, start))
        (directory / "requirements.txt").write_text(PINNED.read_text())

    def follow(self, title: str) -> None:
        """Run the commands of a section."""
        [text] = [
            part for part in re.split("^## ", PAGE, flags=re.MULTILINE) if part.startswith(title)
        ]
        shown = list(commands(text))
        assert shown
        run_commands(shown, self.directory, self.state_dir)

    def call(self, *words: str, stdin: str = "") -> Completed:
        argv = [*shlex.split(program(self.state_dir)), *words]
        return run(argv, check=False, cwd=self.directory, timeout_s=COMMAND_S, stdin=stdin)

    def jobs(self) -> list[str]:
        done = self.call("hpc", "ssh", "controller", "--", "squeue --noheader")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def ssh(self, line: str, stdin: str = "") -> str:
        """What a command line prints on the controller, on both streams, whatever its exit code."""
        done = self.call("hpc", "ssh", "controller", "--", line, stdin=stdin)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Follower]:
    made = Follower(tmp_path_factory.mktemp("workflows"))
    try:
        made.follow("A cluster")
        yield made
    finally:
        made.call("hpc", "destroy", "--force")
        made.call("host", "down", "--force")


@pytest.mark.parametrize("title", PROGRAMS)
def test_a_program_computes_by_jobs_and_leaves_none(user: Follower, title: str) -> None:
    user.follow(title)
    wait_until(lambda: not user.jobs(), Deadline.after(COMMAND_S), "the end of its jobs")


def test_programs_without_accounting_do_what_the_page_says(user: Follower) -> None:
    disabled = "Slurm accounting storage is disabled"
    assert disabled in user.ssh("sacct")
    # Parsl notices, submitit loses a job that ended without a result, ReFrame gives up.
    assert user.ssh("/opt/workflows/bin/python -", stdin=ASKS) == "squeue\n"
    lost = user.ssh("/opt/workflows/bin/python -", stdin=LOST)
    assert "Bypassing sacct error" in lost
    assert lost.splitlines().count("False UNKNOWN") == 1, lost
    user.ssh("sed s/squeue/slurm/ site_settings.py > by_sacct.py")
    said = user.ssh("/opt/workflows/bin/reframe -C by_sacct.py -c two_nodes.py --run")
    assert "run session stopped" in said
    assert disabled in said


def test_an_environment_in_the_home_is_there_for_all_nodes(user: Follower) -> None:
    user.follow("Changes while the cluster is up")


def test_the_page_ends_with_nothing_left(user: Follower) -> None:
    user.follow("The end")
    assert "there are no clusters" in user.call("hpc", "list").stdout
