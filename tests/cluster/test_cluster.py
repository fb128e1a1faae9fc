"""A real SLURM cluster's whole life, by the program that users run. The order matters."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.outside_access import read_outside_access
from ai_how.process import get_tool, run, start_daemon
from ai_how.state.paths import default_roots
from ai_how.waiting import Deadline, wait_until
from canaries import find_in_files, find_in_text, read_secrets, watching
from daemons import socket_of
from decoys import BRIDGE, look_at_decoys, place_decoys, remove_decoys
from leaks import count_gate, difference, kept_namespace, pid_namespace, processes_in
from real_cluster import ASK_S, START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.in_order]

NODES = ["controller", "compute-01", "compute-02", "compute-03"]
FILE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes:
      - {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
      - cpu_cores: 1
        memory_gb: 0.75
        disk_gb: 10
        auto_start: false
        virtio_fs_mounts:
          - {tag: project, host_path: "${PWD}/project", mount_point: "${PWD}/project", owner: admin}
          - {tag: home, host_path: "${PWD}/project", mount_point: /home/hpc/on/host}
          - {tag: tools, host_path: "${PWD}/project", mount_point: /root/tools, owner: root}
          - {tag: kept, host_path: "${PWD}/project", mount_point: /srv/kept, readonly: true}
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("life")
    (directory / "project").mkdir()
    made = Cluster(directory, FILE, PWD=str(directory))
    # The worst that a user can set: what we write must be closed to others all the same.
    former = os.umask(0o000)
    made.call("image", "build", timeout_s=START_S)
    made.call("host", "up")
    place_decoys(made.host)
    yield made
    made.try_call("hpc", "destroy", "--force")
    made.try_call("host", "down", "--force")
    os.umask(former)


def await_idle(cluster: Cluster, *names: str) -> None:
    """Until SLURM has nothing to do there: a job's node is "completing" for a moment after it."""

    def are_idle() -> bool:
        nodes = cluster.nodes()
        return all(nodes[name]["slurm"] == "idle" for name in names)

    wait_until(are_idle, Deadline.after(ASK_S), f"idle {', '.join(names)}")


@pytest.fixture(autouse=True)
def nothing_foreign_is_touched(cluster, figures):
    before = look_at_decoys(cluster.host)
    yield
    left = difference(
        before, look_at_decoys(cluster.host) if cluster.host.status().is_up else before
    )
    count_gate(figures, left, has_decoys=bool(before))
    assert left == ""


def test_a_start_ends_when_slurm_has_run_a_job_on_every_node(cluster):
    # At its most talkative, and with every process watched, for the search for secrets below.
    with watching() as watch:
        steps = cluster.start("-vv", "--log-file", str(cluster.log))
    cluster.watched = watch.seen
    assert steps[-1] == "ready/hpc"
    assert "boot/hpc-compute-03" not in steps  # auto_start: false
    assert cluster.status()["is_ready"]
    await_idle(cluster, *NODES[1:3])
    nodes = cluster.nodes()
    assert list(nodes) == NODES
    assert [nodes[name]["state"] for name in NODES] == ["running"] * 3 + ["shut_off"]
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


def test_no_node_reckons_time_by_what_it_measured_on_a_busy_host(cluster):
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    seen = {cluster.execute(node, f"cat {source}").strip() for node in NODES[:3]}
    assert seen <= {"hpet", "kvm-clock"}


def test_no_two_nodes_share_an_identity(cluster):
    for what in (
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /proc/sys/kernel/random/boot_id",
        "cat /sys/class/net/eth0/address",
    ):
        assert len({cluster.execute(node, what) for node in NODES[:3]}) == 3, what


@pytest.mark.fault("S10", "passwords and sshd of a node that runs")
@pytest.mark.fault("S13", "modes of secrets in running nodes")
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


@pytest.mark.fault("S11", "another host key in known_hosts")
def test_another_host_key_is_refused(cluster):
    known = default_roots(cluster.state_dir).cluster("hpc").known_hosts
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


