"""Guests in the world: clocks, journals, and what users find in them. The order matters.

Every kernel is told that its TSC runs at 347 MHz, which one measured on a busy host.
"""

import os
import re
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from ai_how.images.build import build_default_image
from ai_how.images.manifest import MANIFEST
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.state.paths import default_roots
from ai_how.waiting import Deadline, wait_until
from real_cluster import ASK_S, START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.in_order]

NODES = ["controller", "compute-01"]
FILE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 0.75, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 0.5, disk_gb: 5}
    slurm_config: {partitions: [compute]}
"""
SLEEP_S = 45
AFTERWARDS = "ai-how-clock.service chrony.service ai-how-console.service"
# Of the kernel's own, on a machine without hardware.
NOT_OURS = ("kernel: tsc: ", "kernel: APIC calibration not consistent")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    data = mismeasuring_store(directory / "data")
    made = Cluster(directory, FILE, XDG_DATA_HOME=str(data))
    yield made
    made.try_call("hpc", "destroy", "--force")
    made.try_call("host", "down", "--force")


def mismeasuring_store(data: Path) -> Path:
    """The default image, whose kernel believes that it measured a TSC of 347 MHz."""
    image = build_default_image(ImageStore(default_roots().images))
    own = data / "ai-how" / "images" / image.digest
    own.mkdir(parents=True)
    for path in image.directory.iterdir():
        try:
            os.link(path, own / path.name)
        except OSError:  # another file system
            shutil.copyfile(path, own / path.name)
    cmdline = f"{image.manifest.cmdline} tsc_early_khz=347000"
    changed = image.manifest.model_copy(update={"cmdline": cmdline})
    (own / MANIFEST).unlink()
    (own / MANIFEST).write_text(changed.model_dump_json())
    return data


def await_afterwards(cluster: Cluster, node: str) -> None:
    """Until a node runs what it starts when it has joined."""
    listed = f"systemctl is-active {AFTERWARDS}; ls /run/systemd/journal/flushed"

    def runs() -> bool:
        done = cluster.try_call("hpc", "exec", node, "--", "sh", "-c", listed)
        return done.stdout.split().count("active") == 3 and "flushed" in done.stdout

    wait_until(runs, Deadline.after(START_S), f"all services of {node}", interval_s=2)


def off_s(cluster: Cluster, node: str) -> float:
    """By how many seconds a node is ahead at least, or (negative) behind."""
    before = time.time()
    seen = float(cluster.execute(node, "date +%s.%N"))
    return min(seen - before, 0) + max(seen - time.time(), 0)


def problems(cluster: Cluster, node: str) -> list[str]:
    return cluster.nodes()[node]["problems"]


def await_right(cluster: Cluster, node: str, ahead_s: float = 0) -> None:
    wait_until(
        lambda: abs(off_s(cluster, node) - ahead_s) < 5,
        Deadline.after(ASK_S),
        f"the clock of {node}",
        interval_s=2,
    )


@pytest.mark.fault("H14", "a kernel that is told that its TSC runs at 347 MHz")
def test_a_kernel_that_measured_its_tsc_wrong_keeps_its_own_time_all_the_same(cluster, points):
    cluster.start()
    # Others write to the log of the kernel, too.
    marks = (
        "for mark in stamp-one stamp-two; do read -r up _ < /proc/uptime; echo $mark > /dev/kmsg; "
        "echo $up; dmesg | grep -w $mark | tail -n 1 | tr -d '[]'; sleep 5; done"
    )
    for node in NODES:
        if "tsc: Detected 347.000 MHz" not in cluster.execute(node, "dmesg"):
            pytest.skip("KVM tells its guests how fast their TSC is")
        words = cluster.execute(node, marks).split()
        ups, stamps = [float(words[0]), float(words[3])], [float(words[1]), float(words[4])]
        assert (stamps[1] - stamps[0]) / (ups[1] - ups[0]) < 2, words
        assert "soft lockup" not in cluster.execute(node, "dmesg")
    points(len(NODES))


@pytest.mark.fault("H22", "what users look for in a node")
def test_users_ping_and_log_in_from_node_to_node_without_a_question(cluster, points):
    for one, other in (NODES, NODES[::-1]):
        cluster.ssh(one, f"ping -c 1 -W 60 {other}")
        done = cluster.try_call("hpc", "ssh", one, "--", f"ssh {other} hostname", stdin="")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{other}\n", "")
        assert cluster.ssh(one, f"ssh {other}.hpc id -un") == "hpc\n"
    points(4)


@pytest.mark.fault("H22", "a locale that no node has")
def test_a_command_has_a_home_and_a_login_a_locale(cluster, points):
    for node in NODES:
        assert cluster.execute(node, "echo $HOME") == "/root\n"
        done = cluster.try_call("hpc", "ssh", node, "--", 'bash -lc "echo $LANG"')
        assert (done.stdout, done.stderr) == ("C.UTF-8\n", "")
        assert "/etc/locale.conf" in cluster.execute(node, "readlink -f /etc/default/locale")
    points(4)


@pytest.mark.fault("H22", "the warnings of a boot and of two logins")
def test_a_boot_and_a_login_leave_no_complaint_about_what_is_ours(cluster):
    for node in NODES:
        await_afterwards(cluster, node)
        cluster.ssh(node, "true")
        said = cluster.execute(node, "journalctl -q -b -p err").splitlines()
        assert [line for line in said if not any(one in line for one in NOT_OURS)] == []
        warned = cluster.execute(node, "journalctl -q -b -p warning")
        for ours in ("unset environment variable", "pam_env", "mountd", "Unstable clock"):
            assert ours not in warned


@pytest.mark.fault("H13", "all VMs are paused, so that what they measure time by stands still")
def test_clocks_follow_the_host_after_it_slept_and_jobs_lose_no_time(cluster, points):
    for node in NODES:
        await_afterwards(cluster, node)
    job = cluster.ssh("controller", "sbatch --parsable --time=10 --wrap 'sleep 600'").strip()
    running = f"squeue -h -j {job} -o %T"
    wait_until(
        lambda: cluster.ssh("controller", running).strip() == "RUNNING",
        Deadline.after(ASK_S),
        "the job",
    )
    with LibvirtClient(cluster.host.uri) as client:
        uuids = [one.uuid for one in client.list_domains()]
        for uuid in uuids:
            client.pause_domain(uuid)
        time.sleep(SLEEP_S)
        for uuid in uuids:
            client.resume_domain(uuid)
    for node in NODES:
        await_right(cluster, node)
        wait_until(partial(lambda n: not problems(cluster, n), node), Deadline.after(ASK_S), node)
        assert "behind the host's, and is set" in cluster.execute(node, "dmesg")
    told = cluster.ssh("controller", f"scontrol show job {job}")
    assert "JobState=RUNNING" in told
    # A busy host may have taken longer to let them go on.
    limit = re.search(r"TimeLimit=00:(\d\d):00", told)
    assert limit
    assert int(limit[1]) > 10
    cluster.ssh("controller", f"scancel {job}")
    points(len(NODES))


@pytest.mark.fault("H13", "one node's clock is set back by twenty minutes, and nothing keeps it")
def test_a_clock_that_is_off_is_seen_and_set_by_a_start(cluster):
    cluster.execute(
        "compute-01",
        'systemctl stop ai-how-clock chrony; date -s "@$(($(date +%s) - 1203))"',
    )
    (said,) = problems(cluster, "compute-01")
    assert said.startswith("its clock is 20 min ")
    assert said.endswith(" behind")
    assert problems(cluster, "controller") == []
    assert "compute-01: its clock is 20 min" in cluster.call("hpc", "status")
    assert cluster.start()
    assert abs(off_s(cluster, "compute-01")) < 5
    assert problems(cluster, "compute-01") == []


@pytest.mark.long
@pytest.mark.fault("H13", "the hardware clock that QEMU shows is set, as it is where the host's is")
def test_clocks_follow_a_jump_of_the_hosts_forward_and_back(cluster, points):
    for ahead_s in (3600, 0):
        now = f"$(($(date +%s) + {ahead_s - round(off_s(cluster, 'compute-01'))}))"
        cluster.execute(
            "compute-01",
            f'systemctl stop ai-how-clock; was=$(date +%s); date -s "@{now}"; '
            'busybox hwclock -u -w; date -s "@$was"; systemctl start ai-how-clock',
        )
        await_right(cluster, "compute-01", ahead_s)
    points(2)


@pytest.mark.long
@pytest.mark.fault("H16", "a node is rebooted, the second time before its journal was on disk")
def test_a_journal_outlives_reboots_and_earlier_boots_are_shown(cluster, points):
    def boot_id() -> str:
        done = cluster.try_call(
            "hpc", "exec", "compute-01", "--", "cat", "/proc/sys/kernel/random/boot_id"
        )
        return done.stdout.strip()

    for mark in ("before the first", "before the second"):
        was = boot_id()
        early = "systemctl stop ai-how-after.timer ai-how-after.service;"
        cluster.execute("compute-01", f"{early} echo {mark} > /dev/kmsg")
        # The agent may be gone before it says how that ended.
        cluster.try_call("hpc", "exec", "compute-01", "systemctl reboot --no-block")
        wait_until(
            partial(lambda was: boot_id() not in ("", was), was),
            Deadline.after(START_S),
            "the next boot",
            interval_s=2,
        )
        assert mark in cluster.call("hpc", "logs", "compute-01", "--boot", "-1", "-n", "1000")
    assert "before the first" in cluster.call("hpc", "logs", "compute-01", "-b", "-2", "-n", "1000")
    done = cluster.try_call("hpc", "logs", "compute-01", "--boot", "-20")
    assert done.returncode != 0
    assert "the journal of compute-01 cannot be read" in done.stderr
    points(2)
