"""A real SLURM cluster's whole life, by the program that users run. The order matters."""

import json
import signal
import sys
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.process import Completed, run, start_daemon
from ai_how.state.paths import find_roots
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.waiting import Deadline, wait_until
from leaks import pid_namespace, processes_in

pytestmark = pytest.mark.slurm

START_S, ASK_S = 1200, 180
NODES = ["controller", "compute-01", "compute-02", "compute-03"]
FILE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: life
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes:
      - {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
      - {cpu_cores: 1, memory_gb: 0.75, disk_gb: 10, auto_start: false}
    slurm_config: {partitions: [compute], max_job_time: "1:00:00"}
"""
SPARE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: spare
    controller: {cpu_cores: 1, memory_gb: 0.5, disk_gb: 10}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 0.5, disk_gb: 10}
"""
MPI = """\
from mpi4py import MPI
world = MPI.COMM_WORLD
rank, size, total = world.Get_rank(), world.Get_size(), world.allreduce(world.Get_rank() + 1)
print(f"rank {rank} of {size} on {MPI.Get_processor_name()} sum {total}")
"""


class Cluster:
    """The program, with its own state directory and cluster file."""

    def __init__(self, directory: Path) -> None:
        self.state_dir = directory / "state"
        self.file = directory / "cluster.yaml"
        self.file.write_text(FILE)
        self.argv = [sys.executable, "-m", "ai_how", "--state-dir", str(self.state_dir)]

    def try_call(self, *words: str, timeout_s: float = ASK_S, stdin: str = "") -> Completed:
        argv = [*self.argv, "-c", str(self.file), *words]
        return run(argv, check=False, timeout_s=timeout_s, stdin=stdin)

    def call(self, *words: str, timeout_s: float = ASK_S, stdin: str = "") -> str:
        done = self.try_call(*words, timeout_s=timeout_s, stdin=stdin)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *words: str) -> list[str]:
        """Start, and give the keys of the steps that it took."""
        done = json.loads(self.call("hpc", "start", "--json", *words, timeout_s=START_S))
        return [step["key"] for step in done["steps"]]

    def status(self) -> dict:
        return json.loads(self.call("hpc", "status", "--json"))

    def nodes(self) -> dict[str, dict]:
        return {node["name"]: node for node in self.status()["nodes"]}

    def ssh(self, node: str, command: str, stdin: str = "") -> str:
        return self.call("hpc", "ssh", node, "--", command, stdin=stdin)

    def execute(self, node: str, command: str) -> str:
        return self.call("hpc", "exec", node, "--", "sh", "-c", command)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("life"))
    made.call("image", "build", timeout_s=START_S)
    yield made
    made.try_call("hpc", "destroy", "--force")
    made.try_call("host", "down", "--force")


def test_a_start_ends_when_slurm_has_run_a_job_on_every_node(cluster):
    steps = cluster.start()
    assert steps[-1] == "ready/life"
    assert "boot/life-compute-03" not in steps  # auto_start: false
    seen = cluster.status()
    assert seen["is_ready"]
    nodes = {node["name"]: node for node in seen["nodes"]}
    assert list(nodes) == NODES
    assert [nodes[name]["state"] for name in NODES] == ["running"] * 3 + ["shut_off"]
    assert [nodes[name]["slurm"] for name in NODES[1:3]] == ["idle", "idle"]
    assert nodes["compute-03"]["slurm"].startswith("down")
    assert nodes["compute-03"]["slurm_reason"] == "auto_start is off: start compute-03"
    assert all(nodes[name]["stages_s"]["agent"] > 0 for name in NODES[:3])


def test_a_second_start_changes_nothing(cluster):
    assert cluster.start() == []


def test_jobs_and_mpi_programs_run_across_nodes(cluster):
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES[1:3]
    cluster.ssh("controller", "cat > ranks.py", stdin=MPI)
    ranks = cluster.ssh("controller", "srun -N2 --mpi=pmix python3 ranks.py").splitlines()
    assert sorted(ranks) == [
        "rank 0 of 2 on compute-01 sum 3",
        "rank 1 of 2 on compute-02 sum 3",
    ]


