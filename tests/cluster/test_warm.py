"""Real SLURM clusters from saved memory, and suspended with their jobs. The order matters."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import combinations, pairwise

import pytest

from ai_how.state.files import replaced_atomically
from ai_how.vm_management.disks import base_images
from ai_how.vm_management.saved_machines.store import MANIFEST, SavedMachine, SavedMachines
from ai_how.waiting import Deadline, wait_until
from ledger import Points
from real_cluster import ASK_S, START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.in_order]

NODES = ["controller", "compute-01", "compute-02"]
FILE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    slurm_config: {partitions: [compute]}
"""
COUNT = """\
#!/bin/sh
while :; do date +%s; sleep 1; done
"""
SLEEP_S = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("warm"), FILE, AI_HOW_NO_WARM="0")
    made.call("image", "build", timeout_s=START_S)
    yield made
    made.try_call("hpc", "destroy", "--force")
    made.try_call("host", "down", "--force")


def saved(cluster: Cluster) -> tuple[SavedMachine, ...]:
    return SavedMachines(cluster.roots.embedded_storage).list()


def kinds(steps: list[str]) -> set[str]:
    return {step.partition("/")[0] for step in steps}


def test_a_cold_start_leaves_a_machine_behind_for_the_next(cluster):
    assert "boot" in kinds(cluster.start())
    wait_until(lambda: saved(cluster), Deadline.after(START_S), "a saved machine")
    # Whoever saved it ends then, and what it had to say is kept.
    log = cluster.roots.warm_log
    wait_until(lambda: "saved" in log.read_text(), Deadline.after(ASK_S), "the end of it")
    cluster.call("hpc", "destroy", "--force")
    assert [one.manifest.memory_mib for one in saved(cluster)] == [1024]


def test_a_warm_start_restores_every_node_and_ends_with_a_job(cluster):
    steps = cluster.start()
    assert {"restore/hpc-controller", "restore/hpc-compute-01", "restore/hpc-compute-02"} <= set(
        steps
    )
    assert steps[-1] == "ready/hpc"
    assert cluster.status()["is_ready"]
    nodes = cluster.nodes()
    assert all(nodes[name]["stages_s"]["restore"] > 0 for name in NODES)
    assert cluster.start() == []
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES[1:]


def test_a_restored_controller_serves_homes_to_its_own_cluster_alone(cluster):
    subnet = json.loads(cluster.paths.state.read_text())["network"]["subnet"]

    def served() -> list[str]:
        return cluster.execute("controller", "exportfs -s").splitlines()

    wait_until(lambda: len(served()) == 1, Deadline.after(ASK_S), "the end of the others")
    assert served()[0].split()[1].startswith(f"{subnet}(")


# In memory first, then on the disk.
JOURNALS = "ls -d /run/log/journal/* /var/log/journal/* 2> /dev/null | sed 's,.*/,,'"
OF_ITS_OWN = {
    "machine id": "cat /etc/machine-id",
    "boot id": "cat /proc/sys/kernel/random/boot_id",
    "ssh host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
    "hostname": "cat /proc/sys/kernel/hostname",
    "MAC address": "cat /sys/class/net/eth0/address",
    "address": "ip -4 -o addr show dev eth0",
    "random numbers": "head -c 32 /dev/urandom | sha256sum",
    "a random UUID": "cat /proc/sys/kernel/random/uuid",
    "journal": f"{JOURNALS}; journalctl --header | grep -E 'File ID|Sequential number ID'",
    "boots in the journal": "journalctl -q --list-boots -o json",
}


@pytest.mark.fault("W05", "what makes nodes themselves, in every pair of those from one machine")
@pytest.mark.parametrize("what", OF_ITS_OWN)
def test_no_two_nodes_from_one_machine_share_what_makes_them_themselves(
    cluster, points: Points, what: str
):
    with ThreadPoolExecutor() as crew:  # at the same moment
        told = dict(
            zip(NODES, crew.map(lambda n: cluster.execute(n, OF_ITS_OWN[what]), NODES), strict=True)
        )
    pairs = list(combinations(NODES, 2))
    for one, other in pairs:
        assert told[one].strip()
        assert not set(told[one].splitlines()) & set(told[other].splitlines()), f"{one}, {other}"
    points(len(pairs))


@pytest.mark.fault("W05", "the kernel's random numbers, and traces of the machine that was saved")
def test_a_node_has_new_random_numbers_and_nothing_of_the_machine_that_was_saved(cluster):
    for node in NODES:
        assert "reseeded due to virtual machine fork" in cluster.execute(node, "dmesg")
        machine_id = cluster.execute(node, "cat /etc/machine-id").strip()
        assert set(cluster.execute(node, JOURNALS).split()) == {machine_id}
        assert not cluster.execute(node, "ls -A /var/lib/dhcp 2>/dev/null || :")
        boots = json.loads(cluster.execute(node, "journalctl -q --list-boots -o json"))
        boot_id = cluster.execute(node, "cat /proc/sys/kernel/random/boot_id")
        assert [boot["boot_id"] for boot in boots] == [boot_id.strip().replace("-", "")]


