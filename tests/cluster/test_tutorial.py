"""The page docs/tutorial.md, run as it stands, by the program that users run."""

import shlex
from pathlib import Path

import pytest

from ai_how.process import run
from pages import COMMAND_S, DOCS, block_of, commands, program, run_commands

pytestmark = pytest.mark.slurm


def test_the_page_shows_what_its_commands_print(is_long: bool, tmp_path: Path) -> None:
    page = (DOCS / "tutorial.md").read_text()
    shown = list(commands(page))
    assert [command.split()[1] for command, _ in shown] == ["validate", *["hpc"] * 9]
    if not is_long:
        pytest.skip("an image with compilers is built in some minutes: --long")
    (tmp_path / "mpi.yaml").write_text(block_of(page, "version:"))
    (tmp_path / "hello.c").write_text(block_of(page, "#include"))
    try:
        run_commands(shown, tmp_path, tmp_path / "state")
    finally:
        for words in (
            ["hpc", "destroy", "--cluster", "mpi", "--force"],
            ["host", "down", "--force"],
        ):
            ours = shlex.split(program(tmp_path / "state"))
            run([*ours, *words], check=False, timeout_s=COMMAND_S)