def test_what_a_job_writes_at_home_is_seen_everywhere(cluster):
    cluster.ssh("controller", "srun -w compute-02 sh -c 'echo written > seen.txt'")
    assert cluster.ssh("controller", "cat seen.txt") == "written\n"
    assert cluster.ssh("compute-01", "cat seen.txt") == "written\n"
    assert cluster.ssh("compute-01", "id -u; id -un").split() == ["1000", "hpc"]


def test_a_job_is_held_to_its_memory_and_time(cluster):
    job = "srun -w compute-01 --mem=64M python3 -c 'len(b\"x\" * (256 << 20))'"
    done = cluster.try_call("hpc", "ssh", "controller", "--", job)
    assert done.returncode != 0
    assert "Out Of Memory" in done.stderr
    assert "1:00:00" in cluster.ssh("controller", "sinfo -h -o %l")


def test_no_two_nodes_share_an_identity(cluster):
    for what in (
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /proc/sys/kernel/random/boot_id",
        "cat /sys/class/net/eth0/address",
    ):
        assert len({cluster.execute(node, what) for node in NODES[:3]}) == 3, what


def test_nobody_has_a_password_and_secrets_are_only_roots(cluster):
    shadow = cluster.execute("compute-01", "cut -d: -f2 /etc/shadow").split()
    assert not [word for word in shadow if word.strip("!*")]
    modes = cluster.execute(
        "compute-01", "stat -c '%a %U' /etc/munge/munge.key /etc/ssh/ssh_host_ed25519_key"
    )
    assert modes.splitlines() == ["400 munge", "600 root"]
    settings = cluster.execute("compute-01", "sshd -T")
    assert "passwordauthentication no" in settings
    assert "permitrootlogin no" in settings


def test_another_host_key_is_refused(cluster):
    known = find_roots(cluster.state_dir).cluster("life").known_hosts
    former = known.read_text()
    wrong = former.splitlines()[1].split()[2]
    lines = [line.split() for line in former.splitlines()]
    known.write_text("".join(f"{alias} {kind} {wrong}\n" for alias, kind, _ in lines))
    try:
        done = cluster.try_call("hpc", "ssh", "controller", "--", "true")
    finally:
        known.write_text(former)
    assert done.returncode != 0
    assert "Host key verification failed" in done.stderr


def test_the_munge_key_is_in_no_file_that_others_read_and_in_no_log(cluster):
    paths = find_roots(cluster.state_dir).cluster("life")
    key = paths.munge_key.read_bytes()[:32]
    assert paths.munge_key.stat().st_mode & 0o777 == 0o600
    for path in cluster.state_dir.rglob("*"):
        if path.is_file() and path.suffix != ".qcow2" and path != paths.munge_key:
            data = path.read_bytes()
            assert key not in data, path
            assert key.hex().encode() not in data, path
        if path.is_file() and "secrets" in path.parts:
            assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".pub", path


def test_the_disk_that_was_asked_for_reaches_the_file_system(cluster):
    cluster.execute("compute-01", "systemctl start ai-how-late.service")
    size_kib = int(cluster.execute("compute-01", "df --output=size / | tail -n 1"))
    assert size_kib > 9 * 2**20


def test_logs_and_ssh_config_are_at_hand(cluster):
    assert "slurmctld" in cluster.call("hpc", "logs", "controller")
    assert "the guest agent starts" in cluster.call("hpc", "logs", "compute-01", "--serial")
    config = cluster.call("hpc", "ssh-config")
    assert "Host life-compute-02 compute-02" in config
    assert "StrictHostKeyChecking yes" in config


