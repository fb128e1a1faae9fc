"""What can be wrong with SLURM, its nodes and its jobs: ids, severities, meanings, remedies.

An id is never changed or reused. docs/troubleshooting.md lists them all.
"""

from collections.abc import Mapping
from enum import StrEnum

from ai_how.clusters.diagnosis import catalogue
from ai_how.clusters.diagnosis.catalogue import CRITICAL, NOTICE, WARNING, Entry


class SlurmCause(StrEnum):
    """The ids of what keeps a node from SLURM."""

    CLOCK_OFF = "clock-off"
    MUNGE_REFUSED = "munge-refused"
    MUNGE_DOWN = "munge-down"
    SLURMCTLD_DOWN = "slurmctld-down"
    NODE_NOT_REGISTERED = "node-not-registered"
    GPUS_REFUSED = "gpus-refused"
    NODE_OUT_OF_SERVICE = "node-out-of-service"
    NFS_DOWN = "nfs-down"
    HOME_NOT_MOUNTED = "home-not-mounted"
    SLURMD_DOWN = "slurmd-down"
    PARTITION_NOT_UP = "partition-not-up"
    CLOCK_UNKEPT = "clock-unkept"


class JobCause(StrEnum):
    """The ids of why a job waits, or how it ended."""

    WAITS_RESOURCES = "job-waits-resources"
    WAITS_PRIORITY = "job-waits-priority"
    WAITS_DEPENDENCY = "job-waits-dependency"
    DEPENDENCY_NEVER = "job-dependency-never"
    HELD_BY_USER = "job-held-by-user"
    HELD_BY_ADMIN = "job-held-by-admin"
    HELD_REQUEUED = "job-held-requeued"
    LAUNCH_FAILED = "job-launch-failed"
    BEGINS_LATER = "job-begins-later"
    ARRAY_LIMIT = "job-array-limit"
    QOS_LIMIT = "job-qos-limit"
    ACCOUNT_LIMIT = "job-account-limit"
    PARTITION_DOWN = "job-partition-down"
    PARTITION_NODES = "job-partition-nodes"
    PARTITION_TIME = "job-partition-time"
    PARTITION_LIMIT = "job-partition-limit"
    NODES_UNAVAILABLE = "job-nodes-unavailable"
    WAITS_LICENSES = "job-waits-licenses"
    WAITS_RESERVATION = "job-waits-reservation"
    IMPOSSIBLE = "job-impossible"
    WAITS = "job-waits"
    FAILED = "job-failed"
    SIGNALLED = "job-signalled"
    NO_SUCH_COMMAND = "job-no-such-command"
    NO_OUTPUT = "job-no-output"
    OUT_OF_MEMORY = "job-out-of-memory"
    TIME_OVER = "job-time-over"
    NODE_FAILED = "job-node-failed"
    CANCELLED = "job-cancelled"
    PREEMPTED = "job-preempted"
    STOPPED = "job-stopped"
    STUCK = "job-stuck"


_ON_CONTROLLER = "ai-how {kind} exec controller -- "
_JOB = _ON_CONTROLLER + "scontrol show job {job}"
_RELEASE = _ON_CONTROLLER + "scontrol release {job}"
_CANCEL = _ON_CONTROLLER + "scancel {job}"
_QUEUE = _ON_CONTROLLER + "squeue --start -j {job}"

