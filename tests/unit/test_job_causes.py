"""From what a real SLURM said of jobs and nodes to the cause, the remedy, and who has what.

The texts are of SLURM 24.11 in an image of Debian 13, cut short.
"""

import re

import pytest

from ai_how.hpc.catalogue import JOBS, JobCause
from ai_how.hpc.job_causes import Queue, find_job_cause, is_well
from ai_how.hpc.job_record import (
    JobRecord,
    nodes_of,
    read_jobs,
    read_mib,
    read_nodes,
    read_partition,
    read_running,
)
from ai_how.hpc.job_times import ago, duration_s, limit_text
from ai_how.hpc.why import _waiting_notes

NOW = 1796093600.0
JOB = """\
JobId=17 JobName=wrap
   UserId=hpc(1000) GroupId=hpc(1000) MCS_label=N/A
   Priority=1 Nice=0 Account=(null) QOS=(null)
   JobState=PENDING Reason=Resources Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:00 TimeLimit=1-00:00:00 TimeMin=N/A
   SubmitTime=1796093553 EligibleTime=1796093553
   StartTime=Unknown EndTime=Unknown Deadline=N/A
   Partition=compute AllocNode:Sid=controller:814
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   ReqTRES=cpu=1,mem=449M,node=1,billing=1
   MinCPUsNode=1 MinMemoryCPU=449M MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   Command=(null)
   WorkDir=/home/hpc
   StdErr=/home/hpc/my jobs/slurm-17.out
   StdOut=/home/hpc/my jobs/slurm-17.out
"""
NODES = """\
NodeName=compute-01 Arch=x86_64 CoresPerSocket=2 CPUAlloc=1 CPUEfctv=2 CPUTot=2 CPULoad=1.35 \
AvailableFeatures=(null) ActiveFeatures=(null) Gres=(null) NodeAddr=10.240.167.11 RealMemory=898 \
AllocMem=449 FreeMem=835 Sockets=1 Boards=1 State=MIXED ThreadsPerCore=1 TmpDisk=0 Weight=1 \
Partitions=compute,debug BootTime=1796092450
NodeName=compute-02 Arch=x86_64 CoresPerSocket=2 CPUAlloc=0 CPUEfctv=2 CPUTot=2 CPULoad=0.15 \
AvailableFeatures=big,fast ActiveFeatures=big,fast NodeAddr=10.240.167.12 RealMemory=898 \
AllocMem=0 FreeMem=842 Sockets=1 Boards=1 State=IDLE+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 \
Partitions=compute BootTime=1796092450 Reason=State=IDLE is a lie [root@1796093000]
NodeName=compute-03 CPUAlloc=0 CPUTot=2 RealMemory=898 AllocMem=0 State=IDLE* Partitions=compute
"""
RUNNING = """\
1         |1796094200              |hpc                |8        |compute-01     |a | b
2         |N/A                     |root               |25_3     |compute-[01-02]|wrap
"""
PARTITION = "PartitionName=compute AllowGroups=ALL MaxNodes=UNLIMITED MaxTime=01:00:00 State=UP\n"
ENDED = JOB.replace("StartTime=Unknown EndTime=Unknown", "StartTime=1796093550 EndTime=1796093552")


def job_of(text: str = JOB, **fields: str) -> JobRecord:
    for name, value in fields.items():
        text, count = re.subn(rf"\b{name}=\S*", f"{name}={value}", text, count=1)
        assert count == 1, name
    [job] = read_jobs(text)
    return job


def queue() -> Queue:
    return Queue(
        nodes=tuple(read_nodes(NODES)),
        running=tuple(read_running(RUNNING)),
        max_time="01:00:00",
        max_nodes="1",
    )


