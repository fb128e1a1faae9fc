"""`hpc run` with its real other end, here: sbatch, scontrol and scancel are small scripts."""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ai_how.errors import GuestError, HostError, InterruptedRunError, SpecError
from ai_how.guest.frames import Link, LinkLostError
from ai_how.guest.own_files import IgnoreRules
from ai_how.hpc.guest_file import read_guest_file
from ai_how.hpc.run_directory import check_directory, directory_name, find_shared
from ai_how.hpc.run_here import (
    ERRORS,
    OUTPUT,
    Ended,
    Job,
    Sink,
    _Run,
    carried_out,
)
from ai_how.process import run as run_program
from ai_how.spec.nodes import get_hpc
from ai_how.spec.reader import read_spec_text
from ai_how.waiting import Deadline, wait_until

# A job by the number of its process; `ended` tells of those that are over.
SBATCH = """\
#!/bin/sh
for word; do
  case $word in
    --output=*) out=${word#*=} ;;
    --error=*) err=${word#*=} ;;
    --refused) echo "sbatch: error: invalid option" >&2; exit 1 ;;
  esac
done
echo "$@" > "$TOOLS/options"
cat > "$TOOLS/script"
setsid sh -c 'sh "$0"; echo $? > "$TOOLS/ended-$$"' "$TOOLS/script" \\
  >> "$out" 2>> "$err" < /dev/null &
echo $!
"""
SCONTROL = """\
#!/bin/sh
job=$4
[ ! -e "$TOOLS/forgotten" ] || { echo "slurm_load_jobs error: Invalid job id specified"; exit 1; }
if [ -e "$TOOLS/cancelled" ]; then state=CANCELLED
elif [ -e "$TOOLS/lost" ]; then state=NODE_FAIL
elif [ -e "$TOOLS/ended-$job" ]; then state=COMPLETED
else state=RUNNING; fi
echo "JobId=$job JobState=$state Reason=None Restarts=0 ExitCode=0:0 NodeList=n1"
"""
SQUEUE = """\
#!/bin/sh
cat "$TOOLS/queue"
"""
SCANCEL = """\
#!/bin/sh
touch "$TOOLS/cancelled"
kill -TERM -- "-$1"
"""
SALLOC = """\
#!/bin/sh
while [ "$1" != -- ]; do
  case $1 in
    --chdir=*) cd "${1#*=}" ;;
    --refused) echo "salloc: error: invalid option" >&2; exit 1 ;;
  esac
  shift
done
shift
SLURM_JOB_ID=$$ "$@"
code=$?
echo $code > "$TOOLS/ended-$$"
exit $code
"""
SRUN = """\
#!/bin/sh
[ "$1 $2 $3" = "--interactive --preserve-env --pty" ] || exit 9
shift 3
exec "$@"
"""
TOOLS = {
    "sbatch": SBATCH,
    "scontrol": SCONTROL,
    "scancel": SCANCEL,
    "squeue": SQUEUE,
    "salloc": SALLOC,
    "srun": SRUN,
}

# A connection that takes its time, and loses what is on its way when it is killed.
SLOW_LINK = """
import os, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
while part := os.read(0, 1 << 16):
    time.sleep(0.3)
    child.stdin.write(part)
    child.stdin.flush()
child.stdin.close()
sys.exit(child.wait())
"""


