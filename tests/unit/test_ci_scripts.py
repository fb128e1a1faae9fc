"""The steps of a CI job: action.yml fits its scripts, and they do what they say with what they get.

`ai-how` is a script that notes how it is called; tests/hosts/test_ci_steps.py has the real one.
"""

import os
import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ai_how.process import Completed, run
from ai_how.spec.reader import read_spec

ROOT = Path(__file__).resolve().parents[2]
ACTION = YAML(typ="safe").load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
SCRIPTS = ROOT / "script" / "ci"
FAKE = """\
#!/bin/sh
echo "$@" >> "$NOTES"
case $* in
  "cache key") echo 1111-2222 ;;
  "cache import bad") exit 3 ;;
  "cache export"*) echo packed > "$3" ;;
esac
"""


class Runner:
    """A directory with a fake ai-how, and the files by which steps talk to GitHub."""

    def __init__(self, top: Path) -> None:
        self.top, self.notes = top, top / "notes"
        (top / "bin").mkdir()
        (top / "bin" / "ai-how").write_text(FAKE)
        (top / "bin" / "ai-how").chmod(0o755)
        self.files = {name: top / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH")}

    def __call__(self, script: str, *words: str, on_github: bool = True) -> Completed:
        files = {name: str(path) for name, path in self.files.items()} if on_github else {}
        path = f"{self.top / 'bin'}:{os.environ['PATH']}"
        env = {"PATH": path, "NOTES": str(self.notes), **files}
        return run([SCRIPTS / script, *words], cwd=self.top, env=env, check=False, timeout_s=60)

    @property
    def calls(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_every_step_of_the_action_is_a_script_that_is_there() -> None:
    called = set()
    for step in STEPS:
        if "run" not in step:
            assert re.fullmatch(r"actions/cache/(restore|save)@v\d+", step["uses"])
            continue
        assert step["shell"] == "bash"
        script, *words = shlex.split(step["run"])
        path = ROOT / script.removeprefix("$GITHUB_ACTION_PATH/")
        assert os.access(path, os.X_OK), script
        assert [word.removeprefix("$") for word in words] == [*step.get("env", {})]
        called.add(path.name)
    assert called == {path.name for path in SCRIPTS.iterdir()}


def test_every_input_is_used_and_every_name_is_known() -> None:
    text = (ROOT / "action.yml").read_text()
    used = set(re.findall(r"\binputs\.([\w-]+)", text))
    assert used == set(ACTION["inputs"])
    told = {step["id"] for step in STEPS if "id" in step}
    assert set(re.findall(r"\bsteps\.([\w-]+)\.outputs", text)) <= told
    # What a runner expands before a shell sees it must not be part of a script.
    assert not [step for step in STEPS if "${{" in step.get("run", "")]


def test_the_page_has_the_inputs_with_their_defaults() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    for name, one in ACTION["inputs"].items():
        row = next(
            line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line
        )
        assert one["default"] in row, name


def test_a_cluster_file_is_written_or_taken_and_told(runner: Runner) -> None:
    done = runner("cluster-file.sh", "made/cluster.yaml", "3", "0.75", "")
    made = runner.top / "made" / "cluster.yaml"
    assert (done.returncode, done.stdout.strip()) == (0, str(made)), done.stderr
    spec = read_spec(made, {})
    assert spec.clusters.hpc is not None
    [group] = [spec.clusters.hpc.compute_nodes]
    assert "count=3" in repr(group)
    env = runner.files["GITHUB_ENV"].read_text().splitlines()
    assert env == [f"AI_HOW_CONFIG={made}", "AI_HOW_CONNECT=embedded"]
    given = runner.top / "my cluster.yaml"
    given.write_text("mine")
    done = runner("cluster-file.sh", "other.yaml", "3", "1", "my cluster.yaml")
    assert done.stdout.strip() == str(given)
    assert not (runner.top / "other.yaml").exists()
    assert f"file={given}" in runner.files["GITHUB_OUTPUT"].read_text()
    assert runner("cluster-file.sh", "o.yaml", "1", "1", "no.yaml/no").returncode != 0


def test_the_key_has_a_part_that_other_cpus_share(runner: Runner) -> None:
    assert runner("key.sh").stdout == "1111-2222\n"
    assert runner.files["GITHUB_OUTPUT"].read_text() == "key=1111-2222\nimages=1111\n"
    assert runner("key.sh", on_github=False).stdout == "1111-2222\n"


def test_a_job_goes_on_without_a_cache_and_with_a_bad_one(runner: Runner) -> None:
    done = runner("import.sh", "missing")
    assert (done.returncode, done.stderr, runner.calls) == (0, "no cache was restored\n", [])
    (runner.top / "good").write_text("")
    (runner.top / "bad").write_text("")
    assert runner("import.sh", "good").returncode == 0
    done = runner("import.sh", "bad")
    assert (done.returncode, done.stderr) == (0, "the cache is not used\n")
    assert runner.calls == ["cache import good", "cache import bad"]
    assert [(runner.top / name).exists() for name in ("good", "bad")] == [True, False]


def test_a_start_has_the_wrappers_on_the_path_of_later_steps(runner: Runner) -> None:
    (runner.top / "its bin").mkdir()
    assert runner("start.sh", "its bin").returncode == 0
    assert runner.calls == ["hpc start", "hpc wrappers its bin"]
    assert runner.files["GITHUB_PATH"].read_text() == f"{runner.top / 'its bin'}\n"


def test_an_export_saves_vms_first_and_replaces_the_former_file(runner: Runner) -> None:
    (runner.top / "deep").mkdir()
    (runner.top / "deep" / "f").write_text("former")
    assert runner("export.sh", "deep/f").returncode == 0
    assert runner.calls == ["image warm", "cache export deep/f"]
    assert (runner.top / "deep" / "f").read_text() == "packed\n"
