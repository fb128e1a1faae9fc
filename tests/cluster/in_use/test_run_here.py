"""`hpc run` on a real cluster: files, output, exit codes, and what interrupts it."""

import json
import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_how.process import Completed, Daemon, run, start_daemon
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster

pytestmark = pytest.mark.slurm

JOB_S = 600
ODD = ("a b", "ü", "new\nline", "-dash", "'quoted'", os.fsdecode(b"\xff"))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "my work"
    directory.mkdir()
    return directory


def words_of(used: Cluster, words: Sequence[str]) -> list[str]:
    return [*used.argv, "-c", str(used.file), "hpc", "run", *words]


def run_in(used: Cluster, here: Path, *words: str, stdin: str | None = None) -> Completed:
    return run(words_of(used, words), check=False, timeout_s=JOB_S, cwd=here, stdin=stdin)


def document_of(used: Cluster, here: Path, *words: str) -> dict:
    done = run_in(used, here, "--json", *words)
    return json.loads(done.stdout)


@contextmanager
def running(used: Cluster, here: Path, log: Path, *words: str) -> Iterator[Daemon]:
    """A run in the background, in a session of its own; its output is in `log`."""
    child = start_daemon(["env", "-C", here, *words_of(used, words)], log=log)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def wait_for(condition, what: str) -> None:
    wait_until(condition, Deadline.after(JOB_S), what)


def children_of(child: Daemon) -> list[int]:
    return [
        int(word)
        for file in Path(f"/proc/{child.pid}/task").glob("*/children")
        for word in file.read_text().split()
    ]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def jobs_of(used: Cluster) -> list[str]:
    return used.ssh("controller", "squeue -h -o %A").split()


def followers_of(used: Cluster) -> list[str]:
    """The processes on the controller that are the other end of a run."""
    return used.ssh("controller", "pgrep -f '^python3 -S -I' || true").split()


def fill(here: Path) -> list[str]:
    """Files of many kinds; the names of those that are not ignored."""
    for name in ODD:
        (here / name).write_text(name, errors="surrogateescape")
    (here / "tool").write_text("#!/bin/sh\necho tool ran\n")
    (here / "tool").chmod(0o755)
    (here / ".gitignore").write_text("*.log\nbuild/\n!kept.log\n")
    for name in ("lost.log", "kept.log", "build/x", "sub/deep/y", "sub/z.tmp", "empty/.git/config"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    (here / "sub" / ".gitignore").write_text("*.tmp\n")
    (here / "link").symlink_to("sub/deep/y")
    (here / "dangling").symlink_to("nowhere")
    ignored = {"lost.log", "build/x", "sub/z.tmp", "empty/.git/config"}
    names = [one.relative_to(here).as_posix() for one in here.rglob("*") if not one.is_dir()]
    return sorted(set(names) - ignored)


JOB = """\
find . ! -type d -print0 > .names; ./tool; cat link; mkdir -p made/deep; echo made > made/deep/file
ln -s deep/file made/link; echo more >> kept.log; echo lost > other.log; ln -s /etc/passwd out
"""


def test_files_are_there_results_come_back_and_only_changes_are_sent(used: Cluster, here: Path):
    names = fill(here)
    first = document_of(used, here, "--", "sh", "-c", JOB)
    links = {"link", "dangling"}
    assert first["output"] == "tool ran\nsub/deep/y", first
    assert sorted(first["sent"]) == sorted(set(names) - links)
    seen = (here / ".names").read_bytes().split(b"\0")
    there = sorted(os.fsdecode(one.removeprefix(b"./")) for one in seen if one)
    assert there == sorted([*names, ".names"])
    made = [".names", "kept.log", "made/deep/file", "made/link"]
    assert sorted(first["received"]) == made
    assert (here / "kept.log").read_text() == "kept.logmore\n"
    assert (here / "made" / "link").readlink() == Path("deep/file")
    assert not (here / "out").is_symlink(), "it leads out of the directory"
    assert not (here / "other.log").exists(), "it is ignored"
    assert (here / "lost.log").read_text() == "lost.log"
    (here / "a b").write_text("changed")
    (here / "ü").unlink()
    test = 'test ! -e ü && test "$(cat "a b")" = changed && test -e other.log'
    second = document_of(used, here, "--", "sh", "-c", test)
    assert (second["exit_code"], second["sent"], second["received"]) == (0, ["a b"], []), second


@pytest.mark.long
def test_of_2000_files_that_did_not_change_none_is_sent_again(used: Cluster, here: Path):
    for number in range(2000):
        file = here / f"{number % 20}" / f"{number}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{number}\n")
    count = ["--", "sh", "-c", "find . -type f | wc -l"]
    first = document_of(used, here, *count)
    assert (len(first["sent"]), first["output"]) == (2000, "2000\n")
    second = document_of(used, here, *count)
    assert (second["sent"], second["received"], second["output"]) == ([], [], "2000\n")