@pytest.mark.fault("S09", "ss inside and outside the namespace of a cluster that runs")
@pytest.mark.fault("S33", "ss and the firewall inside the namespace of a cluster that runs")
def test_nothing_listens_but_the_networks_own_dhcp_and_dns(cluster):
    state = cluster.status()
    gateway = str(next(IPv4Network(state["subnet"]).hosts()))
    own = {f"{gateway}:53", "0.0.0.0:67", f"0.0.0.0%{state['network']}:67"}
    decoy = {"10.254.77.1:53", f"0.0.0.0%{BRIDGE}2:67"}
    inside = set(listeners(cluster.host.enter(["ss", "-Hlntu"])))
    assert f"{gateway}:53" in inside
    assert {one for one in inside - own - decoy if not is_loopback(one)} == set()
    outside = run(["ss", "-Hlntup"]).stdout
    pids = processes_in(pid_namespace(cluster.host.find_supervisor().pid))
    assert [pid for pid in pids if f"pid={pid}," in outside] == []
    # From other networks of the same libvirt only answers come in.
    rules = run(cluster.host.enter(["iptables", "-S"])).stdout.splitlines()
    assert [one for one in rules if f"-o {state['network']} " in one and "REJECT" in one]


def listeners(argv: list[str]) -> list[str]:
    """Each address and port that somebody listens at."""
    return [line.split()[4] for line in run(argv).stdout.splitlines()]


def is_loopback(address: str) -> bool:
    return address.startswith(("127.", "[::1]"))


def submit(cluster: Cluster, node: str, *options: str) -> str:
    """A job that runs there for long; its id, once it runs."""
    words = f"sbatch --parsable -w {node} --mem=50 {' '.join(options)} --wrap 'sleep 3000'"
    job = cluster.ssh("controller", words).strip()
    await_job(cluster, job, "JobState=RUNNING")
    return job


def await_job(cluster: Cluster, job: str, *texts: str) -> str:
    """What SLURM says of a job, once all that is in it."""

    def seen() -> str | None:
        told = cluster.execute("controller", f"scontrol show job {job}")
        return told if all(text in told for text in texts) else None

    return wait_until(seen, Deadline.after(ASK_S), f"{', '.join(texts)} of job {job}")


@pytest.mark.fault("F62", "slurmctld stopped in the guest")
def test_a_slurm_that_is_down_is_told_from_vms_that_are_and_is_healed(cluster):
    cluster.execute("controller", "systemctl stop slurmctld")
    seen = cluster.status()
    assert not seen["is_ready"]
    assert seen["slurm_trouble"]
    assert [node["state"] for node in seen["nodes"]][:3] == ["running"] * 3
    steps = cluster.start()
    assert not [key for key in steps if key.startswith(("boot", "disk", "domain"))]
    assert cluster.status()["is_ready"]


def start_and_hear(cluster: Cluster) -> str:
    """What a start said besides what it did."""
    done = cluster.try_call("hpc", "start", timeout_s=START_S)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.fault("F62", "a node drained by its user")
@pytest.mark.fault("H12", "a start on a cluster with a node that is drained")
def test_a_node_that_its_user_drained_is_shown_and_left_so(cluster):
    update = "scontrol update nodename=compute-01 state="
    cluster.execute("controller", f"{update}drain reason=repairs")
    node = cluster.nodes()["compute-01"]
    assert node["slurm"].startswith("drain")
    assert node["slurm_reason"] == "repairs"
    assert "compute-01 is drained and takes no jobs: repairs" in start_and_hear(cluster)
    cluster.execute("controller", f"{update}resume")
    # slurmctld pings the node anew before it takes the star from "idle*".
    await_idle(cluster, "compute-01")


def test_the_disk_that_was_asked_for_reaches_the_file_system(cluster):
    def size_kib():
        return int(cluster.execute("compute-01", "df --output=size / | tail -n 1"))

    wait_until(lambda: size_kib() > 9 * 2**20, Deadline.after(ASK_S), "the file system's growth")