SLURM: Mapping[str, Entry] = {
    SlurmCause.CLOCK_OFF: Entry(
        CRITICAL,
        "the clock of a node was set, or nothing keeps it: munge refuses what it signs",
        "ai-how {kind} start  # its log: ai-how {kind} logs {node} -u ai-how-clock -u chrony",
    ),
    SlurmCause.MUNGE_REFUSED: Entry(
        CRITICAL,
        "the munge key of a node is another one, or its clock is off",
        "ai-how {kind} stop {node} && ai-how {kind} start {node}",
    ),
    SlurmCause.MUNGE_DOWN: Entry(
        CRITICAL,
        "munged does not run on a node",
        "ai-how {kind} exec {node} -- systemctl restart munge",
    ),
    SlurmCause.SLURMCTLD_DOWN: Entry(
        CRITICAL,
        "slurmctld does not run, or does not answer",
        "ai-how {kind} exec {node} -- systemctl restart slurmctld  "
        "# its log: ai-how {kind} logs {node} -u slurmctld",
    ),
    SlurmCause.NODE_NOT_REGISTERED: Entry(
        CRITICAL,
        "slurmd of a node did not register with slurmctld",
        "ai-how {kind} logs {node} -u slurmd",
    ),
    SlurmCause.GPUS_REFUSED: Entry(
        CRITICAL,
        "a node reports other GPUs than slurm.conf has",
        "ai-how {kind} start  # it gives the node its simulated GPUs again",
    ),
    SlurmCause.NODE_OUT_OF_SERVICE: Entry(
        CRITICAL,
        "SLURM was told to keep jobs from the node, or refuses it",
        _ON_CONTROLLER + "scontrol update nodename={node} state=resume",
    ),
    SlurmCause.NFS_DOWN: Entry(
        CRITICAL,
        "the NFS server of /home does not run: programs that use /home hang",
        "ai-how {kind} exec {node} -- systemctl restart nfs-server",
    ),
    SlurmCause.HOME_NOT_MOUNTED: Entry(
        CRITICAL,
        "the shared /home of a node is not mounted, or does not answer",
        "ai-how {kind} exec {node} -- systemctl restart home.mount",
    ),
    SlurmCause.SLURMD_DOWN: Entry(
        CRITICAL,
        "slurmd does not run on a node",
        "ai-how {kind} exec {node} -- systemctl restart slurmd",
    ),
    SlurmCause.PARTITION_NOT_UP: Entry(
        WARNING,
        "a partition starts no jobs, or takes none",
        _ON_CONTROLLER + "scontrol update partitionname={partition} state=up",
    ),
    SlurmCause.CLOCK_UNKEPT: Entry(
        WARNING,
        "what keeps the clock of a node does not run",
        "ai-how {kind} exec {node} -- systemctl restart ai-how-clock chrony",
    ),
}