class World:
    """A directory here, a home there, and what was heard of the jobs."""

    def __init__(self, tmp_path: Path) -> None:
        self.here, self.home, self.tools = (tmp_path / one for one in ("here", "home", "tools"))
        for directory in (self.here, self.home, self.tools):
            directory.mkdir()
        for name, text in TOOLS.items():
            (self.tools / name).write_text(text)
            (self.tools / name).chmod(0o755)
        self.heard = {OUTPUT: b"", ERRORS: b""}
        self.news: list[str] = []
        self.on_output = lambda: None
        self.before: tuple[str, ...] = ()
        """What starts the program at the other end."""

    def link(self) -> Link:
        source = read_guest_file("run-here")
        python = [sys.executable, "-S", "-I", "-X", "utf8", "-c", source]
        return Link.open([*self.before, *python])

    def run(self, *command: str, **asked) -> Ended:
        job = Job(top=self.here, command=command, **asked)
        return carried_out(_Run(self.link(), job, Sink(self._hear, self.news.append)))

    def _hear(self, kind: str, part: bytes) -> None:
        self.heard[kind] += part
        self.on_output()

    @property
    def copy(self) -> Path:
        return self.home / "run" / directory_name(self.here)


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    world = World(tmp_path)
    monkeypatch.setenv("HOME", str(world.home))
    monkeypatch.setenv("TOOLS", str(world.tools))
    monkeypatch.setenv("PATH", f"{world.tools}:{os.environ['PATH']}")
    return world


def test_output_exit_code_and_results_come_back(world):
    (world.here / "a").write_text("a\n")
    (world.here / ".gitignore").write_text("*.log\n")
    (world.here / "b.log").write_text("")
    ended = world.run(
        "sh", "-c", "cat a; ls; printf '\\377' >&2; echo r > r; echo l > l.log; exit 7"
    )
    assert (ended.exit_code, ended.state) == (7, "COMPLETED")
    assert world.heard == {OUTPUT: b"a\na\n", ERRORS: b"\xff"}
    assert sorted(ended.sent) == [".gitignore", "a"]
    assert (ended.files.received, ended.files.ignored) == (["r"], ["l.log"])
    assert (world.here / "r").read_text() == "r\n"
    again = world.run("true")
    assert (again.sent, again.files.received, again.exit_code) == ([], [], 0)


def test_what_is_removed_here_is_removed_there_and_what_jobs_made_stays(world):
    (world.here / ".gitignore").write_text("made\n")
    for name in ("gone/deep/a", "kind", "turned/b"):
        (world.here / name).parent.mkdir(parents=True, exist_ok=True)
        (world.here / name).write_text(name)
    world.run("sh", "-c", "echo > made; echo > gone/made")
    (world.here / "gone" / "deep" / "a").unlink()
    (world.here / "gone" / "deep").rmdir()
    (world.here / "kind").unlink()
    (world.here / "kind").mkdir()
    (world.here / "turned" / "b").unlink()
    (world.here / "turned").rmdir()
    (world.here / "turned").symlink_to("kind")
    world.run("true")
    assert not (world.copy / "gone" / "deep").exists()
    assert (world.copy / "gone" / "made").exists()
    assert (world.copy / "made").exists()
    assert (world.copy / "kind").is_dir()
    assert (world.copy / "turned").readlink() == Path("kind")


def test_permissions_and_links_are_kept_both_ways(world):
    (world.here / "tool").write_text("#!/bin/sh\n")
    (world.here / "tool").chmod(0o555)
    (world.here / "link").symlink_to("/outside/of/it")
    ended = world.run("sh", "-c", "cp tool new; ln -s new to; ln -s ../.. out; mkfifo pipe")
    assert (world.copy / "tool").stat().st_mode & 0o777 == 0o555
    assert (world.copy / "link").readlink() == Path("/outside/of/it")
    assert (world.here / "new").stat().st_mode & 0o777 == 0o555
    assert (world.here / "to").readlink() == Path("new")
    assert ended.files.refused == ["out"]
    assert not (world.here / "pipe").exists()


def test_what_the_umask_of_the_controller_lacks_is_kept(world):
    (world.here / "shared").write_text("")
    (world.here / "shared").chmod(0o664)
    assert world.run("true").files.received == []
    assert (world.copy / "shared").stat().st_mode & 0o777 == 0o664


def test_results_of_a_directory_that_was_removed_here_meanwhile_come(world):
    (world.here / "deep").mkdir()
    ended = world.run("sh", "-c", "echo x > deep/x", follows=False)
    (world.here / "deep").rmdir()
    assert world.run(attach=ended.job).files.received == ["deep/x"]
    assert (world.here / "deep" / "x").read_text() == "x\n"