def test_a_node_joins_when_its_users_can_be_served(cluster):
    """slurmd begins after munge runs and the homes are mounted, slurmctld after munge runs."""

    def moment(node: str, unit: str, property_: str) -> int:
        return int(cluster.execute(node, f"systemctl show --value -p {property_} {unit}"))

    began, done = "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"
    for node, unit, befores in (
        ("compute-01", "slurmd", ("munge", "home.mount")),
        ("controller", "slurmctld", ("munge",)),
    ):
        for before in befores:
            assert 0 < moment(node, before, done) <= moment(node, unit, began), (node, before)


def test_logs_and_ssh_config_are_at_hand(cluster):
    assert "slurmctld" in cluster.call("hpc", "logs", "controller")
    assert "the guest agent starts" in cluster.call("hpc", "logs", "compute-01", "--serial")
    config = cluster.call("hpc", "ssh-config")
    assert "Host hpc-compute-02 compute-02" in config
    assert "StrictHostKeyChecking yes" in config


class Proxy(BaseHTTPRequestHandler):
    """A proxy on the host's loopback, which answers everything itself."""

    def do_GET(self) -> None:
        body = f"proxied {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass


ASK_PROXY = (
    "import urllib.request as u; print(u.urlopen('http://www.example.org/x').read().decode())"
)


@pytest.mark.fault("S15", "a proxy's password searched for in files and in what was said")
def test_nodes_use_the_proxy_of_their_host_as_long_as_it_has_one(cluster):
    password = f"pass{os.getpid()}word"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster.env["http_proxy"] = f"http://me:{password}@127.0.0.1:{server.server_port}"
    said = len(cluster.said)
    try:
        assert cluster.start() != []
        gateway = cluster.execute("controller", ". /etc/ai-how/identity; echo $GATEWAY").strip()
        url = f"http://me:{password}@{gateway}:{server.server_port}"
        assert cluster.ssh("controller", "srun -N2 printenv http_proxy") == f"{url}\n{url}\n"
        assert cluster.ssh("compute-01", "sudo printenv http_proxy") == f"{url}\n"
        no_proxy = cluster.ssh("compute-01", "printenv no_proxy").strip().split(",")
        assert {".hpc", "controller", "compute-02", "localhost"} <= {*no_proxy}
        asked = cluster.ssh("compute-01", f'python3 -c "{ASK_PROXY}"')
        assert asked == "proxied http://www.example.org/x\n"
        assert cluster.start() == []
        told = [one.encode() for one in cluster.said[said:] if url not in one]
        assert [one for one in told if password.encode() in one] == []
        found = find_in_files(
            {"it": password.encode()}, [cluster.state_dir], kept=disks_of(cluster)
        )
        assert found == []
    finally:
        del cluster.env["http_proxy"]
        server.shutdown()
        server.server_close()
    cluster.start()
    assert cluster.ssh("compute-01", "printenv http_proxy; true") == ""
    assert cluster.execute("compute-01", "grep -c proxy /etc/environment; true").strip() == "0"


def disks_of(cluster: Cluster) -> set[Path]:
    return set(cluster.state_dir.rglob("*.qcow2"))


def test_nodes_trust_the_certificates_that_were_added_to_their_host(cluster):
    bundle = cluster.execute("compute-01", "cat /etc/ssl/certs/ca-certificates.crt")
    ours = read_outside_access().certificates
    assert bundle.count("BEGIN CERTIFICATE") > len(ours)
    assert [one for one in ours if one not in bundle] == []


