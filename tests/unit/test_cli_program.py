"""The program as users start it: what it loads, and how it ends where nobody can read it."""

import errno
import json
import os
import shlex
import subprocess  # noqa: TID251  it is to be seen while it runs
import sys
from pathlib import Path

import pytest

from ai_how.cli.arguments import read_command_line
from ai_how.cli.failures import as_known
from ai_how.errors import HostError
from ai_how.images.build import PROGRAMS
from ai_how.process import Completed, run
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import default_roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc

HEAVY = ("pydantic", "rich", "libvirt", "jinja2", "ruamel", "logging")
PROGRAM = shlex.join([sys.executable, "-m", "ai_how"])


@pytest.fixture
def places(tmp_path) -> dict[str, str]:
    """An environment in which nothing of the user's own is seen."""
    return {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def shell(command: str, places: dict[str, str], cwd: Path) -> Completed:
    done = run(["bash", "-c", command], env=places, cwd=cwd, check=False, timeout_s=120)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def loaded_by(words: str, places: dict[str, str], cwd: Path) -> set[str]:
    argv = [sys.executable, "-X", "importtime", "-m", "ai_how", *words.split()]
    done = run(argv, env=places, cwd=cwd)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ai_how.cli.app" in names
    return {name.partition(".")[0] for name in names}


def test_help_loads_nothing_heavy(places, tmp_path):
    assert loaded_by("--help", places, tmp_path).isdisjoint(HEAVY)


def test_validate_loads_what_it_needs_to_read_a_file_and_no_more(places, tmp_path):
    run([sys.executable, "-m", "ai_how", "init"], env=places, cwd=tmp_path)
    loaded = loaded_by("validate --offline", places, tmp_path)
    assert loaded.isdisjoint({"rich", "libvirt", "libvirt_qemu", "jinja2"})


def test_a_full_disk_under_the_output_is_told_and_ends_with_3(places, tmp_path):
    done = shell(f"{PROGRAM} schema > /dev/full", places, tmp_path)
    assert (done.returncode, done.stderr) == (
        3,
        "error: cannot write the output: No space left on device\n",
    )


def test_a_failure_keeps_its_own_code_on_a_full_disk(places, tmp_path):
    assert shell(f"{PROGRAM} --json nonsense > /dev/full", places, tmp_path).returncode == 2


@pytest.mark.parametrize("verb", ["schema", "--help", "image list --json"])
def test_a_closed_output_is_no_failure(verb, places, tmp_path):
    done = shell(f"{PROGRAM} {verb} >&-", places, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_three_may_be_closed_and_no_file_gets_their_numbers(places, tmp_path):
    done = shell(f"{PROGRAM} --log-file log image rm nope >&- 2>&- <&-", places, tmp_path)
    assert done.returncode == 3
    lines = (tmp_path / "log").read_text().splitlines()
    assert "there is no image nope" in "\n".join(lines)
    assert not any(line.startswith(("error:", "hint:")) for line in lines)


def test_a_reader_that_goes_away_ends_nothing(places, tmp_path):
    command = f"{PROGRAM} schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    assert shell(command, places, tmp_path).stdout == "{\n0\n"


def test_a_terminal_that_knows_only_ascii_ends_nothing(places, tmp_path):
    places = places | {"PYTHONIOENCODING": "ascii"}
    done = shell(f"{PROGRAM} --help", places, tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ai-how")


def test_the_installed_command_is_this_program(places, tmp_path):
    command = Path(sys.executable).with_name("ai-how")
    done = run([command, "--json", "validat"], env=places, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Did you mean 'validate'?" in json.loads(done.stdout)["error"]["brief"]


@pytest.fixture
def watched(places, tmp_path) -> str:
    """The command that watches a cluster on libvirt's test driver, of which nothing is there."""
    paths = default_roots(tmp_path / "s").cluster("demo")
    ensure_private_directory(paths.root)
    state = draft_of(read_hpc(name="demo"), storage=tmp_path / "storage").state
    write_state(paths, state.model_copy(update={"host_uri": "test:///default"}))
    return f"exec {PROGRAM} --state-dir {tmp_path}/s hpc status --cluster demo --watch"


@pytest.mark.usefixtures("watched")
def test_a_verb_that_only_looks_loads_no_templates(places, tmp_path):
    loaded = loaded_by(f"--state-dir {tmp_path}/s hpc status --cluster demo", places, tmp_path)
    assert "libvirt" in loaded
    assert "jinja2" not in loaded


def test_watching_ends_when_nobody_reads_any_more(watched, places, tmp_path):
    done = shell(f"({watched}) | head -n 3; echo ${{PIPESTATUS[0]}}", places, tmp_path)
    first, *lines = done.stdout.splitlines()
    assert first.startswith("demo: not ready, on test:///default")
    assert (len(lines), lines[-1], done.stderr) == (3, "0", "")


def test_watching_ends_with_its_terminal(watched, places, tmp_path):
    """No signal comes to one that the terminal does not count as its own, as under setsid."""
    ours, its = os.openpty()
    with subprocess.Popen(  # noqa: S603
        ["setsid", "bash", "-c", watched],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env={**os.environ, **places},
        cwd=tmp_path,
    ) as child:
        try:
            os.close(its)
            assert os.read(ours, 1)
            os.close(ours)
            assert child.wait(60) == 0
        finally:
            child.kill()


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_ends_it_with_130_and_takes_its_children_along(name, places, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    # Two seconds, so that whoever started it has noted that it runs.
    ending = f"echo $$ > {tmp_path}/child; sleep 2; kill -{name} $PPID; exec sleep 60"
    for tool in (*(program for program, _ in PROGRAMS), "unshare"):
        (tools / tool).write_text(f"#!/bin/sh\n{ending}\n")
        (tools / tool).chmod(0o755)
    places = places | {"PATH": f"{tools}:{os.environ['PATH']}"}
    argv = [sys.executable, "-m", "ai_how", "image", "build"]
    done = run(["env", f"PATH={places['PATH']}", *argv], env=places, check=False, timeout_s=120)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    child = int((tmp_path / "child").read_text())
    assert not Path(f"/proc/{child}").exists()
    assert not list((tmp_path / "data").rglob(".part-*"))


def test_a_directory_that_was_removed_is_told(tmp_path):
    gone = tmp_path / "gone"
    words = [sys.executable, "-m", "ai_how", "hpc", "run", "--", "true"]
    line = f"mkdir {gone} && cd {gone} && rmdir {gone} && exec {shlex.join(words)}"
    ended = run(["sh", "-c", line], check=False)
    assert ended.returncode == 3
    assert ended.stderr == (
        "error: the current directory has been removed\nhint: cd  # and repeat it\n"
    )


def test_a_full_disk_is_no_bug_though_the_system_names_no_file():
    error = as_known(OSError(errno.ENOSPC, "No space left on device"), read_command_line([]))
    assert isinstance(error, HostError)
    assert error.brief == "a file cannot be written: No space left on device"
