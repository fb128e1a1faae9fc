"""docs/python.md as it stands, and what else programs can do with a cluster that is up."""

import asyncio
import json
import sys
import threading
import time
from pathlib import Path

import pytest

import ai_how
from ai_how.process import Completed, run
from ai_how.pytest_plugin import _RESUME
from ai_how.state.lock import held_lock
from ai_how.waiting import Deadline, wait_until
from pages import DOCS, block_of
from real_cluster import START_S, Cluster

pytestmark = pytest.mark.slurm

PAGE = (DOCS / "python.md").read_text()
COMMAND_NOT_FOUND = 127


@pytest.fixture(scope="module")
def api(used: Cluster) -> ai_how.Cluster:
    return ai_how.Cluster.from_file(used.file, state_dir=used.state_dir)


def call(used: Cluster, *argv: str | Path) -> Completed:
    """A program whose state directory is that of the cluster."""
    home = used.file.parent / "xdg"
    home.mkdir(exist_ok=True)
    if not (home / "ai-how").exists():
        (home / "ai-how").symlink_to(used.state_dir)
    env = {"XDG_STATE_HOME": str(home), "AI_HOW_NO_WARM": "1"}
    return run([sys.executable, *argv], check=False, env=env, cwd=home, timeout_s=START_S)


@pytest.mark.long
@pytest.mark.fault("F01", "an own cluster in a program, beside another one")
def test_the_program_of_the_page_prints_what_the_page_says(used: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "first.py"
    script.write_text(block_of(PAGE, "import ai_how"))
    done = call(used, script)
    assert done.stdout == block_of(PAGE, "ran on"), done.stderr
    assert [one["name"] for one in used_list(used)] == ["hpc"]


def used_list(used: Cluster) -> list[dict[str, object]]:
    return json.loads(used.call("--json", "hpc", "list"))


@pytest.mark.long
def test_the_tests_of_the_page_pass_with_the_plugin(used: Cluster, tmp_path: Path) -> None:
    tests = tmp_path / "test_page.py"
    tests.write_text(block_of(PAGE, "import pytest"))
    done = call(used, "-m", "pytest", "-p", "no:cacheprovider", "--slurm-file", used.file, tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.long
def test_a_test_that_fails_tells_what_slurm_says(used: Cluster, tmp_path: Path) -> None:
    tests = tmp_path / "test_failing.py"
    tests.write_text(
        "def test_one(slurm_cluster):\n"
        "    slurm_cluster.sbatch('#!/bin/sh\\nsleep 600', '--job-name=slow')\n"
        "    assert False\n"
        "def test_two(slurm_cluster):\n"
        "    assert slurm_cluster.run('squeue --noheader').stdout == ''\n"
    )
    done = call(used, "-m", "pytest", "-p", "no:cacheprovider", "--slurm-file", used.file, tests)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "SLURM" in done.stdout
    assert "JobName=slow" in done.stdout


def test_a_command_has_input_output_and_an_exit_code(api: ai_how.Cluster) -> None:
    done = api.run("cat; echo two >&2; exit 7", input="one\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "one\n", "two\n")
    assert api.run(["printf", "%s.", "a b", "$HOME", "'"]).stdout == "a b.$HOME.'."
    assert api.run(["no-such-program"]).returncode == COMMAND_NOT_FOUND
    with pytest.raises(ai_how.CommandFailedError) as caught:
        api.run("echo why >&2; exit 3", check=True)
    assert caught.value.result.returncode == 3
    assert caught.value.details == "why"


def test_a_command_that_takes_too_long_is_ended_on_the_node(api: ai_how.Cluster) -> None:
    with pytest.raises(ai_how.CommandTimeoutError):
        api.run(["sleep", "987"], timeout=2)
    assert api.run(["pgrep", "-f", "sleep 98[7]"]).stdout == ""


@pytest.mark.long
def test_a_job_is_waited_for_and_can_be_cancelled(api: ai_how.Cluster) -> None:
    job = api.sbatch("#!/bin/sh\necho out; echo err >&2; sleep 600", "--error=my errors.txt")
    with pytest.raises(ai_how.CommandTimeoutError):
        job.wait(timeout=3)
    assert job.state in {"RUNNING", "PENDING", "CONFIGURING"}
    job.cancel()
    result = job.wait(timeout=120)
    assert result.state == "CANCELLED"
    assert not result.is_completed
    assert job.errors.startswith("err\n")
    assert job.output == "out\n"
    api.run("rm -f 'my errors.txt' slurm-*.out", check=True)
    with pytest.raises(ai_how.GuestError, match="does not know job 999999"):
        _ = ai_how.Job(999999, api.run).state


def socket_of(api: ai_how.Cluster, node: str) -> Path:
    """Of the master of ssh by which commands on a node go."""
    with api._logins.options(f"hpc-{node}") as options:
        return Path(options[1].partition("=")[2])


def port_of(api: ai_how.Cluster) -> str:
    """Of this side of the connection by which a command goes."""
    return api.run("echo $SSH_CONNECTION", check=True).stdout.split()[1]


def test_commands_share_a_login_until_it_is_ended(api: ai_how.Cluster) -> None:
    port = port_of(api)
    assert port_of(api) == port
    api.disconnect()
    assert port_of(api) != port


@pytest.mark.long
def test_more_commands_than_a_login_takes_make_their_own(api: ai_how.Cluster) -> None:
    port = port_of(api)
    said: list[str] = []
    together = threading.Barrier(10)

    def work() -> None:
        together.wait()
        done = api.run("echo $SSH_CONNECTION; sleep 2", check=True)
        said.append(done.stdout.split()[1] + done.stderr)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(said) == 10
    assert port in said


@pytest.mark.fault("J04", "a program with a real login is killed")
def test_a_program_that_is_killed_leaves_no_login(used: Cluster) -> None:
    line = (
        "import os, sys, ai_how; one = ai_how.Cluster.from_file(sys.argv[1]); "
        "one.run('true', check=True); "
        "print(one._logins._masters['hpc-controller']._path.parent, flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    done = call(used, "-c", line, used.file)
    assert done.returncode == -9, done.stderr
    directory = done.stdout.strip()
    left = f"test ! -e {directory} && ! pgrep -f '[C]ontrolPath={directory}/'"
    wait_until(
        lambda: run(["sh", "-c", left], check=False).returncode == 0,
        Deadline.after(START_S),
        "the end of the login",
    )


@pytest.mark.long
@pytest.mark.fault("J04", "a node is reset under its login")
def test_a_node_that_was_reset_is_logged_in_to_again(api: ai_how.Cluster, used: Cluster) -> None:
    node = api.nodes["compute-02"]
    before = node.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout
    old = socket_of(api, node.name)
    reset = "echo 1 > /proc/sys/kernel/sysrq; (sleep 1; echo b > /proc/sysrq-trigger) >&- 2>&- &"
    node.exec(reset)
    time.sleep(2)  # the login is idle for less than it takes to be tried
    after = node.run("cat /proc/sys/kernel/random/boot_id").stdout
    wait_until(
        lambda: node.run("cat /proc/sys/kernel/random/boot_id").stdout not in ("", before),
        Deadline.after(START_S),
        "another boot",
        interval_s=2,
    )
    assert after != before
    assert socket_of(api, node.name) != old
    api.nodes["controller"].exec(_RESUME, timeout=START_S)
    wait_until(lambda: used.status()["is_ready"], Deadline.after(START_S), "SLURM", interval_s=2)


def test_files_and_directories_are_copied_there_and_back(
    api: ai_how.Cluster, tmp_path: Path
) -> None:
    tree = tmp_path / "a tree"
    tree.mkdir()
    (tree / "-x 'y'").write_text("text")
    api.put(tree, "copied here")
    api.get("~/copied here", tmp_path / "back")
    assert (tmp_path / "back" / "-x 'y'").read_text() == "text"
    api.run(["rm", "-r", "copied here"], check=True)


def test_the_nodes_can_be_asked_as_root_and_by_several_threads(api: ai_how.Cluster) -> None:
    assert set(api.nodes) == {"controller", "compute-01", "compute-02"}
    said: dict[str, str] = {}

    def ask(node: ai_how.Node) -> None:
        said[node.name] = node.exec("hostname; id -u").stdout + node.run(["id", "-un"]).stdout

    threads = [threading.Thread(target=ask, args=(one,)) for one in api.nodes.values()]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert said == {name: f"{name}\n0\nhpc\n" for name in api.nodes}


@pytest.mark.long
def test_a_start_in_a_thread_of_what_is_up_changes_nothing(used: Cluster) -> None:
    seen: list[ai_how.Progress] = []

    async def use() -> str:
        one = ai_how.AsyncCluster.from_file(
            used.file, state_dir=used.state_dir, on_progress=seen.append
        )
        async with one:
            jobs = [one.run(["srun", "hostname"]) for _ in range(2)]
            return "".join(done.stdout for done in await asyncio.gather(*jobs))

    assert set(asyncio.run(use()).split()) <= {"compute-01", "compute-02"}
    assert seen == []
    assert used.status()["is_ready"]


def test_another_thread_that_changes_the_cluster_is_refused(
    api: ai_how.Cluster, used: Cluster
) -> None:
    with held_lock(used.paths.lock, doing="hpc stop"), pytest.raises(ai_how.LockedError):
        api.start()