def test_exit_codes_of_commands_in_nodes_are_passed_on(cluster):
    done = cluster.try_call("hpc", "exec", "compute-01", "--", "sh", "-c", "echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert cluster.try_call("hpc", "ssh", "compute-01", "--", "exit 9").returncode == 9


def test_a_commands_options_need_no_dashes_and_its_words_stay_words(cluster):
    assert cluster.call("hpc", "ssh", "compute-01", "echo", "a  b", "$HOME") == "a  b $HOME\n"
    on = cluster.call("hpc", "ssh", "controller", "srun", "-c", "1", "-w", "compute-01", "hostname")
    assert on == "compute-01\n"
    assert cluster.call("hpc", "ssh", "-tt", "compute-01", "tty").startswith("/dev/pts/")
    assert cluster.call("hpc", "exec", "compute-01", "echo", "a  b", "$HOME") == "a  b $HOME\n"
    assert cluster.call("hpc", "exec", "compute-01", "echo a  b | tr a c") == "c b\n"


def share_files_with_host(cluster: Cluster) -> None:
    """The owner of a directory is the login account; the same in each place where it is mounted."""
    project = cluster.file.with_name("project")
    (project / "mine").write_text("of the host")
    for place in (project, Path("/home/hpc/on/host")):
        seen = cluster.ssh("compute-03", f"cd {place} && cat mine && stat -c ' %U %G' . mine")
        assert seen.split() == ["of", "the", "host", *["hpc", "hpc"] * 2]
    cluster.ssh("compute-03", "echo job > /home/hpc/on/host/made; sudo touch /root/tools/roots")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in project.iterdir()}
    assert owners == dict.fromkeys(("mine", "made", "roots"), (0, 0))
    assert (project / "made").read_text() == "job\n"
    write = "sudo mount -o remount,rw /srv/kept; sudo touch /srv/kept/new"
    done = cluster.try_call("hpc", "ssh", "compute-03", "--", write)
    assert "Read-only file system" in done.stderr
    assert cluster.ssh("compute-03", "stat -c %U /home/hpc/on /root/tools").split() == [
        "hpc",
        "root",
    ]


@pytest.mark.fault("H11", "one node stopped under a job, then waited for in vain")
def test_a_node_that_is_left_off_starts_when_it_is_named_and_stops_alone(cluster):
    steps = cluster.start("compute-03")
    assert "boot/hpc-compute-03" in steps
    assert not [key for key in steps if "compute-01" in key]
    await_idle(cluster, "compute-03")
    assert cluster.ssh("controller", "srun -w compute-03 hostname") == "compute-03\n"
    share_files_with_host(cluster)
    job = submit(cluster, "compute-03")
    argv = [*cluster.argv, "-c", str(cluster.file), "hpc", "stop", "compute-03", "--wait"]
    log = cluster.file.with_name("wait.log")
    waiting = start_daemon(argv, log=log)
    wait_until(lambda: f"waiting for job {job}" in _text_of(log), Deadline.after(ASK_S), "the wait")
    assert cluster.nodes()["compute-03"]["slurm"].rstrip("*") == "draining"
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(ASK_S) != 0
    assert "accepting jobs again: compute-03" in _text_of(log)
    # On a busy host SLURM marks a node with * that has not answered for a moment.
    assert cluster.nodes()["compute-03"]["slurm"].rstrip("*") in {"mixed", "allocated"}
    done = cluster.try_call("hpc", "stop", "compute-03", timeout_s=START_S)
    assert done.returncode == 0, done.stderr
    assert f"job {job} (wrap, of hpc) is requeued: its node is stopped" in done.stderr
    await_job(cluster, job, "Restarts=1")
    cluster.execute("controller", f"scancel {job}")
    node = cluster.nodes()["compute-03"]
    assert node["state"] == "shut_off"
    assert node["slurm"].startswith("down")
    assert node["slurm_reason"] == "stopped by ai-how"
    assert cluster.nodes()["compute-01"]["slurm"] == "idle"


@pytest.mark.fault("H10", "a node's power cut under jobs that may and may not be requeued")
def test_a_start_heals_what_has_died_and_slurm_hears_of_it(cluster):
    host = EmbeddedHost(default_roots(cluster.state_dir).embedded)
    before = cluster.nodes()
    job = submit(cluster, "compute-02")
    with LibvirtClient(host.uri) as client:
        victim = client.find_domain_by_name("hpc-compute-02")
        client.destroy_domain(victim.uuid)
    assert cluster.nodes()["compute-02"]["reason"] == "destroyed"
    steps = cluster.start()
    assert "boot/hpc-compute-02" in steps
    assert not [key for key in steps if "compute-01" in key or "controller" in key]
    await_job(cluster, job, "Restarts=1")
    cluster.execute("controller", f"scancel {job}")
    await_idle(cluster, "compute-02")
    assert cluster.nodes()["compute-02"]["ip"] == before["compute-02"]["ip"]


