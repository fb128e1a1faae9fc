"""The shell scripts: clean by shellcheck, and script/setup tried on machines made of fake tools."""

import os
import re
import shutil
import time
import tomllib
from pathlib import Path

import pytest

from ai_how.process import Completed, get_tool, run

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "src" / "ai_how" / "images"
CANDIDATES = [
    *(ROOT / "script").iterdir(),
    *(ROOT / "script" / "ci").iterdir(),
    ROOT / ".ci" / "run",
    *(ROOT / "bench").iterdir(),
    *(ROOT / "tests" / "data").iterdir(),
    *(path for path in IMAGES.iterdir() if path.is_file()),
    *(IMAGES / "rootfs" / "usr" / "lib" / "ai-how").iterdir(),
    *(IMAGES / "of_sets").glob("*/usr/lib/ai-how/**/*"),
    *(IMAGES / "set_scripts").glob("*/install"),
    *(ROOT / "src" / "ai_how" / "hpc" / "guest_files").iterdir(),
]
SHELL = re.compile(r"#!(/usr)?/bin/(env |busybox )?(ba)?sh\b")
SCRIPTS = {
    str(path.relative_to(ROOT)): path
    for path in sorted(CANDIDATES)
    if path.is_file() and SHELL.match(path.read_text())
}


class Machine:
    """A copy of the project's set-up in a directory, on a machine whose tools are fakes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "fakes"
        self.bin.mkdir()
        (root / "script").mkdir()
        for name in ("script/setup", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, root / name)

    def fake(self, name: str, body: str) -> None:
        tool = self.bin / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)

    def has_no_python(self) -> None:
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            self.fake(name, '[ "$1" = --version ] && echo Python 3.9.2 && exit; exit 1')

    def is_set_up(self) -> None:
        """An environment as script/setup leaves it, of this very lock."""
        files = (self.root / "requirements.lock", self.root / "pyproject.toml")
        digest = run(["sha256sum"], stdin="".join(path.read_text() for path in files)).stdout
        python = self.root / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
        (self.root / ".venv" / ".stamp").write_text(digest)
        config = self.root / ".venv" / "pyvenv.cfg"
        config.write_text(f"command = python3 -m venv {self.root}/.venv\n")

    def setup(self, *arguments: str) -> Completed:
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        script = self.root / "script" / "setup"
        return run([script, *arguments], env={"PATH": path}, check=False, timeout_s=120)

    @property
    def calls(self) -> list[str]:
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path):
    """A Debian machine with every package, whose apt-get only notes how it was called."""
    made = Machine(tmp_path)
    made.fake("dpkg-query", "echo installed")
    made.fake("apt-get", f'echo "apt-get $*" >> {tmp_path}/calls')
    made.fake("sudo", f'echo "sudo $1" >> {tmp_path}/calls; exec "$@"')
    return made


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    path = SCRIPTS[script]
    # shellcheck does not know BusyBox's shell by its first line; ash is nearest to dash.
    shell = ["--shell=dash"] if "busybox" in path.read_text().partition("\n")[0] else []
    shellcheck = get_tool("shellcheck", package="shellcheck")
    argv = [shellcheck, "--severity=warning", "--format=gcc", *shell, path]
    done = run(argv, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize("script", ["script/setup", "script/test", "script/demo", "script/bench"])
def test_what_the_readme_names_can_be_run(script):
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("script/setup", 1, "script/setup: unknown argument --nonsense"),
        ("script/demo", 2, "usage: script/demo [--destroy]"),
        ("script/bench", 2, "unrecognized arguments: --nonsense"),
    ],
)
def test_a_misspelt_option_is_refused_before_anything_happens(script, code, message):
    done = run([ROOT / script, "--nonsense"], check=False, timeout_s=120)
    assert message in done.stderr
    assert done.returncode == code


def test_the_bench_refuses_a_directory_that_may_hold_clusters(tmp_path):
    (tmp_path / "hpc").mkdir()
    done = run([ROOT / "script" / "bench", "--state-dir", tmp_path], check=False, timeout_s=120)
    assert f"{tmp_path} is not empty" in done.stderr
    assert done.returncode == 2


def test_setup_does_nothing_where_everything_is_there(machine):
    machine.is_set_up()
    machine.has_no_python()
    began = time.monotonic()
    done = machine.setup("--dev")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls == []
    assert time.monotonic() - began < 60


def test_setup_installs_only_the_packages_that_are_missing(machine):
    machine.is_set_up()
    machine.fake("dpkg-query", 'case "$*" in *mmdebstrap|*zstd) exit 1 ;; esac; echo installed')
    machine.fake("id", "echo 0")
    done = machine.setup()
    assert done.stderr == "==> Installing Debian packages: mmdebstrap zstd\n"
    assert machine.calls[0] == "apt-get update -qq"
    assert machine.calls[1].startswith("apt-get install ")
    assert "--no-install-recommends" in machine.calls[1]
    assert machine.calls[1].endswith(" mmdebstrap zstd")
    assert done.returncode == 0


def test_setup_uses_sudo_where_not_root(machine):
    machine.is_set_up()
    machine.fake("dpkg-query", 'case "$*" in *zstd) exit 1 ;; esac; echo installed')
    machine.fake("id", "echo 1000")
    assert machine.setup().returncode == 0
    assert [call for call in machine.calls if call.startswith("sudo")] == [
        "sudo apt-get",
        "sudo env",
    ]


def test_setup_stops_where_apt_fails(machine):
    machine.is_set_up()
    machine.fake("dpkg-query", "exit 1")
    machine.fake("id", "echo 0")
    machine.fake("apt-get", "echo E: no mirror >&2; exit 100")
    done = machine.setup()
    assert done.stderr.endswith("E: no mirror\n")
    assert done.returncode == 100


def test_setup_says_which_python_it_needs(machine):
    machine.has_no_python()
    done = machine.setup()
    assert "no Python >= 3.11 with venv and headers found (python3 is Python 3.9.2)" in done.stderr
    assert done.returncode == 1
    assert not (machine.root / ".venv").exists()


@pytest.mark.parametrize("change", ["moved", "other lock", "broken python"])
def test_setup_renews_an_environment_that_does_not_fit(machine, change):
    machine.is_set_up()
    environment = machine.root / ".venv"
    match change:
        case "moved":
            (environment / "pyvenv.cfg").write_text("command = python3 -m venv /elsewhere/.venv\n")
        case "other lock":
            (machine.root / "requirements.lock").write_text("rich==99\n")
        case "broken python":
            (environment / "bin" / "python").write_text("#!/bin/sh\nexit 127\n")
    machine.has_no_python()
    said = machine.setup().stderr
    assert ("Installing Python packages" if change == "other lock" else "no Python >= 3.11") in said


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=~ ]", one)[0].replace(".", "-") for one in asked}
    entries = re.findall(r"^([a-z0-9-]+)==\S+(?: ; .*)? \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert names <= set(entries)
    assert len(entries) == len(re.findall(r"^[a-z]", lock, re.MULTILINE))
    assert "://" not in lock