@pytest.mark.fault("J01", "the draft of a result whose run was killed, and that of one that runs")
def test_the_draft_of_a_killed_run_is_removed_by_the_next_one(world):
    killed, used = (world.here / f".ai-how-{number}.part" for number in (1, 2))
    link = world.here / ".ai-how-3.part"
    killed.write_text("half of it")
    link.symlink_to("nowhere")
    with used.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert world.run("true").sent == []
    assert [one.name for one in world.here.iterdir()] == [used.name]
    assert list(world.copy.iterdir()) == []


def test_the_last_jobs_are_kept_also_of_those_that_never_wrote_an_exit_code(world):
    jobs = world.home / ".ai-how" / "jobs"
    for number in range(1, 71):
        (jobs / str(number)).mkdir(parents=True)
        (jobs / str(number) / "about").write_text(json.dumps({"job": str(number)}))
        (world.home / ".ai-how" / f"job-{number}").symlink_to(f"jobs/{number}")
        os.utime(jobs / str(number), (number, number))
    for name, age_s in (("killed", 90_000), ("submitting", 0)):
        (jobs / name).mkdir()
        os.utime(jobs / name, (time.time() - age_s,) * 2)
    (world.tools / "queue").write_text("3 RUNNING\n5 COMPLETED\n")
    ended = world.run("true")
    [new] = [one.name for one in jobs.iterdir() if len(one.name) == 16]
    kept = {"3", *map(str, range(21, 71))}
    assert {one.name for one in jobs.iterdir()} == {*kept, "submitting", new}
    links = {one.name for one in (world.home / ".ai-how").glob("job-*")}
    assert links == {f"job-{number}" for number in (*kept, ended.job)}


def test_nothing_is_written_through_a_link_that_is_here(world, tmp_path):
    (world.here / "way").mkdir()
    ended = world.run("sh", "-c", "echo x > way/x", follows=False)
    (world.here / "way").rmdir()
    (world.here / "way").symlink_to(tmp_path)
    ended = world.run(attach=ended.job)
    assert ended.files.refused == ["way/x"]
    assert not (tmp_path / "x").exists()


def test_a_file_that_changed_here_is_kept_and_the_jobs_is_beside_it(world):
    (world.here / "same").write_text("before")
    ended = world.run("sh", "-c", "echo theirs > same; echo theirs > new", follows=False)
    (world.here / "same").write_text("ours, changed")
    (world.here / "new").write_text("ours")
    ended = world.run(attach=ended.job)
    beside = {name: f"{name}.job-{ended.job}" for name in ("same", "new")}
    assert ended.files.beside == beside
    assert (world.here / "same").read_text() == "ours, changed"
    assert (world.here / beside["same"]).read_text() == "theirs\n"


def test_a_job_of_another_directory_is_shown_and_its_files_stay_where_they_are(world, tmp_path):
    ended = world.run("sh", "-c", "echo out; echo > made", follows=False)
    world.here = tmp_path / "other"
    world.here.mkdir()
    ended = world.run(attach=ended.job)
    assert (world.heard[OUTPUT], ended.files, list(world.here.iterdir())) == (b"out\n", None, [])


def test_a_shared_directory_is_not_copied(world):
    (world.here / "a").write_text("a")
    ended = world.run("sh", "-c", "pwd; cat a", shared=world.here)
    assert world.heard[OUTPUT] == f"{world.here}\na".encode()
    assert (ended.sent, ended.files, (world.home / "run").exists()) == ([], None, False)
    assert world.run(attach=ended.job).files is None


def test_options_of_sbatch_arrive_and_ours_come_last(world):
    world.run("true", options=["-N", "2", "--comment=a b"])
    words = (world.tools / "options").read_text()
    assert words.index("-N 2 --comment=a b") < words.index("--output=")


def test_a_job_that_is_refused_leaves_nothing(world):
    with pytest.raises(GuestError, match="SLURM refuses the job\nsbatch: error: invalid option"):
        world.run("true", options=["--refused"])
    assert list((world.home / ".ai-how" / "jobs").iterdir()) == []