def test_exit_codes_of_commands_in_nodes_are_passed_on(cluster):
    done = cluster.try_call("hpc", "exec", "compute-01", "--", "sh", "-c", "echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert cluster.try_call("hpc", "ssh", "compute-01", "--", "exit 9").returncode == 9


def test_a_node_that_is_left_off_starts_when_it_is_named_and_stops_alone(cluster):
    steps = cluster.start("compute-03")
    assert "boot/life-compute-03" in steps
    assert not [key for key in steps if "compute-01" in key]
    assert cluster.nodes()["compute-03"]["slurm"] == "idle"
    assert cluster.ssh("controller", "srun -w compute-03 hostname") == "compute-03\n"
    cluster.call("hpc", "stop", "compute-03", timeout_s=START_S)
    node = cluster.nodes()["compute-03"]
    assert node["state"] == "shut_off"
    assert node["slurm"].startswith("down")
    assert node["slurm_reason"] == "stopped by ai-how"
    assert cluster.nodes()["compute-01"]["slurm"] == "idle"


def test_a_start_heals_what_has_died(cluster):
    host = find_roots(cluster.state_dir).embedded
    before = cluster.nodes()
    with LibvirtClient(f"qemu+unix:///system?socket={host.socket}") as client:
        victim = client.find_domain_by_name("life-compute-02")
        client.destroy_domain(victim.uuid)
    assert cluster.nodes()["compute-02"]["reason"] == "destroyed"
    steps = cluster.start()
    assert "boot/life-compute-02" in steps
    assert not [key for key in steps if "compute-01" in key or "controller" in key]
    after = cluster.nodes()
    assert after["compute-02"]["slurm"] == "idle"
    assert after["compute-02"]["ip"] == before["compute-02"]["ip"]


def test_a_start_that_is_killed_leaves_nothing_behind(cluster, tmp_path):
    file = tmp_path / "spare.yaml"
    file.write_text(SPARE)
    paths = find_roots(cluster.state_dir).cluster("spare")
    argv = [*cluster.argv, "-c", str(file), "hpc", "start"]
    child = start_daemon(argv, log=tmp_path / "start.log")
    wait_until(
        lambda: "agent/spare-controller" in _text_of(paths.journal),
        Deadline.after(START_S),
        "the first VM of the spare cluster",
    )
    child.send_signal(signal.SIGKILL)
    child.wait()
    status = run([*cluster.argv, "-c", str(file), "hpc", "destroy", "--force"], check=False)
    assert status.returncode == 0, status.stderr
    assert "undoing the start that was cut short" in status.stderr
    host = find_roots(cluster.state_dir).embedded
    with LibvirtClient(f"qemu+unix:///system?socket={host.socket}") as client:
        assert not [one.name for one in client.list_domains() if one.name.startswith("spare")]
        assert not [one.name for one in client.list_networks() if one.name == "spare"]
    assert not paths.root.exists()
    assert not list(host.root.glob("storage/disks/spare*"))
    assert cluster.status()["is_ready"]


def test_a_stopped_cluster_comes_back_as_it_was(cluster):
    before = {name: (node["ip"], node["domain"]) for name, node in cluster.nodes().items()}
    keys = cluster.execute("compute-01", "cat /etc/ssh/ssh_host_ed25519_key.pub")
    cluster.call("hpc", "stop", timeout_s=START_S)
    assert {node["state"] for node in cluster.nodes().values()} == {"shut_off"}
    assert "is off: nothing to do" in cluster.call("hpc", "stop")
    cluster.start()
    after = {name: (node["ip"], node["domain"]) for name, node in cluster.nodes().items()}
    assert after == before
    assert cluster.execute("compute-01", "cat /etc/ssh/ssh_host_ed25519_key.pub") == keys
    assert cluster.ssh("controller", "srun -N2 cat seen.txt") == "written\nwritten\n"


def test_destroy_leaves_nothing(cluster):
    root = find_roots(cluster.state_dir)
    supervisor = EmbeddedHost(root.embedded).find_supervisor()
    namespace = pid_namespace(supervisor.pid)
    cluster.call("hpc", "destroy", "--force", timeout_s=START_S)
    assert not root.cluster("life").root.exists()
    assert not root.embedded.socket.exists()
    assert processes_in(namespace) == {}
    assert not list(root.embedded_storage.root.rglob("*.qcow2"))
    assert "there was no cluster life" in cluster.call("hpc", "destroy", "--force")


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
