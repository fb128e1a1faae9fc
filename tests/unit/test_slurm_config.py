"""slurm.conf letter by letter, what a node promises of itself, and reading what sinfo says."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.hpc.identities import slurm_nodes
from ai_how.hpc.jobs import OUR_REASON
from ai_how.hpc.slurm_config import SlurmNode, idle_partition, render_cgroup_conf, render_slurm_conf
from ai_how.hpc.workload import node_readiness, read_sinfo
from ai_how.spec.models import PartitionSpec, SlurmConfigSpec
from cluster_bench import draft_of, read_hpc

CONTROLLER = IPv4Address("10.77.0.10")

GOLDEN = """\
ClusterName=hpc
SlurmctldHost=controller(10.77.0.10)
SlurmctldParameters=enable_configless
SlurmctldPort=6817
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup,task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
MpiDefault=pmix
ReturnToService=2
MessageTimeout=60
SlurmdTimeout=120
BatchStartTimeout=60
KillWait=10
DefMemPerCPU=484
NodeName=compute-01 NodeAddr=10.77.0.11 CPUs=1 Sockets=1 CoresPerSocket=1 ThreadsPerCore=1 \
RealMemory=898 State=UNKNOWN
NodeName=compute-02 NodeAddr=10.77.0.12 CPUs=8 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 \
RealMemory=3878 State=DOWN Reason="auto_start is off: start compute-02"
PartitionName=debug Nodes=compute-01 Default=NO MaxTime=30:00 State=UP
PartitionName=batch Nodes=ALL Default=YES MaxTime=24:00:00 State=UP
"""

NODES = """compute_nodes: [{cpu_cores: 1, memory_gb: 1, disk_gb: 10},
      {cpu_cores: 8, memory_gb: 4, disk_gb: 10, auto_start: false}]"""
SLURM = """slurm_config: {max_job_time: "24:00:00", default_partition: batch, partitions: [
      {name: debug, nodes: [compute-01], max_time: "30:00"}, batch]}"""


def lines_of(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(word)]


def conf_of(*lines: str, nodes: str = NODES) -> str:
    hpc = read_hpc(*lines, nodes=nodes)
    return render_slurm_conf("hpc", CONTROLLER, slurm_nodes(draft_of(hpc)), hpc.slurm_config)


def test_slurm_conf_is_rendered_as_agreed():
    assert conf_of(SLURM) == GOLDEN


def test_without_any_wish_there_is_one_default_partition_without_a_limit():
    assert lines_of(conf_of(), "PartitionName") == [
        "PartitionName=compute Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
    ]


@pytest.mark.parametrize(
    ("slurm", "default"),
    [
        (SlurmConfigSpec(partitions=("a", "b")), "a"),
        (SlurmConfigSpec(partitions=("a", {"name": "b", "default": True})), "b"),
        (SlurmConfigSpec(partitions=("a", "b"), default_partition="b"), "b"),
    ],
)
def test_exactly_one_partition_is_the_default(slurm, default):
    text = render_slurm_conf("hpc", CONTROLLER, (), slurm)
    marked = [line for line in lines_of(text, "PartitionName") if "Default=YES" in line]
    assert [line.split()[0] for line in marked] == [f"PartitionName={default}"]


def test_a_node_that_is_no_longer_asked_for_stays_known_and_is_down():
    former = draft_of(read_hpc()).state
    hpc = read_hpc(nodes="compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}")
    nodes = slurm_nodes(draft_of(hpc, former))
    assert [(node.name, node.is_left_off) for node in nodes] == [
        ("compute-01", False),
        ("compute-02", True),
    ]


def test_the_asked_topology_is_slurms_too():
    topology = "cpu_topology: {sockets: 2, cores: 2, threads: 2}"
    hpc = read_hpc(
        f"hardware: {{acceleration: {{{topology}}}}}",
        nodes="compute_nodes: {count: 1, cpu_cores: 8, memory_gb: 1, disk_gb: 10}",
    )
    [node] = slurm_nodes(draft_of(hpc))
    assert (node.sockets, node.cores_per_socket, node.threads_per_core) == (2, 2, 2)
    assert node.cpus == 8


@given(st.integers(min_value=512, max_value=2**22))
def test_a_node_promises_less_memory_than_a_kernel_was_seen_to_leave(memory_mib):
    node = SlurmNode("compute-01", CONTROLLER, 1, 1, 1, memory_mib)
    assert 0 < node.real_memory_mib <= memory_mib - 60 - memory_mib * 16 // 1000


def test_jobs_are_held_to_what_they_were_given():
    assert set(render_cgroup_conf().split()) >= {"ConstrainCores=yes", "ConstrainRAMSpace=yes"}


def test_what_sinfo_says_is_read_with_its_reasons():
    told = (
        "compute-01|idle|none\n"
        "compute-02|down*|Not responding\n"
        "compute-03|drained|a | in it\n"
        "compute-04|ALLOCATED|\n"
        "\n"
        "sinfo: warning of something\n"
        "|idle|none\n"
    )
    assert read_sinfo(told) == {
        "compute-01": node_readiness("compute-01", "idle", None),
        "compute-02": node_readiness("compute-02", "down*", "Not responding"),
        "compute-03": node_readiness("compute-03", "drained", "a | in it"),
        "compute-04": node_readiness("compute-04", "allocated", None),
    }


@pytest.mark.parametrize(
    ("state", "is_working"),
    [
        ("idle", True),
        ("mixed", True),
        ("mixed-", True),
        ("allocated", True),
        ("completing", True),
        ("planned", True),
        ("reserved", True),
        ("idle*", False),
        ("down", False),
        ("down*", False),
        ("drained", False),
        ("draining", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_node_works_when_it_takes_or_runs_jobs(state, is_working):
    assert node_readiness("compute-01", state, None).is_working is is_working


@pytest.mark.parametrize(
    ("state", "reason", "is_ours", "is_users"),
    [
        ("drained*", OUR_REASON, True, False),
        ("drained*", f"{OUR_REASON} : Not responding", True, False),
        ("draining", "bad fan : Not responding", False, True),
        ("drained", None, False, True),
        ("down*", OUR_REASON, False, False),
    ],
)
def test_a_node_that_we_closed_is_told_from_one_that_its_user_drained(
    state, reason, is_ours, is_users
):
    seen = node_readiness("compute-01", state, reason)
    assert (seen.is_closed_by_us, seen.is_drained) == (is_ours, is_users)


@given(st.text() | st.text(alphabet="|\n\r\x85\x1c* abc"))
def test_no_output_of_sinfo_is_too_strange(text):
    for name, seen in read_sinfo(text).items():
        assert seen.name == name != ""
        assert seen.state


def test_a_node_is_tested_in_the_first_partition_that_has_it():
    partitions = (
        PartitionSpec(name="gpu", nodes=("compute-02",)),
        PartitionSpec(name="small", nodes=("compute-01", "compute-02")),
    )
    assert idle_partition(partitions, "compute-02") == "gpu"
    assert idle_partition(partitions, "compute-01") == "small"
    assert idle_partition(partitions, "compute-03") is None