@pytest.mark.fault("J03", "no space is left for a file on the controller")
def test_a_file_for_which_there_is_no_room_is_named(world):
    (world.here / "large").write_bytes(bytes(1 << 22))
    world.before = ("prlimit", "--fsize=1000000")
    with pytest.raises(GuestError) as caught:
        world.run("true")
    assert caught.value.brief == "the controller could not do it"
    assert caught.value.details == f"{world.copy / 'large'}: File too large"
    assert list((world.home / ".ai-how" / "jobs").iterdir()) == []
    assert list(world.copy.iterdir()) == []


@pytest.mark.fault("J03", "the controller cannot keep anything of a job")
def test_a_controller_that_cannot_begin_says_why_in_plain_words(world):
    (world.home / ".ai-how").mkdir()
    (world.home / ".ai-how" / "jobs").write_text("")
    with pytest.raises(GuestError) as caught:
        world.run("true")
    assert caught.value.brief == "the controller could not do it"
    assert caught.value.details == f"{world.home}/.ai-how/jobs: File exists"


def test_a_job_that_nobody_knows_is_told(world):
    with pytest.raises(SpecError, match="job 4 is not known"):
        world.run(attach="4")


def test_the_exit_code_is_known_after_slurm_has_forgotten_the_job(world):
    job = world.run("sh", "-c", "echo out; kill -KILL $$").job
    (world.tools / "forgotten").touch()
    ended = world.run(attach=job)
    assert (ended.exit_code, ended.state) == (128 + signal.SIGKILL, None)
    assert world.heard[OUTPUT] == b"out\nout\n", "an attach shows it from the beginning"


def test_a_job_that_is_lost_has_no_exit_code_but_slurms_words(world):
    (world.tools / "lost").touch()
    ended = world.run("sleep", "5")
    assert (ended.exit_code, ended.state, ended.nodes) == (None, "NODE_FAIL", "n1")
    (world.tools / "lost").unlink()
    (world.tools / "cancelled").touch()


@pytest.mark.fault("J02", "one and two signals while its output is shown")
def test_the_first_signal_cancels_and_the_second_leaves(world):
    world.on_output = lambda: os.kill(os.getpid(), signal.SIGINT)
    ended = world.run("sh", "-c", "echo begun; sleep 60")
    assert (ended.was_cancelled_here, ended.state) == (True, "CANCELLED")
    assert world.news == [f"cancelling job {ended.job}; Ctrl-C does not wait for it"]
    (world.tools / "cancelled").unlink()
    (world.tools / "scancel").write_text("#!/bin/sh\n")

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    world.on_output = twice
    with pytest.raises(InterruptedRunError, match="left job"):
        world.run("sh", "-c", "echo begun; sleep 1")


@pytest.mark.fault("J01", "the connection ends before the number of the job arrives")
def test_a_job_whose_number_nobody_learned_is_cancelled(world):
    link = world.link()
    run = _Run(link, Job(top=world.here, command=["sleep", "60"]), Sink(world._hear, print))
    run._submit(IgnoreRules(world.here))
    link.receive()
    link.child.stdin.close()
    link.child.wait()
    link.close()
    assert (world.tools / "cancelled").exists()


def on_terminal(argv: Sequence[str]) -> int:
    """What the tests have for ssh on a terminal: the command itself."""
    return run_program(argv, check=False).returncode


def test_a_command_with_a_terminal_has_the_files_and_its_results_come_back(world):
    (world.here / "a").write_text("a\n")
    ended = world.run("sh", "-c", "cat a > b; exit 7", terminal=on_terminal)
    assert (ended.exit_code, ended.state, ended.job.isdecimal()) == (7, "COMPLETED", True)
    assert (ended.sent, ended.files.received) == (["a"], ["b"])
    assert (world.here / "b").read_text() == "a\n"
    assert world.news == []
    again = world.run(attach=ended.job)
    assert (again.exit_code, again.files.received) == (7, [])