WAITING = [
    ("Resources", JobCause.WAITS_RESOURCES, "what it asks for is in use", "squeue --start -j 17"),
    ("Priority", JobCause.WAITS_PRIORITY, "others are before it", "squeue --start"),
    ("JobHeldUser", JobCause.HELD_BY_USER, "its user holds it", "scontrol release 17"),
    ("JobHeldAdmin", JobCause.HELD_BY_ADMIN, "root holds it", "scontrol release 17"),
    (
        "job_requeued_in_held_state",
        JobCause.HELD_REQUEUED,
        "it was put back into the queue",
        "scontrol release 17",
    ),
    (
        "launch_failed_requeued_held",
        JobCause.LAUNCH_FAILED,
        "a node could not begin it",
        "ai-how hpc logs -u slurmd  # then: ",
    ),
    ("BeginTime", JobCause.BEGINS_LATER, "not to begin before", "starttime=now"),
    ("JobArrayTaskLimit", JobCause.ARRAY_LIMIT, "as many tasks", "arraytaskthrottle=0"),
    ("PartitionDown", JobCause.PARTITION_DOWN, "starts no jobs", "partitionname=compute state=up"),
    ("PartitionInactive", JobCause.PARTITION_DOWN, "starts no jobs", "state=up"),
    (
        "PartitionTimeLimit",
        JobCause.PARTITION_TIME,
        "it asks for 1-00:00:00, and compute gives 01:00:00",
        "timelimit=01:00:00",
    ),
    (
        "PartitionNodeLimit",
        JobCause.PARTITION_NODES,
        "it asks for 1 nodes; compute has 3, and gives 1 to a job",
        "numnodes=3",
    ),
    (
        "ReqNodeNotAvail,_UnavailableNodes:compute-02",
        JobCause.NODES_UNAVAILABLE,
        "nodes that it needs cannot be used: compute-02, compute-03",
        "ai-how hpc why compute-02",
    ),
    (
        "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved",
        JobCause.NODES_UNAVAILABLE,
        "cannot be used",
        "hpc why",
    ),
    ("Licenses", JobCause.WAITS_LICENSES, "licenses", "show licenses"),
    ("Reservation", JobCause.WAITS_RESERVATION, "its reservation", "show reservation"),
    ("BadConstraints", JobCause.IMPOSSIBLE, "no node can ever give", "scancel 17"),
    ("QOSMaxCpuPerUserLimit", JobCause.QOS_LIMIT, "QOSMaxCpuPerUserLimit", "show qos QOS"),
    ("AssocGrpCpuLimit", JobCause.ACCOUNT_LIMIT, "AssocGrpCpuLimit", "show assoc user=hpc"),
    ("AccountNotAllowed", JobCause.PARTITION_LIMIT, "AccountNotAllowed", "partition compute"),
    ("Prolog", JobCause.WAITS, "SLURM says Prolog", "show job 17"),
]


@pytest.mark.parametrize(("reason", "cause", "says", "remedy"), WAITING, ids=str)
def test_each_reason_of_slurms_has_a_cause_and_what_mends_it(reason, cause, says, remedy):
    found = find_job_cause(job_of(Reason=reason), queue(), NOW)
    assert found is not None
    assert found.id == cause
    assert found.text.startswith("job 17 (wrap, of hpc) waits: ")
    assert says in found.text
    assert remedy in found.remedy_of("hpc")
    assert found.severity is JOBS[cause].severity
    assert found.evidence[0] == f"squeue: PENDING ({reason})"


def test_what_a_job_waits_for_is_named():
    waits = job_of(Reason="Dependency", Dependency="afterok:12(unfulfilled)")
    found = find_job_cause(waits, queue(), NOW)
    assert found is not None
    assert "waits: for afterok:12(unfulfilled)" in found.text
    assert found.remedy_of("hpc").endswith("squeue -j 12")
    never = job_of(Reason="DependencyNeverSatisfied", Dependency="afterok:12(failed)")
    found = find_job_cause(never, queue(), NOW)
    assert found is not None
    assert found.id == JobCause.DEPENDENCY_NEVER
    wrong = job_of(Reason="BadConstraints", Features="huge&fast")
    found = find_job_cause(wrong, queue(), NOW)
    assert found is not None
    assert "no node has the feature huge" in found.text


ENDS = [
    ("FAILED", "NonZeroExitCode", "3:0", JobCause.FAILED, "exit code 3", "tail -n 50 '/home/"),
    ("FAILED", "NonZeroExitCode", "127:0", JobCause.NO_SUCH_COMMAND, "exit code 127", "tail"),
    ("FAILED", "RaisedSignal:11", "0:11", JobCause.SIGNALLED, "signal 11 ended it", "tail"),
    ("FAILED", "RaisedSignal:53", "0:53", JobCause.NO_OUTPUT, "cannot be written", "'/home/hpc/my"),
    ("FAILED", "BadConstraints", "0:1", JobCause.IMPOSSIBLE, "no node can give", "scancel 17"),
    ("OUT_OF_MEMORY", "OutOfMemory", "0:125", JobCause.OUT_OF_MEMORY, "(449M)", "--mem=898M"),
    ("TIMEOUT", "TimeLimit", "0:15", JobCause.TIME_OVER, "1-00:00:00", "--time=2880"),
    ("NODE_FAIL", "NodeDown", "0:0", JobCause.NODE_FAILED, "failed under it", "why compute-01"),
    ("CANCELLED", "None", "0:0", JobCause.CANCELLED, "it was cancelled", "show job 17"),
    ("PREEMPTED", "None", "0:0", JobCause.PREEMPTED, "it made room", "show job"),
    ("SUSPENDED", "None", "0:0", JobCause.STOPPED, "it is suspended", "scontrol resume 17"),
]


