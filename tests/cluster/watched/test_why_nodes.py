"""`hpc why` of nodes whose software is broken: each cause is made inside, named, and mended.

Those of machines, networks and hosts are in tests/integration/test_why_machines.py.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

READY_S = 300
WRONG = 8
NODE = "compute-02"
Answer = dict[str, Any]


def why(cluster: Cluster, *words: str) -> Answer:
    done = cluster.try_call("hpc", "why", *words, "--json")
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    assert done.returncode == (0 if answer["is_well"] else WRONG)
    return answer


@dataclass(frozen=True)
class Fault:
    """What breaks a node, what mends it, and what is said of it."""

    node: str
    breaks: str
    mends: str
    says: str
    subject: str = NODE


ADDRESS = "ip -4 -o addr show dev eth0 | tr -s ' ' | cut -d ' ' -f 4"
FAULTS = {
    "slurmd-down": Fault(
        NODE, "systemctl stop slurmd", "systemctl start slurmd", "slurmd.service is inactive"
    ),
    "munge-down": Fault(
        NODE, "systemctl stop munge", "systemctl start munge", f"munge on {NODE} does not work"
    ),
    "munge-refused": Fault(
        NODE,
        "cp -p /etc/munge/munge.key /root/kept.key && dd if=/dev/urandom of=/etc/munge/munge.key "
        "bs=128 count=1 conv=notrunc && systemctl restart munge",
        "cp -p /root/kept.key /etc/munge/munge.key && rm /root/kept.key "
        "&& systemctl restart munge slurmd",
        "refuses the controller's credentials",
    ),
    "clock-off": Fault(
        NODE,
        "systemctl stop ai-how-clock chrony; date -s @$(($(date +%s) - 1203))",
        "date -s @$(($(date +%s) + 1203)); systemctl start ai-how-clock chrony",
        f"the clock of {NODE} is 20 min",
    ),
    "home-not-mounted": Fault(
        NODE, "umount -l /home", "systemctl start home.mount", "is not mounted"
    ),
    "root-full": Fault(
        NODE,
        "busybox fallocate -l $(($(df -Pk / | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4) * 1024 "
        "- 1048576)) /root/filler",
        "rm /root/filler",
        "its root file system is full",
    ),
    "address-missing": Fault(
        NODE,
        "ip addr add 192.0.2.9/32 dev lo; ip addr flush dev eth0",
        "/usr/lib/ai-how/network; ip addr del 192.0.2.9/32 dev lo",
        "it does not have its address",
    ),
    "node-out-of-service": Fault(
        "controller",
        f"scontrol update nodename={NODE} state=drain reason='a fan is loud'",
        f"scontrol update nodename={NODE} state=resume",
        "a fan is loud",
    ),
    "slurmctld-down": Fault(
        "controller",
        "systemctl stop slurmctld",
        "systemctl start slurmctld",
        "slurmctld.service is inactive",
        subject="controller",
    ),
    "nfs-down": Fault(
        "controller",
        "systemctl stop nfs-server",
        "systemctl start nfs-server",
        "the NFS server of /home on controller does not run",
        subject="controller",
    ),
}


@contextmanager
def broken(cluster: Cluster, fault: Fault) -> Iterator[None]:
    try:
        cluster.execute(fault.node, fault.breaks)
        yield
    finally:
        cluster.execute(fault.node, fault.mends)
        wait_until_ready(cluster)


def wait_until_ready(cluster: Cluster) -> None:
    wait_until(
        lambda: {node["slurm"] for node in cluster.nodes().values()} == {None, "idle"},
        Deadline.after(READY_S),
        "all nodes to be idle",
        interval_s=2,
    )


@pytest.mark.parametrize("cause", FAULTS)
def test_what_is_broken_in_a_node_is_the_first_cause(watched: Cluster, cause: str) -> None:
    fault = FAULTS[cause]
    with broken(watched, fault):
        answer = why(watched, NODE)
        found = answer["cause"]
        assert found is not None, answer
        assert (found["id"], found["subject"]) == (cause, fault.subject), answer
        assert fault.says in found["text"]
        assert found["evidence"]
        assert " hpc " in found["remedy"]


@pytest.mark.fault("F33", "a slurmctld that stands still while it is asked why")
def test_a_slurmctld_that_hangs_is_named_also_for_a_job(watched: Cluster) -> None:
    halt = Fault("controller", "pkill -STOP slurmctld", "pkill -CONT slurmctld", "")
    with broken(watched, halt):
        assert why(watched)["cause"]["id"] == "slurmctld-down"
        answer = why(watched, "1")
        assert answer["says"] == "SLURM cannot be asked about job 1"
        assert answer["cause"]["id"] == "slurmctld-down"


@pytest.mark.fault("F33", "a guest whose agent stands still while it is asked why")
def test_a_guest_that_hangs_is_named_and_the_others_are_seen(watched: Cluster) -> None:
    """The agent cannot be told to go on by itself: another program of the guest does it."""
    halt = "pid=$(pidof qemu-ga); (sleep 60; kill -CONT $pid) > /dev/null 2>&1 & kill -STOP $pid"
    watched.ssh(NODE, "true")
    watched.try_call("hpc", "exec", "--timeout", "2", NODE, "--", "sh", "-c", halt, timeout_s=120)
    try:
        answer = why(watched)
        assert answer["cause"]["id"] == "guest-hangs"
        assert answer["cause"]["subject"] == NODE
        assert [one for one in answer["silent"] if one.startswith(f"{NODE}: ")]
        assert [one for one in answer["silent"] if one.startswith("compute-01: ")] == []
    finally:
        wait_until(
            lambda: watched.try_call("hpc", "exec", NODE, "--", "true").returncode == 0,
            Deadline.after(READY_S),
            "the agent to go on",
        )
        wait_until_ready(watched)


def test_a_job_whose_node_is_drained_is_told_why_it_is(watched: Cluster) -> None:
    drain = FAULTS["node-out-of-service"]
    with broken(watched, drain):
        job = watched.ssh("controller", f"sbatch --parsable --mem=24M -w {NODE} --wrap true")
        try:
            answer = why(watched, job.strip())
            assert answer["cause"]["id"] == "node-out-of-service"
            assert [one["id"] for one in answer["also"]] == ["job-nodes-unavailable"]
        finally:
            watched.ssh("controller", f"scancel {job.strip()}; rm -f slurm-*.out")


def test_a_unit_that_failed_and_a_partition_that_is_down_are_told_of_a_cluster_that_is_ready(
    watched: Cluster,
) -> None:
    watched.execute(NODE, "systemd-run --unit=sad false; sleep 2")
    watched.execute("controller", "scontrol update partitionname=debug state=down")
    try:
        answer = why(watched)
        assert answer["is_well"] is True
        found = {(one["id"], one["subject"]) for one in answer["also"]}
        assert {("unit-failed", NODE), ("partition-not-up", "controller")} <= found
    finally:
        watched.execute(NODE, "systemctl reset-failed sad")
        watched.execute("controller", "scontrol update partitionname=debug state=up")
    words = watched.call("hpc", "why").splitlines()
    assert words == ["hpc is ready"]