def test_without_a_job_a_terminal_ends_as_salloc_and_leaves_nothing(world):
    ended = world.run("true", terminal=on_terminal, options=["--refused"])
    assert (ended.exit_code, ended.job, ended.files) == (1, "", None)
    assert list((world.home / ".ai-how" / "jobs").iterdir()) == []
    with pytest.raises(HostError, match="was lost before there was a job"):
        world.run("true", terminal=lambda _argv: 255)


@pytest.mark.fault("J01", "the connection of a terminal is lost, at first that alone")
def test_of_a_terminal_that_is_lost_the_files_come_back(world):
    def lost(argv: Sequence[str]) -> int:
        on_terminal(argv)
        return 255

    ended = world.run("sh", "-c", "echo b > b; exit 137", terminal=lost)
    assert (ended.exit_code, ended.files.received) == (None, ["b"])
    assert world.news == ["the connection to the controller was lost, and its job ended"]
    assert world.run("sh", "-c", "exit 255", terminal=lost).exit_code == 255, "its own exit code"


@pytest.mark.fault("J01", "the connection of a terminal is lost, then that of the files")
def test_the_files_of_a_lost_terminal_can_be_fetched_later(world):
    link = world.link()

    def lost(argv: Sequence[str]) -> int:
        on_terminal(argv)
        [about] = (world.home / ".ai-how" / "jobs").glob("*/about")
        told = Deadline.after(60)
        wait_until(lambda: '"job"' in about.read_text(), told, "the number of the job")
        time.sleep(0.5)  # it is written before it is sent
        link.child.kill()
        link.child.wait()
        return 255

    job = Job(top=world.here, command=["sh", "-c", "echo b > b"], terminal=lost)
    run = _Run(link, job, Sink(world._hear, print))
    with pytest.raises(LinkLostError):
        run.carry_out()
    link.close()
    assert run.ended
    ended = world.run(attach=run.ended.job)
    assert (ended.exit_code, ended.files.received) == (0, ["b"])


def test_each_directory_has_a_copy_of_its_own():
    names = [directory_name(Path(one)) for one in ("/a/my work", "/b/my work", "/", "/a/ü")]
    assert len(set(names)) == 4
    assert names[0].startswith("my-work-")
    assert all(name.isascii() and "/" not in name for name in names)


def test_the_home_directory_is_not_copied(world):
    for top in (Path("/"), world.home):
        with pytest.raises(SpecError, match="would be copied to the cluster"):
            check_directory(top)
    check_directory(world.here)


def test_a_directory_is_shared_where_all_nodes_have_it_writable(tmp_path):
    def spec(points, more=""):
        shares = [
            f"virtio_fs_mounts: [{{tag: data, host_path: {tmp_path}, mount_point: {one}{more}}}]"
            for one in points
        ]
        node = "cpu_cores: 1, memory_gb: 1, disk_gb: 10"
        text = (
            'version: "1.0"\nclusters:\n  hpc:\n    name: hpc\n'
            f"    controller: {{{node}, {shares[0]}}}\n"
            f"    compute_nodes: [{{{node}, {shares[1]}}}]\n"
        )
        file, problems = read_spec_text(text, "test.yaml", {})
        assert file, problems
        return get_hpc(file)

    top = tmp_path / "a"
    assert str(find_shared(spec(["/data", "/data"]), top)) == "/data/a"
    assert find_shared(spec(["/data", "/other"]), top) is None
    assert find_shared(spec(["/data", "/data"], ", readonly: true"), top) is None
    assert find_shared(spec(["/data", "/data"]), tmp_path.parent) is None


def test_what_nfs_keeps_of_a_removed_file_does_not_come(world):
    line = "touch .nfs000000000004002800000001 .nfs"
    ended = world.run("sh", "-c", line)
    assert ended.files.received == [".nfs"]


def test_a_detached_job_goes_on_though_its_connection_is_slow(world):
    world.before = [sys.executable, "-c", SLOW_LINK]
    job = world.run("sh", "-c", "sleep 1; exit 7", follows=False).job
    assert world.run(attach=job).exit_code == 7
    assert not (world.tools / "cancelled").exists()
