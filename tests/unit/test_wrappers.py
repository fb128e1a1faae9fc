"""`hpc wrappers`: scripts that are ours, say what they are, and pass on all words."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli

from ai_how.cli.arguments import read_command_line
from ai_how.hpc.wrappers import IN_DIRECTORY, PLAIN
from ai_how.process import get_tool, run
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import ensure_private_directory
from cluster_bench import draft_of, read_hpc

ALL = {*IN_DIRECTORY, *PLAIN}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    cli = Cli(tmp_path, monkeypatch, capsys)
    cli.write("cluster.yaml", GOOD)
    paths = cli.roots.cluster("demo")
    ensure_private_directory(paths.root)
    write_state(paths, draft_of(read_hpc(name="demo"), storage=tmp_path / "storage").state)
    return cli


def test_the_scripts_are_there_and_what_is_printed_can_be_pasted(cli: Cli) -> None:
    done = cli("hpc", "wrappers", "my bin/of it")
    assert done.code == 0, done.err
    directory = cli.home / "my bin" / "of it"
    assert {path.name for path in directory.iterdir()} == ALL
    for path in directory.iterdir():
        assert os.access(path, os.X_OK)
        assert run([get_tool("shellcheck", package="shellcheck"), path]).returncode == 0
    export = done.out.splitlines()[-1].partition(": ")[2]
    found = run(["sh", "-c", f"{export}; command -v sbatch"]).stdout.strip()
    assert found == str(directory / "sbatch")


def test_all_words_arrive_and_none_is_taken_for_an_option_of_ours(cli: Cli, tmp_path: Path) -> None:
    assert cli("hpc", "wrappers", "bin").code == 0
    told = "import sys, json; print(json.dumps(sys.argv[1:]))"
    words = ["-N2", "--json", "-v", "a b", "", "--", "$HOME", "--cluster", "x", "-c", "4"]
    for name in ALL:
        script = (cli.home / "bin" / name).read_text()
        asked = shlex.join([sys.executable, "-P", "-m", "ai_how"])
        assert asked in script
        copy = tmp_path / "copy"
        copy.write_text(script.replace(asked, shlex.join([sys.executable, "-c", told])))
        [*argv] = json.loads(run(["sh", copy, *words]).stdout)
        line = read_command_line(argv)
        assert line.state_dir == cli.roots.state
        assert not line.is_json, name
        assert not line.is_verbose
        assert line.config is None
        assert list(line.words[-len(words) - 1 :]) == [name, *words]


def test_nothing_of_the_current_directory_is_run(cli: Cli) -> None:
    assert cli("hpc", "wrappers", "bin").code == 0
    for name in ("ai_how.py", "typing.py"):
        cli.write(name, "raise SystemExit('taken over')")
    done = run([cli.home / "bin" / "squeue"], cwd=cli.home, check=False, timeout_s=60)
    assert "taken over" not in done.stdout + done.stderr


def test_what_is_of_somebody_else_is_left_alone(cli: Cli) -> None:
    (cli.home / "bin").mkdir()
    other = cli.write("bin/squeue", "#!/bin/sh\necho mine\n")
    done = cli("hpc", "wrappers", "bin")
    assert (done.code, done.err.splitlines()[0]) == (
        3,
        f"error: {other} is not of ai-how, and is left alone",
    )
    assert [path.name for path in (cli.home / "bin").iterdir()] == ["squeue"]
    other.unlink()
    assert cli("hpc", "wrappers", "bin").code == 0
    assert cli("hpc", "wrappers", "bin").code == 0, "ours are replaced"
    answer = json.loads(cli("--json", "hpc", "wrappers", "bin").out)
    assert set(answer["commands"]) == ALL


def test_a_cluster_that_was_never_started_has_none(cli: Cli) -> None:
    done = cli("hpc", "wrappers", "--cluster", "other", "bin")
    assert done.code == 3
    assert not (cli.home / "bin").exists()


def test_the_input_of_a_loop_is_left_to_it(cli: Cli, tmp_path: Path) -> None:
    """`while read job; do sbatch "$job"; done < list` submits all of them."""
    assert cli("hpc", "wrappers", "bin").code == 0
    cli.write("job.sh", "")
    asked = shlex.join([sys.executable, "-P", "-m", "ai_how"])

    def heard(name: str, *words: str) -> str:
        script = (cli.home / "bin" / name).read_text()
        copy = tmp_path / "copy"
        copy.write_text(script.replace(asked, "sh -c cat"))
        return run(["sh", copy, *words], stdin="rest", cwd=cli.home).stdout

    assert heard("sbatch", "-N", "2", "job.sh", "x") == ""
    assert heard("sbatch", "--wrap=hostname") == ""
    assert heard("sbatch", "-N", "2") == "rest", "the script itself"
    assert heard("srun", "cat") == "rest"
    for name in PLAIN:
        assert " hpc ssh -n " in (cli.home / "bin" / name).read_text()