@pytest.mark.long
@pytest.mark.fault("J03", "a file that the job writes is written here as well")
def test_a_file_that_changed_here_meanwhile_is_not_overwritten(used: Cluster, here: Path):
    (here / "same").write_text("before")
    command = "cat; echo theirs > same; echo new > new; echo wrong >&2; kill -SEGV $$"
    done = run_in(used, here, "--detach", "--", "sh", "-c", command, stdin="given\n")
    assert (done.returncode, done.stderr) == (0, "")
    job = done.stdout.strip()
    (here / "same").write_text("ours, and longer")
    (here / "new").write_text("ours")
    done = run_in(used, here, "--attach", job)
    assert done.returncode == 128 + signal.SIGSEGV, done
    assert done.stdout == "given\n"
    assert done.stderr.startswith("wrong\n")
    assert f"same has changed here as well: the job's is same.job-{job}" in done.stderr
    assert [(here / name).read_text() for name in ("same", "new")] == ["ours, and longer", "ours"]
    theirs = [(here / f"{name}.job-{job}").read_text() for name in ("same", "new")]
    assert theirs == ["theirs\n", "new\n"]


@pytest.mark.long
@pytest.mark.fault("J02", "SIGINT to `hpc run` while the job writes its output")
def test_ctrl_c_cancels_the_job_and_leaves_nothing(used: Cluster, here: Path, tmp_path: Path):
    log = tmp_path / "log"
    command = ["--", "sh", "-c", "echo begun; sleep 54321"]
    with running(used, here, log, *command) as child:
        wait_for(lambda: "begun" in log.read_text(), "its output")
        ssh = children_of(child)
        assert ssh
        child.send_signal(signal.SIGINT)
        assert child.wait(JOB_S) == 130, log.read_text()
    assert "CANCELLED" in log.read_text()
    assert not any(map(is_there, ssh))
    wait_for(lambda: not jobs_of(used), "the end of the job")
    assert not followers_of(used)
    for node in ("compute-01", "compute-02"):
        assert used.ssh(node, "pgrep -f 'sleep 5432[1]' || true") == ""


@pytest.mark.long
@pytest.mark.fault("J01", "SIGKILL to `hpc run`, then to the ssh of `hpc run --attach`")
def test_a_job_outlives_its_client_and_its_connection(used: Cluster, here: Path, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    command = 'echo begun; until [ -e "$HOME/go-on" ]; do sleep 1; done; echo over > file; exit 5'
    with running(used, here, first, "--", "sh", "-c", command) as child:
        wait_for(lambda: "begun" in first.read_text(), "its output")
        ssh = children_of(child)
        child.kill()
        child.wait()
        wait_for(lambda: not any(map(is_there, ssh)), "the end of ssh")
    wait_for(lambda: not followers_of(used), "the end of its other end")
    [job] = jobs_of(used)
    with running(used, here, second, "--attach", job) as child:
        wait_for(lambda: "begun" in second.read_text(), "the output from its beginning")
        [ssh] = children_of(child)
        os.kill(ssh, signal.SIGKILL)
        assert child.wait(JOB_S) == 3
    assert f"the connection to the controller was lost; job {job} goes on" in second.read_text()
    assert f"hpc run --attach {job}" in second.read_text()
    assert jobs_of(used) == [job]
    used.ssh("controller", "touch go-on")
    done = run_in(used, here, "--attach", job)
    used.ssh("controller", "rm go-on")
    assert (done.returncode, done.stdout) == (5, "begun\n"), done
    assert (here / "file").read_text() == "over\n"
    assert run_in(used, tmp_path, "--attach", job).returncode == 5
    wait_for(lambda: not jobs_of(used), "the nodes to be done with it")


@pytest.mark.long
def test_two_directories_at_once_and_a_job_on_two_nodes(used: Cluster, here: Path, tmp_path: Path):
    other, log = tmp_path / "other", tmp_path / "log"
    other.mkdir()
    with running(used, other, log, "-N2", "--", "srun", "hostname") as child:
        done = run_in(used, here, "-J", "mine", "--", "sh", "-c", "echo $SLURM_JOB_NAME; pwd")
        assert child.wait(JOB_S) == 0, log.read_text()
    name, directory = done.stdout.splitlines()
    assert (name, Path(directory).name.startswith("my-work-")) == ("mine", True), done
    assert {"compute-01", "compute-02"} <= set(log.read_text().split())


@pytest.mark.long
def test_what_slurm_refuses_is_said_in_its_words(used: Cluster, here: Path):
    done = run_in(used, here, "-p", "nowhere", "--", "true")
    assert done.returncode == 3
    assert "error: SLURM refuses the job" in done.stderr
    assert "invalid partition specified: nowhere" in done.stderr
    done = run_in(used, here, "--attach", "987654")
    assert (done.returncode, "job 987654 is not known" in done.stderr) == (2, True), done


@pytest.mark.long
def test_the_page_for_users_has_commands_that_ran(used: Cluster, here: Path):
    """docs/run.md: each of its commands, in a directory as it describes."""
    page = Path(__file__).resolve().parents[3] / "docs" / "run.md"
    lines = [line.strip() for line in page.read_text().splitlines() if line.startswith("    $ ")]
    (here / "hello.py").write_text("import socket\nprint('hello from', socket.gethostname())\n")
    (here / "numbers.txt").write_text("3\n1\n2\n")
    job = ""
    for line in lines:
        text = line.removeprefix("$ ").replace("ai-how", shlex.join(used.argv), 1)
        text = text.replace("17", job) if "--attach 17" in text or "scancel 17" in text else text
        env = {"AI_HOW_CONFIG": str(used.file)}
        done = run(["sh", "-c", text], cwd=here, timeout_s=JOB_S, check=False, env=env)
        assert done.returncode == 0, (line, done)
        job = done.stdout.strip() if "--detach" in line else job
    assert lines