@pytest.mark.parametrize(("state", "reason", "code", "cause", "says", "remedy"), ENDS)
def test_each_end_of_a_job_has_a_cause_and_what_mends_it(state, reason, code, cause, says, remedy):
    job = job_of(ENDED, JobState=state, Reason=reason, ExitCode=code, NodeList="compute-01")
    found = find_job_cause(job, Queue(), NOW)
    assert found is not None
    assert found.id == cause
    assert says in found.text
    assert remedy in found.remedy_of("hpc")
    assert not is_well(job)


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "COMPLETING"])
def test_a_job_that_runs_or_ended_well_has_no_cause(state):
    job = job_of(ENDED, JobState=state)
    assert find_job_cause(job, Queue(), NOW) is None
    assert is_well(job)


def test_who_has_what_a_job_waits_for_and_what_would_fit_is_told():
    notes = _waiting_notes(job_of(StartTime="1796094200"), queue(), NOW)
    assert re.fullmatch(r"SLURM expects to start it at .*, in 10 min", notes[0])
    assert re.fullmatch(
        r"job 8 \(a \| b, of hpc\) has 1 CPUs of compute-01 until .* at the latest", notes[1]
    )
    assert notes[2] == (
        "job 25_3 (wrap, of root) has 2 CPUs of compute-01, compute-02 without a limit"
    )
    assert notes[3] == "what would fit now: 1 CPUs, 449 MiB on compute-01"
    assert _waiting_notes(job_of(), Queue(), NOW) == [
        "SLURM does not say when it will start it",
        "what would fit now: nothing",
    ]


def test_a_node_is_read_with_its_states_and_no_reason_is_taken_for_one():
    first, second, third = read_nodes(NODES)
    assert (first.is_working, first.cpus_free, first.memory_free_mib) == (True, 1, 449)
    assert second.states == {"IDLE", "DRAIN"}
    assert second.reason == "State=IDLE is a lie"
    assert not second.is_working
    assert third.states == {"IDLE", "NOT_RESPONDING"}
    assert not third.is_working
    assert read_nodes("slurm_load_node error: Unable to contact slurm controller") == []


def test_the_words_of_a_user_are_no_fields_and_no_commands():
    """A job may be named as its user likes, and write where it likes."""
    text = JOB.replace("JobName=wrap", "JobName=x JobState=RUNNING \x1b[31m")
    evil = "/home/hpc/$(touch canary)/'o\x07ut"
    text = text.replace("/home/hpc/my jobs/slurm-17.out", evil)
    job = job_of(text)
    assert (job.state, job.name) == ("PENDING", "x JobState=RUNNING")
    ended = job_of(text.replace("   JobState=PENDING", "   JobState=FAILED"), ExitCode="1:0")
    found = find_job_cause(ended, Queue(), NOW)
    assert found is not None
    assert found.remedy.endswith("tail -n 50 '/home/hpc/$(touch canary)/'\"'\"'out'")
    shut = job_of(Reason="PartitionDown", Partition="$(reboot)")
    found = find_job_cause(shut, Queue(), NOW)
    assert found is not None
    assert "partitionname=PARTITION" in found.remedy


def test_the_tasks_of_an_array_are_read():
    text = "JobId=5 ArrayJobId=4 ArrayTaskId=1 JobName=wrap\n   JobState=RUNNING Reason=None\n"
    text += "\nJobId=4 ArrayJobId=4 ArrayTaskId=2-9%1 JobName=wrap\n   JobState=PENDING\n"
    first, rest = read_jobs(text)
    assert (first.shown_id, first.state) == ("4_1", "RUNNING")
    assert (rest.shown_id, rest.task) == ("4", "2-9%1")


def test_lists_sizes_and_times_are_read():
    assert nodes_of("compute-[01-02],login") == ("compute-01", "compute-02", "login")
    assert nodes_of("(null)") == ()
    assert [read_mib(one) for one in ("449M", "1.50G", "2048K", "many")] == [449, 1536, 2, None]
    assert duration_s("1-00:05:00") == 86700.0
    assert duration_s("UNLIMITED") is None
    assert limit_text("UNLIMITED") == "no limit"
    assert [ago(one) for one in (30, -90, 7200, 3 * 86400)] == [
        *("in 30 s", "2 min ago"),
        *("in 2 h", "in 3 d"),
    ]
    assert read_partition(PARTITION, "compute")["MaxTime"] == "01:00:00"
    assert read_partition(PARTITION, "debug") == {}
