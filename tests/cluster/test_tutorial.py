"""The page docs/tutorial.md, run as it stands, by the program that users run."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.process import run

pytestmark = pytest.mark.slurm

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
COMMAND_S = 1800


def blocks(text: str) -> Iterator[str]:
    """The indented blocks of a page, without their indentation."""
    for found in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE):
        yield re.sub(r"^ {4}", "", found, flags=re.MULTILINE).lstrip("\n")


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command that the page shows, with the lines that it is to print."""
    for block in blocks(text):
        if not block.startswith("$ "):
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            yield command, lines


def test_the_page_shows_what_its_commands_print(is_long: bool, tmp_path: Path) -> None:
    page = PAGE.read_text()
    shown = list(commands(page))
    assert [command.split()[1] for command, _ in shown] == ["validate", *["hpc"] * 9]
    if not is_long:
        pytest.skip("an image with compilers is built in some minutes: --long")
    [spec] = [block for block in blocks(page) if block.startswith("version:")]
    [program] = [block for block in blocks(page) if block.startswith("#include")]
    (tmp_path / "mpi.yaml").write_text(spec)
    (tmp_path / "hello.c").write_text(program)
    ours = f"{sys.executable} -m ai_how --state-dir {shlex.quote(str(tmp_path / 'state'))}"
    try:
        for command, lines in shown:
            words = command.replace("ai-how", ours, 1)
            done = run(["sh", "-c", words], check=False, timeout_s=COMMAND_S, cwd=tmp_path)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            for line in lines:
                pattern = ".*".join(map(re.escape, line.split("…")))
                assert re.search(f"^{pattern}$", done.stdout, re.MULTILINE), (line, done.stdout)
    finally:
        for words in (
            ["hpc", "destroy", "--cluster", "mpi", "--force"],
            ["host", "down", "--force"],
        ):
            run([*shlex.split(ours), *words], check=False, timeout_s=COMMAND_S)