JOBS: Mapping[str, Entry] = {
    JobCause.WAITS_RESOURCES: Entry(
        NOTICE, "it is the next one; what it asks for is in use (`Resources`)", _QUEUE
    ),
    JobCause.WAITS_PRIORITY: Entry(
        NOTICE, "others are before it in the queue (`Priority`)", _QUEUE
    ),
    JobCause.WAITS_DEPENDENCY: Entry(
        NOTICE,
        "it waits for other jobs (`Dependency`)",
        _ON_CONTROLLER + "squeue -j {other}",
    ),
    JobCause.DEPENDENCY_NEVER: Entry(
        CRITICAL,
        "what it waits for will never be (`DependencyNeverSatisfied`)",
        _ON_CONTROLLER + "scontrol update jobid={job} dependency=  # or: scancel {job}",
    ),
    JobCause.HELD_BY_USER: Entry(WARNING, "its user holds it (`JobHeldUser`)", _RELEASE),
    JobCause.HELD_BY_ADMIN: Entry(
        WARNING, "root holds it, or it has the priority 0 (`JobHeldAdmin`)", _RELEASE
    ),
    JobCause.HELD_REQUEUED: Entry(
        WARNING,
        "it was put back into the queue, and is held (`requeued in held state`)",
        _RELEASE,
    ),
    JobCause.LAUNCH_FAILED: Entry(
        CRITICAL,
        "a node could not begin it; it is held (`launch failed requeued held`)",
        "ai-how {kind} logs -u slurmd  # then: ai-how {kind} exec controller -- "
        "scontrol release {job}",
    ),
    JobCause.BEGINS_LATER: Entry(
        NOTICE,
        "it was told to begin later (`BeginTime`)",
        _ON_CONTROLLER + "scontrol update jobid={job} starttime=now",
    ),
    JobCause.ARRAY_LIMIT: Entry(
        NOTICE,
        "as many tasks of its array run as may at once (`JobArrayTaskLimit`)",
        _ON_CONTROLLER + "scontrol update jobid={array} arraytaskthrottle=0",
    ),
    JobCause.QOS_LIMIT: Entry(
        WARNING,
        "a limit of its quality of service (`QOS…`)",
        _ON_CONTROLLER + "sacctmgr show qos {qos}",
    ),
    JobCause.ACCOUNT_LIMIT: Entry(
        WARNING,
        "a limit of its account or user (`Assoc…`, `InvalidAccount`)",
        _ON_CONTROLLER + "sacctmgr show assoc user={user}",
    ),
    JobCause.PARTITION_DOWN: Entry(
        CRITICAL,
        "its partition starts no jobs (`PartitionDown`, `PartitionInactive`)",
        _ON_CONTROLLER + "scontrol update partitionname={partition} state=up",
    ),
    JobCause.PARTITION_NODES: Entry(
        CRITICAL,
        "it asks for more nodes than its partition has or gives (`PartitionNodeLimit`)",
        _ON_CONTROLLER + "scontrol update jobid={job} numnodes={nodes}",
    ),
    JobCause.PARTITION_TIME: Entry(
        CRITICAL,
        "it asks for more time than its partition gives (`PartitionTimeLimit`)",
        _ON_CONTROLLER + "scontrol update jobid={job} timelimit={limit}",
    ),
    JobCause.PARTITION_LIMIT: Entry(
        CRITICAL,
        "its partition does not take it (`PartitionConfig`, `AccountNotAllowed`, …)",
        _ON_CONTROLLER + "scontrol show partition {partition}",
    ),
    JobCause.NODES_UNAVAILABLE: Entry(
        WARNING,
        "nodes that it needs are down, drained or reserved (`ReqNodeNotAvail`, `NodeDown`)",
        "ai-how {kind} why {node}",
    ),
    JobCause.WAITS_LICENSES: Entry(
        NOTICE,
        "the licenses that it asks for are in use (`Licenses`)",
        _ON_CONTROLLER + "scontrol show licenses",
    ),
    JobCause.WAITS_RESERVATION: Entry(
        NOTICE,
        "its reservation has not begun, or is gone (`Reservation`, `ReservationDeleted`)",
        _ON_CONTROLLER + "scontrol show reservation",
    ),
    JobCause.IMPOSSIBLE: Entry(
        CRITICAL, "no node can ever give what it asks for (`BadConstraints`)", _CANCEL
    ),
    JobCause.WAITS: Entry(NOTICE, "it waits for a reason in SLURM's own word", _JOB),
    JobCause.FAILED: Entry(
        CRITICAL,
        "its script ended with an exit code that is not 0 (`NonZeroExitCode`)",
        "ai-how {kind} exec controller -- tail -n 50 {path}",
    ),
    JobCause.SIGNALLED: Entry(
        CRITICAL,
        "a signal ended it (`RaisedSignal`)",
        "ai-how {kind} exec controller -- tail -n 50 {path}",
    ),
    JobCause.NO_SUCH_COMMAND: Entry(
        CRITICAL,
        "its script calls a program that is not there, or may not be run (exit code 126 or 127)",
        "ai-how {kind} exec controller -- tail -n 50 {path}",
    ),
    JobCause.NO_OUTPUT: Entry(
        CRITICAL,
        "the directory of its output is not there, or it may not write to it",
        "ai-how {kind} exec controller -- ls -ld {path}",
    ),
    JobCause.OUT_OF_MEMORY: Entry(
        CRITICAL,
        "it took more memory than it asked for (`OutOfMemory`)",
        "sbatch --mem={memory} …  # what it asks for must be more",
    ),
    JobCause.TIME_OVER: Entry(
        CRITICAL,
        "its time was over (`TimeLimit`)",
        "sbatch --time={limit} …  # what it asks for must be more",
    ),
    JobCause.NODE_FAILED: Entry(
        CRITICAL,
        "a node went off, or did not answer, under it (`NodeFail`)",
        "ai-how {kind} why {node}",
    ),
    JobCause.CANCELLED: Entry(NOTICE, "it was cancelled", _JOB),
    JobCause.PREEMPTED: Entry(NOTICE, "it made room for another job (`Preempted`)", _JOB),
    JobCause.STOPPED: Entry(
        WARNING,
        "it has its nodes, but stands still (`suspended`, `stopped`)",
        _ON_CONTROLLER + "scontrol resume {job}",
    ),
    JobCause.STUCK: Entry(
        WARNING,
        "it has ended, and its nodes do not come free (`completing`)",
        "ai-how {kind} logs {node} -u slurmd",
    ),
}

CATALOGUE: Mapping[str, Entry] = {**catalogue.CATALOGUE, **SLURM, **JOBS}
"""All of a SLURM cluster."""