@pytest.mark.fault("H15", "ip link del of the bridge of a cluster that runs")
def test_nodes_reach_each_other_again_after_their_bridge_was_deleted(cluster):
    before = {name: node["state"] for name, node in cluster.nodes().items()}
    bridge = cluster.status()["network"]
    run(cluster.host.enter(["ip", "link", "delete", bridge]))
    told = cluster.status()["network_problems"]
    assert [problem.split(":")[0] for problem in told] == [f"its bridge {bridge} is gone"]
    assert "network-anew/hpc" in cluster.start()
    await_idle(cluster, "compute-01", "compute-02")
    assert cluster.status()["network_problems"] == []
    assert {name: node["state"] for name, node in cluster.nodes().items()} == before
    assert cluster.execute("compute-01", "getent hosts compute-02")
    cluster.execute("controller", "srun -N2 hostname")


@pytest.mark.fault("H21", "a node's root is filled to more than nine tenths")
def test_a_file_system_that_is_full_is_named_by_status(cluster):
    def full():
        problems = cluster.nodes()["compute-01"]["problems"]
        return [problem for problem in problems if problem.startswith("/ is 9")]

    assert full() == []
    free = int(cluster.execute("compute-01", "df --output=avail -B1 / | tail -n 1"))
    cluster.execute("compute-01", f"fallocate -l {free * 95 // 100} /filler")
    wait_until(full, Deadline.after(ASK_S), "the answer of the guest's agent")
    cluster.execute("compute-01", "rm /filler")


@pytest.mark.long
def test_a_start_that_is_killed_leaves_nothing_behind(cluster, tmp_path):
    file = tmp_path / "spare.yaml"
    file.write_text(SPARE)
    paths = default_roots(cluster.state_dir).cluster("spare")
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
    host = EmbeddedHost(default_roots(cluster.state_dir).embedded)
    with LibvirtClient(host.uri) as client:
        assert not [one.name for one in client.list_domains() if one.name.startswith("spare")]
        assert not [one.name for one in client.list_networks() if one.name == "spare"]
    assert not paths.root.exists()
    assert not list(host.paths.root.glob("storage/disks/spare*"))
    assert cluster.status()["is_ready"]


@pytest.mark.fault("H11", "a whole cluster stopped under jobs that may and may not be requeued")
@pytest.mark.fault("H12", "a whole cluster stopped and started with a node that is drained")
def test_a_stopped_cluster_comes_back_as_it_was(cluster):
    before = {name: (node["ip"], node["domain"]) for name, node in cluster.nodes().items()}
    keys = cluster.execute("compute-01", "cat /etc/ssh/ssh_host_ed25519_key.pub")
    again = submit(cluster, "compute-01")
    once = submit(cluster, "compute-02", "--no-requeue")
    update = "scontrol update nodename=compute-02 state="
    cluster.execute("controller", f"{update}drain reason='bad | fan'")
    done = cluster.try_call("hpc", "stop", timeout_s=START_S)
    assert done.returncode == 0, done.stderr
    assert f"job {again} (wrap, of hpc) is requeued" in done.stderr
    assert f"job {once} (wrap, of hpc) is ended" in done.stderr
    assert {node["state"] for node in cluster.nodes().values()} == {"shut_off"}
    assert "is off: nothing to do" in cluster.call("hpc", "stop")
    assert "compute-02 is drained and takes no jobs: bad | fan\n" in start_and_hear(cluster)
    assert cluster.nodes()["compute-02"]["slurm_reason"] == "bad | fan"
    assert "JobState=RUNNING" not in cluster.execute("controller", f"scontrol show job {once}")
    # It waits for some time after it was queued again, or runs by now.
    soon = f"scontrol update jobid={again} starttime=now || true"
    cluster.execute("controller", f"{update}resume; {soon}")
    await_job(cluster, again, "JobState=RUNNING", "Restarts=1")
    cluster.execute("controller", f"scancel {again}")
    await_idle(cluster, "compute-01", "compute-02")
    after = {name: (node["ip"], node["domain"]) for name, node in cluster.nodes().items()}
    assert after == before
    assert cluster.execute("compute-01", "cat /etc/ssh/ssh_host_ed25519_key.pub") == keys
    assert cluster.ssh("controller", "srun -N2 cat seen.txt") == "written\nwritten\n"