def test_the_host_and_the_guests_agree_on_addresses(cluster):
    state = json.loads(cluster.paths.state.read_text())
    for node in state["nodes"]:
        seen = cluster.execute(node["name"], "cat /sys/class/net/eth0/address").strip()
        assert seen == node["mac"]
        xml = (cluster.paths.xml / f"{node['domain_name']}.xml").read_text()
        assert f"<mac address='{seen}'/>" in xml
    for one, other in combinations(NODES, 2):
        cluster.execute(one, f"ping -c 1 -W 20 {other}")


def test_every_clock_is_right_after_a_restore(cluster):
    for node in NODES:
        before = time.time()
        seen = float(cluster.execute(node, "date +%s.%N"))
        assert before - 1 <= seen <= time.time() + 1


def test_a_restored_node_is_as_a_booted_one_soon_after(cluster):
    """Its clock is kept, its console has a shell, and it serves what its role does and no more."""
    wanted = {"chrony.service", "ai-how-console.service", "munge.service", "ssh.socket"}
    listed = "systemctl list-units --no-legend --plain --state=active"
    threads = "cat /proc/fs/nfsd/threads 2>/dev/null || echo 0"

    def is_whole(node: str) -> bool:
        serves = cluster.execute(node, threads).strip() != "0"
        units = set(cluster.execute(node, listed).split())
        return wanted <= units and serves == (node == "controller")

    for node in NODES:
        wait_until(partial(is_whole, node), Deadline.after(ASK_S), f"all services of {node}")
        size = cluster.execute(node, "df --output=size -BG / | tail -1").strip()
        assert size in {"10G", "9G"}


@pytest.mark.fault("W03", "a job that runs while its cluster is suspended")
def test_jobs_go_on_where_they_were_when_a_cluster_is_suspended(cluster, points: Points):
    cluster.ssh("controller", "cat > count.sh; chmod +x count.sh", stdin=COUNT)
    submit = "sbatch --parsable -N2 --time=10 --wrap 'srun -o count-%N.txt ./count.sh'"
    job = cluster.ssh("controller", submit).strip()
    counted = "cat count-compute-01.txt | wc -l"
    wait_until(
        lambda: int(cluster.ssh("controller", counted)) > 2, Deadline.after(ASK_S), "the count"
    )
    uptime = "cut -d' ' -f1 /proc/uptime"
    up_s = {node: float(cluster.execute(node, uptime)) for node in NODES}
    cluster.call("hpc", "stop", "--suspend", timeout_s=START_S)
    nodes = cluster.nodes()
    assert {(nodes[n]["state"], nodes[n]["reason"]) for n in NODES} == {("shut_off", "saved")}
    time.sleep(SLEEP_S)
    keys = cluster.start()
    resumed = [key for key in keys if key.startswith(("resume/", "clock/"))]
    assert len(resumed) == 2 * len(NODES)
    assert cluster.status()["is_ready"]
    for node in NODES:  # the same boot, and clocks of now
        assert float(cluster.execute(node, uptime)) > up_s[node]
        assert abs(float(cluster.execute(node, "date +%s.%N")) - time.time()) < ASK_S
    before = int(cluster.ssh("controller", counted))
    wait_until(
        lambda: int(cluster.ssh("controller", counted)) > before + 2,
        Deadline.after(ASK_S),
        "the count to go on",
    )
    told = cluster.ssh("controller", f"scontrol show job {job}")
    assert "JobState=RUNNING" in told
    # What it slept is added to its time.
    assert re.search(r"TimeLimit=00:1[1-9]:00", told), told
    seconds = list(map(int, cluster.ssh("controller", "cat count-compute-01.txt").split()))
    gaps = [after - one for one, after in pairwise(seconds)]
    assert [gap for gap in gaps if gap > SLEEP_S - 5], "its clock never jumped"
    cluster.ssh("controller", f"scancel {job}")
    points(1)


@pytest.mark.long
def test_a_restored_cluster_is_stopped_and_boots_with_all_that_was_on_it(cluster):
    cluster.ssh("controller", "echo mine > kept.txt")
    cluster.call("hpc", "stop", timeout_s=START_S)
    assert "boot" in kinds(cluster.start())
    assert cluster.ssh("compute-01", "cat kept.txt") == "mine\n"
    assert cluster.status()["is_ready"]
    cluster.call("hpc", "destroy", "--force")


@pytest.mark.long
@pytest.mark.fault("W02", "a saved memory that only QEMU can refuse, under a real system")
def test_a_memory_that_qemu_refuses_boots_from_the_same_disk_and_is_ready(cluster, points: Points):
    (machine,) = saved(cluster)
    storage = cluster.roots.embedded_storage
    machine.memory.chmod(0o600)
    os.truncate(machine.memory, machine.memory.stat().st_size // 2)
    digest = sha256(machine.memory.read_bytes()).hexdigest()
    manifest = machine.manifest.model_copy(update={"memory_sha256": digest})
    with replaced_atomically(machine.directory / MANIFEST) as draft:
        draft.write_text(manifest.model_dump_json())
    storage.verified(machine.memory).unlink()
    base_images.check_unchanged(storage, machine.memory, digest)
    done = cluster.try_call("hpc", "start", timeout_s=START_S)
    assert done.returncode == 0, done.stderr
    for node in NODES:
        assert f"{node} boots cold:" in done.stderr
    assert cluster.status()["is_ready"]
    assert len({cluster.execute(node, "cat /etc/machine-id") for node in NODES}) == len(NODES)
    points(len(NODES))
