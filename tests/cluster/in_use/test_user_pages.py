"""The pages for trainers and authors of plugins, run as they stand, beside the cluster in use."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.process import run
from pages import COMMAND_S, DOCS, block_of, commands, program, run_commands
from real_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

TEACHING = (DOCS / "teaching.md").read_text()
PLUGINS = (DOCS / "plugins.md").read_text()


@pytest.fixture
def place(used: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The directory of a reader; the clusters of the pages are removed at the end."""
    yield tmp_path
    words = shlex.split(program(used.state_dir))
    for name in ("course-ada", "plugin"):
        argv = [*words, "hpc", "destroy", "--cluster", name, "--force"]
        run(argv, check=False, timeout_s=COMMAND_S)


def test_a_trainer_reads_what_the_commands_print(used: Cluster, place: Path) -> None:
    (place / "course.yaml").write_text(block_of(TEACHING, "version:"))
    (place / "ada.config").write_text(block_of(TEACHING, "Host course"))
    for name, start in (("exercise.sh", "#!/bin/sh\n#SBATCH"), ("reset.sh", "#!/bin/sh\nscancel")):
        (place / name).write_text(block_of(TEACHING, start))
    shown = list(commands(TEACHING))
    assert len(shown) == 17
    run_commands(shown, place, used.state_dir)
    assert not (used.paths.root.parent / "course-ada" / "state.json").exists()


def test_the_author_of_a_plugin_reads_what_the_commands_print(used: Cluster, place: Path) -> None:
    for name, start in (
        ("plugin.yaml", "version:"),
        ("plugstack.conf", "optional "),
        ("greet.c", "#include"),
        ("job_submit.lua", "function "),
        ("load.sh", "set -e"),
    ):
        (place / name).write_text(block_of(PLUGINS, start))
    shown = list(commands(PLUGINS))
    assert len(shown) == 9
    run_commands(shown, place, used.state_dir)
