"""Pages of the documentation that are run as they stand, by the program that users run."""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ai_how.process import run

DOCS = Path(__file__).parents[1] / "docs"
COMMAND_S = 1800


def blocks(text: str) -> Iterator[str]:
    """The indented blocks of a page, without their indentation."""
    for found in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE):
        yield re.sub(r"^ {4}", "", found, flags=re.MULTILINE).lstrip("\n")


def block_of(text: str, start: str) -> str:
    """The one block that begins with `start`."""
    [found] = [block for block in blocks(text) if block.startswith(start)]
    return found


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command that the page shows, with the lines that it is to print."""
    for block in blocks(text):
        if not block.startswith("$ "):
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            yield command, lines


def program(state_dir: Path) -> str:
    """The program with its own state directory, as a shell has it."""
    return f"{sys.executable} -m ai_how --state-dir {shlex.quote(str(state_dir))}"


def run_commands(
    shown: Sequence[tuple[str, list[str]]],
    directory: Path,
    state_dir: Path,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run each command there; each has to succeed, and to print its lines, `…` being anything."""
    for command, lines in shown:
        words = command.replace("ai-how", program(state_dir), 1)
        done = run(
            ["sh", "-c", words], check=False, timeout_s=COMMAND_S, cwd=directory, env=env or {}
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        for line in lines:
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert re.search(f"^{pattern}$", done.stdout, re.MULTILINE), (line, done.stdout)