def test_a_share_is_there_again_when_its_node_was_off(cluster):
    project = cluster.file.with_name("project")
    (project / "made").write_text("of the host, meanwhile\n")
    assert "boot/hpc-compute-03" in cluster.start("compute-03")
    await_idle(cluster, "compute-03")
    seen = cluster.ssh("controller", "srun -w compute-03 cat /home/hpc/on/host/made")
    assert seen == "of the host, meanwhile\n"
    share_files_with_host(cluster)


@pytest.mark.fault("S13", "a whole cluster's life under umask 000")
@pytest.mark.fault("S14", "the munge key searched for after a whole cluster's life")
@pytest.mark.fault("S15", "all secrets searched for in files, arguments, environments and output")
def test_no_secret_is_anywhere_but_in_its_file(cluster, points):
    """After a whole life of a cluster, with -vv; guests' own disks hold their secrets."""
    secrets = read_secrets(cluster.paths)
    assert len(secrets) == 2 + len(NODES)
    sockets = socket_of(cluster.host).parent
    disks = set(cluster.state_dir.rglob("*.qcow2"))
    own = {cluster.paths.ssh_key, cluster.paths.munge_key, *cluster.paths.secrets.glob("*_key")}
    assert {path.name: path.stat().st_mode & 0o777 for path in own} == dict.fromkeys(
        (path.name for path in own), 0o600
    )
    # QEMU's sockets are as libvirt makes them, in directories that others cannot enter.
    every = [path for path in cluster.state_dir.rglob("*") if "decoys" not in path.parts]
    ours = [path for path in every if not path.is_symlink() and not path.is_socket()]
    assert [path for path in ours if path.lstat().st_mode & 0o022] == []
    assert cluster.paths.root.stat().st_mode & 0o777 == 0o700
    tops = [cluster.state_dir, cluster.file.parent, sockets]
    found = find_in_files(secrets, tops, kept=own | disks)
    assert cluster.log.stat().st_size > 1000
    for told in (*cluster.watched, *map(str.encode, cluster.said)):
        found += find_in_text(secrets, "an argument, an environment or what was said", told)
    assert any(b"qemu-system" in one for one in cluster.watched)
    points(len(secrets))
    assert found == []


@pytest.mark.fault("H09", "files written right before a cluster that runs is destroyed")
def test_destroy_leaves_nothing_but_backups_of_what_was_written_last(cluster, tmp_path):
    remove_decoys(cluster.host)
    for node in NODES[2:]:  # two are enough, and what is gone is passed over
        (cluster.roots.embedded_storage.cluster("hpc") / f"{node}.qcow2").unlink()
    root = default_roots(cluster.state_dir)
    supervisor = EmbeddedHost(root.embedded).find_supervisor()
    with kept_namespace(supervisor.pid) as namespace:
        words = ("hpc", "destroy", "--force", "--backup", str(tmp_path / "kept"))
        cluster.execute("compute-01", "echo the last word > /root/last")
        cluster.execute("controller", "echo the last word > /home/last")
        cluster.call(*words, timeout_s=START_S)
        assert not root.cluster("hpc").root.exists()
        assert not supervisor.socket.exists()
        assert processes_in(namespace) == {}
    assert not list(root.embedded_storage.root.rglob("*.qcow2"))
    assert "there was no cluster hpc" in cluster.call("hpc", "destroy", "--force")
    kept = {path.name.rsplit("-", 1)[0]: path for path in (tmp_path / "kept").iterdir()}
    assert set(kept) == {"hpc-controller", "hpc-compute-01"}
    for name, file in (("hpc-controller", "/home/last"), ("hpc-compute-01", "/root/last")):
        raw = tmp_path / "raw"
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", kept[name], raw])
        debugfs = get_tool("debugfs", package="e2fsprogs")
        assert run([debugfs, "-R", f"cat {file}", raw]).stdout == "the last word\n"


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
