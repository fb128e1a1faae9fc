"""Clients whose node, disk, connection or cluster goes away under them, on a real cluster."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ai_how.process import Completed, Daemon, child_environment, run, start_daemon
from ai_how.waiting import Deadline, wait_until
from daemons import qemus_of
from real_cluster import START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

JOB_S = 900
# Until a file is there: it goes on over the loss of whatever it runs on.
WAITING = 'echo begun; until [ -e "$HOME/go-on" ]; do sleep 1; done; echo over > made; exit 5'
FILL = "fallocate -l $(($(df --output=avail -B1 /home | tail -1) - {left})) /home/filler"
# A program of the API, and a test of the plugin, that are killed while they wait.
API = """\
import ai_how, sys, threading
cluster = ai_how.Cluster.from_file(sys.argv[1], state_dir=sys.argv[2])
node = cluster.nodes["compute-02"]
threading.Thread(target=node.run, args=("echo > /tmp/api-begun; sleep 86421",)).start()
node.exec("echo > /run/api-begun; sleep 86420")
"""
# A task that waits for ever.
SLOW = """\
- hosts: {node}
  become: true
  gather_facts: false
  tasks:
    - name: wait
      ansible.builtin.command: sh -c 'touch /run/task-begun; exec sleep 86422'
"""


class Client:
    """One of our programs in the background, in a session and a directory of its own."""

    def __init__(self, used: Cluster, place: Path, name: str, *words: str) -> None:
        self.log = place / f"{name}.log"
        self.here = place / name
        self.here.mkdir(exist_ok=True)
        argv = [*used.argv, "-c", str(used.file), "hpc", *words]
        self.child: Daemon = start_daemon(["env", "-C", self.here, *argv], log=self.log)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ends(self) -> tuple[int, str]:
        return self.child.wait(JOB_S), self.said

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in self.said or self.child.poll() is not None, text)
        assert text in self.said, self.said


@contextmanager
def started(used: Cluster, place: Path, name: str, *words: str) -> Iterator[Client]:
    client = Client(used, place, name, *words)
    try:
        yield client
    finally:
        if client.child.poll() is None:
            client.child.kill()
        client.child.wait()


def wait_for(condition, what: str) -> None:
    wait_until(condition, Deadline.after(JOB_S), what)


def again(used: Cluster, place: Path, name: str, *words: str) -> Completed:
    argv = [*used.argv, "-c", str(used.file), "hpc", *words]
    return run(argv, check=False, timeout_s=JOB_S, cwd=place / name)


def job_of(client: Client) -> str:
    return client.said.rpartition("--attach ")[2].split()[0]


def ours(used: Cluster) -> list[str]:
    """The processes of this host that speak to its nodes: ssh, its way in, rsync, scp, forward."""
    supervisor = used.host.find_supervisor()
    inside = Path(f"/proc/{supervisor.pid}/ns/net").readlink() if supervisor else None
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            is_inside = (place / "ns" / "net").readlink() == inside
        except OSError:
            continue
        is_way = is_inside and ("ai_how.host.relay" in line or "ai_how.host.port_server" in line)
        if is_way or (str(used.paths.ssh_config) in line and "pytest" not in line.split()[:6]):
            found.append(line)
    return found


def in_node(used: Cluster, node: str, pattern: str) -> str:
    return used.execute(node, f"pgrep -f '{pattern}' || true").strip()


@pytest.fixture
def calm(used: Cluster) -> Iterator[Cluster]:
    """The cluster; after the test it is up, without jobs and files, and nobody speaks to it."""
    yield used
    used.start()
    line = "rm -rf /home/filler ~hpc/go-on /var/tmp/large /run/api-begun; scancel --user hpc; true"
    used.execute("controller", line)
    used.execute("compute-02", "rm -f /run/api-begun /tmp/api-begun /run/task-begun")
    wait_for(lambda: not used.ssh("controller", "squeue -h").strip(), "the end of all jobs")
    wait_for(lambda: not ours(used), "the end of all connections")


def knows_the_job(used: Cluster) -> bool:
    """Whether SLURM has it on the disk: from its former state it would begin the job again.

    The node would refuse that ("Duplicate jobid"), and SLURM drain it.
    """
    newest = "$(ls -t /home/hpc/.ai-how/job-*/out | head -1)"
    line = f"[ /var/spool/slurmctld/job_state -nt {newest} ] && sync && echo yes"
    return used.try_call("hpc", "exec", "controller", "--", "sh", "-c", line).stdout == "yes\n"


@pytest.mark.fault("J01", "the QEMU of the controller is killed under each client")
def test_each_client_says_that_the_controller_is_off(calm: Cluster, tmp_path: Path) -> None:
    calm.execute("controller", "fallocate -l 4G /var/tmp/large && chmod 644 /var/tmp/large")
    with ExitStack() as stack:

        def client(name: str, *words: str) -> Client:
            return stack.enter_context(started(calm, tmp_path, name, *words))

        job = client("run", "run", "-w", "compute-02", "--", "sh", "-c", WAITING)
        root = client("exec", "exec", "controller", "--", "sh", "-c", "echo begun; sleep 86400")
        copy = client("cp", "cp", "-q", "controller:/var/tmp/large", "large")
        port = client("forward", "forward", "0:controller:22")
        for one in (job, root):
            one.wait_for("begun")
        port.wait_for("listening")
        wait_for((copy.here / "large").exists, "the copy")
        wait_for(lambda: knows_the_job(calm), "what SLURM writes of the job that runs")
        os.kill(qemus_of(calm.host, "hpc")["controller"], signal.SIGKILL)
        code, said = root.ends()
        assert (code, "error: " in said) == (3, True), said
        code, said = job.ends()
        assert (code, "error: controller is off" in said) == (3, True), said
        number = job_of(job)
        assert f"SLURM goes on with job {number}, or begins it again" in said
        assert copy.ends()[0] != 0
        port.child.send_signal(signal.SIGINT)
        assert port.ends()[0] == 0
    wait_for(lambda: not ours(calm), "the end of all connections")
    calm.start()
    calm.ssh("controller", "touch go-on")
    done = again(calm, tmp_path, "run", "run", "--attach", number)
    assert (done.returncode, (tmp_path / "run" / "made").read_text()) == (5, "over\n"), done


@contextmanager
def provisioning(used: Cluster, place: Path, node: str) -> Iterator[Client]:
    """`hpc provision` with a task that waits on a node, once it does."""
    (place / "slow.yml").write_text(SLOW.format(node=node))
    file = used.file.with_name("of-slow.yaml")
    file.write_text(f"{used.file.read_text()}    provision: [{place / 'slow.yml'}]\n")
    begun = ("hpc", "exec", node, "--", "test", "-e", "/run/task-begun")
    try:
        with started(used, place, "provision", "provision", str(file)) as client:
            wait_for(lambda: used.try_call(*begun).returncode == 0, "the task")
            yield client
    finally:
        file.unlink()


@pytest.mark.fault("J01", "the QEMU of the job's node is killed, and a playbook runs there")
def test_a_job_whose_node_is_lost_runs_again_and_its_run_follows_it(
    calm: Cluster, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        words = ("run", "-w", "compute-01", "--", "sh", "-c", WAITING)
        job = stack.enter_context(started(calm, tmp_path, "run", *words))
        job.wait_for("begun")
        play = stack.enter_context(provisioning(calm, tmp_path, "compute-01"))
        os.kill(qemus_of(calm.host, "hpc")["compute-01"], signal.SIGKILL)
        code, said = play.ends()
        assert (code, "failed: wait on compute-01" in said) == (7, True), said
        calm.start()
        calm.ssh("controller", "touch go-on")
        code, said = job.ends()
    assert (code, "restarts: 1" in said) == (5, True), said
    assert said.count("begun") == 2, said
    assert (tmp_path / "run" / "made").read_text() == "over\n"


@pytest.mark.fault("J03", "/home is full before a run, and while its job writes")
def test_a_full_home_is_told_and_leaves_nothing(calm: Cluster, tmp_path: Path) -> None:
    here = tmp_path / "run"
    here.mkdir()
    (here / "large").write_bytes(bytes(4 << 20))
    known = calm.ssh("controller", "ls .ai-how/jobs 2>/dev/null || true")
    calm.execute("controller", FILL.format(left=0))
    done = again(calm, tmp_path, "run", "run", "--", "true")
    assert done.returncode == 3, done
    assert "No space left on device" in done.stderr
    calm.execute("controller", "rm /home/filler")
    assert calm.ssh("controller", "ls .ai-how/jobs 2>/dev/null || true") == known
    calm.execute("controller", FILL.format(left=24 << 20))
    line = "cat /dev/zero > made; : > made; rm made; echo no room left; exit 9"
    done = again(calm, tmp_path, "run", "run", "--", "sh", "-c", line)
    calm.execute("controller", "rm /home/filler")
    assert (done.returncode, done.stdout) == (9, "no room left\n"), done
    assert again(calm, tmp_path, "run", "run", "--", "true").returncode == 0


@pytest.mark.fault("J03", "/tmp of a node is full while files are copied to it")
def test_a_full_tmp_is_told_by_each_client(calm: Cluster, tmp_path: Path) -> None:
    here = tmp_path / "cp"
    here.mkdir()
    (here / "large").write_bytes(bytes(8 << 20))
    fill = FILL.replace("/home", "/tmp").format(left=0)
    calm.execute("compute-02", fill)
    try:
        done = again(calm, tmp_path, "cp", "cp", "-q", "large", "compute-02:/tmp/copied")
        assert done.returncode == 1, done
        assert "copied" in done.stderr
        done = again(calm, tmp_path, "cp", "rsync", "large", "compute-02:/tmp/copied")
        assert done.returncode == 11, done  # its words may be lost with its connection
        assert again(calm, tmp_path, "cp", "run", "--", "true").returncode == 0
    finally:
        calm.execute("compute-02", "rm -f /tmp/filler /tmp/copied")


@pytest.mark.fault("F68", "SIGKILL to cp, rsync, forward and a program of the API")
def test_a_kill_of_any_client_leaves_nothing_in_the_nodes_and_here(
    calm: Cluster, tmp_path: Path
) -> None:
    calm.execute("controller", "fallocate -l 4G /var/tmp/large && chmod 644 /var/tmp/large")
    program = tmp_path / "program.py"
    program.write_text(API)
    argv = [calm.argv[0], program, calm.file, calm.state_dir]
    with ExitStack() as stack:

        def client(name: str, *words: str) -> Client:
            return stack.enter_context(started(calm, tmp_path, name, *words))

        copy = client("cp", "cp", "-q", "controller:/var/tmp/large", "large")
        sync = client("rsync", "rsync", "controller:/var/tmp/large", "large")
        port = client("forward", "forward", "0:controller:22")
        api = start_daemon(argv, log=tmp_path / "api.log", env=child_environment(calm.env))
        port.wait_for("listening")
        wait_for((copy.here / "large").exists, "the copy")
        wait_for(lambda: list(sync.here.iterdir()), "the copy by rsync")
        begun = ("hpc", "exec", "compute-02", "--", "ls", "/run/api-begun", "/tmp/api-begun")
        wait_for(lambda: calm.try_call(*begun).returncode == 0, "the program of the API")
        for child in (copy.child, sync.child, port.child, api):
            child.kill()
            child.wait()
    wait_for(lambda: not ours(calm), "the end of all connections")
    wait_for(lambda: not in_node(calm, "controller", "[s]ftp-server|[r]sync"), "their servers")
    wait_for(lambda: not in_node(calm, "compute-02", "[s]leep 8642"), "the commands of the API")
    assert in_node(calm, "compute-02", "ai-how-exec-[0-9]") == ""


@pytest.mark.fault("F68", "SIGINT and SIGKILL to a playbook that runs")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_playbook_that_is_ended_leaves_nothing_here(
    calm: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    with provisioning(calm, tmp_path, "compute-02") as play:
        play.child.send_signal(number)
        code, said = play.ends()
    assert code == (130 if number == signal.SIGINT else -number), said
    wait_for(lambda: not ours(calm), "the end of all connections")
    assert not calm.paths.provision.exists()
    # A task goes on without its connection, as the page says.
    calm.execute("compute-02", "pkill -f '[s]leep 86422'")


@pytest.mark.fault("J01", "the cluster is destroyed by another terminal")
def test_each_client_says_that_its_cluster_was_destroyed(calm: Cluster, tmp_path: Path) -> None:
    with ExitStack() as stack:

        def client(name: str, *words: str) -> Client:
            return stack.enter_context(started(calm, tmp_path, name, *words))

        job = client("run", "run", "--", "sh", "-c", WAITING)
        root = client("exec", "exec", "compute-01", "--", "sh", "-c", "echo begun; sleep 86400")
        port = client("forward", "forward", "0:controller:22")
        for one in (job, root):
            one.wait_for("begun")
        port.wait_for("listening")
        calm.call("hpc", "destroy", "--force", timeout_s=START_S)
        code, said = job.ends()
        assert code == 3, said
        assert "error: the cluster hpc was destroyed, and job" in said or "under way" in said
        code, said = root.ends()
        assert (code, "error: " in said) == (3, True), said
        done = again(calm, tmp_path, "run", "run", "--", "true")
        assert (done.returncode, "there is no cluster hpc" in done.stderr) == (3, True), done
        port.child.send_signal(signal.SIGINT)
        assert port.ends()[0] == 0, port.said
    wait_for(lambda: not ours(calm), "the end of all connections")
    assert json.loads(calm.call("hpc", "list", "--json")) == []
