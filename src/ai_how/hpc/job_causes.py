"""Why a job waits, or how it ended, from what SLURM says of it (pure)."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ai_how.clusters.diagnosis.kind import Cause, Rank, cause_of
from ai_how.hpc.catalogue import JOBS, JobCause
from ai_how.hpc.job_record import JobRecord, NodeRoom, RunningJob, is_safe, read_mib
from ai_how.hpc.job_times import ago, at, duration_s, limit_text

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING"})

# By SLURM's word without case and underscores: the first that it begins with.
_REASONS: tuple[tuple[str, JobCause], ...] = (
    ("launchfailed", JobCause.LAUNCH_FAILED),
    ("jobrequeuedinheldstate", JobCause.HELD_REQUEUED),
    ("jobholdmaxrequeue", JobCause.HELD_REQUEUED),
    ("resources", JobCause.WAITS_RESOURCES),
    ("priority", JobCause.WAITS_PRIORITY),
    ("dependencyneversatisfied", JobCause.DEPENDENCY_NEVER),
    ("dependency", JobCause.WAITS_DEPENDENCY),
    ("jobhelduser", JobCause.HELD_BY_USER),
    ("jobheldadmin", JobCause.HELD_BY_ADMIN),
    ("begintime", JobCause.BEGINS_LATER),
    ("jobarraytasklimit", JobCause.ARRAY_LIMIT),
    ("qos", JobCause.QOS_LIMIT),
    ("invalidqos", JobCause.QOS_LIMIT),
    ("maxqos", JobCause.QOS_LIMIT),
    ("assoc", JobCause.ACCOUNT_LIMIT),
    ("maxcpuperaccount", JobCause.ACCOUNT_LIMIT),
    ("maxmemoryperaccount", JobCause.ACCOUNT_LIMIT),
    ("invalidaccount", JobCause.ACCOUNT_LIMIT),
    ("accountingpolicy", JobCause.ACCOUNT_LIMIT),
    ("partitiondown", JobCause.PARTITION_DOWN),
    ("partitioninactive", JobCause.PARTITION_DOWN),
    ("partitionnodelimit", JobCause.PARTITION_NODES),
    ("partitiontimelimit", JobCause.PARTITION_TIME),
    ("partitionconfig", JobCause.PARTITION_LIMIT),
    ("accountnotallowed", JobCause.PARTITION_LIMIT),
    ("reqnodenotavail", JobCause.NODES_UNAVAILABLE),
    ("nodes", JobCause.NODES_UNAVAILABLE),
    ("nodedown", JobCause.NODES_UNAVAILABLE),
    ("licenses", JobCause.WAITS_LICENSES),
    ("reservation", JobCause.WAITS_RESERVATION),
    ("badconstraints", JobCause.IMPOSSIBLE),
    ("maxmemperlimit", JobCause.IMPOSSIBLE),
)
_STATES = {
    "TIMEOUT": JobCause.TIME_OVER,
    "DEADLINE": JobCause.TIME_OVER,
    "OUT_OF_MEMORY": JobCause.OUT_OF_MEMORY,
    "NODE_FAIL": JobCause.NODE_FAILED,
    "BOOT_FAIL": JobCause.NODE_FAILED,
    "CANCELLED": JobCause.CANCELLED,
    "REVOKED": JobCause.CANCELLED,
    "PREEMPTED": JobCause.PREEMPTED,
    "SUSPENDED": JobCause.STOPPED,
    "STOPPED": JobCause.STOPPED,
}
# slurmstepd's own: it could not open the files of the job. 125 is the end for want of memory.
_NO_FILES, _NO_MEMORY = 53, 125
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What else SLURM has: the nodes, and the jobs on them."""

    nodes: tuple[NodeRoom, ...] = ()
    running: tuple[RunningJob, ...] = ()
    max_time: str = ""
    """Of the job's partition."""
    max_nodes: str = ""


def is_waiting(job: JobRecord) -> bool:
    return job.state in WAITING


def is_well(job: JobRecord) -> bool:
    """Whether it runs, or has ended as it should."""
    return job.state in RUNNING or job.state == "COMPLETED"


def find_job_cause(job: JobRecord, queue: Queue, now: float) -> Cause | None:
    """Why a job waits, stands still or failed; None if it is well."""
    if is_waiting(job):
        return _waiting(job, queue, now)
    if is_well(job):
        return None
    return _ended(job)


def nodes_for(job: JobRecord, queue: Queue) -> list[NodeRoom]:
    """The nodes on which a job may run: those of its partitions."""
    wanted = set(job.partition.split(","))
    return [one for one in queue.nodes if wanted & set(one.partitions)]


def _waiting(job: JobRecord, queue: Queue, now: float) -> Cause:
    word = job.reason.replace("_", "").lower()
    cause = next((one for begin, one in _REASONS if word.startswith(begin)), JobCause.WAITS)
    says, lines = _describe_wait(cause, job, queue, now)
    evidence = [f"squeue: PENDING ({job.reason or 'no reason'})", *lines]
    text = f"job {job.shown_id} ({job.name}, of {job.user}) waits: {says}"
    return _of(cause, job, text, evidence, queue)


def _describe_wait(
    cause: JobCause, job: JobRecord, queue: Queue, now: float
) -> tuple[str, list[str]]:
    there = nodes_for(job, queue)
    down = [one for one in there if not one.is_working]
    says, lines = _SAYS.get(cause, f"SLURM says {job.reason or 'nothing'}"), []
    match cause:
        case JobCause.WAITS_DEPENDENCY | JobCause.DEPENDENCY_NEVER:
            never = ", which will never be" if cause is JobCause.DEPENDENCY_NEVER else ""
            says = f"for {job.get('Dependency') or 'another job'}{never}"
        case JobCause.BEGINS_LATER:
            begins = job.time("EligibleTime") or job.time("StartTime")
            when = f"before {at(begins)}, {ago(begins - now)}" if begins else "yet"
            says = f"it is not to begin {when}"
        case JobCause.PARTITION_TIME:
            asked = limit_text(job.get("TimeLimit"))
            says = f"it asks for {asked}, and {job.partition} gives {queue.max_time or 'less'}"
        case JobCause.PARTITION_NODES:
            asked = job.get("NumNodes").partition("-")[0]
            has = f"{job.partition} has {len(there)}, and gives {queue.max_nodes or '?'} to a job"
            says = f"it asks for {asked} nodes; {has}"
        case JobCause.NODES_UNAVAILABLE:
            names = ", ".join(one.name for one in down[:8]) or job.get("ReqNodeList")
            says = f"nodes that it needs cannot be used: {names or 'SLURM does not say which'}"
        case JobCause.IMPOSSIBLE:
            says, lines = _too_much(job, there), list(map(_room, there[:4]))
    return says, [f"it asks for {_asked(job)}", *lines, *map(_told, down)]


_SAYS = {
    JobCause.WAITS_RESOURCES: "what it asks for is in use; it is the next one",
    JobCause.WAITS_PRIORITY: "others are before it in the queue",
    JobCause.HELD_BY_USER: "its user holds it",
    JobCause.HELD_BY_ADMIN: "root holds it, or gave it the priority 0",
    JobCause.HELD_REQUEUED: "it was put back into the queue, and is held",
    JobCause.LAUNCH_FAILED: "a node could not begin it, so it is held",
    JobCause.ARRAY_LIMIT: "as many tasks of its array run as may at once",
    JobCause.PARTITION_DOWN: "its partition starts no jobs",
    JobCause.WAITS_LICENSES: "the licenses that it asks for are in use",
    JobCause.WAITS_RESERVATION: "its reservation has not begun, or is gone",
}


def _ended(job: JobRecord) -> Cause:
    code, number = job.exit_code
    cause = _STATES.get(job.state) or _failure(job, code, number)
    asked = job.asked("mem")
    says = {
        JobCause.TIME_OVER: f"its time was over: {limit_text(job.get('TimeLimit'))}",
        JobCause.OUT_OF_MEMORY: f"it took more memory than it asked for ({asked or '?'})",
        JobCause.NODE_FAILED: f"{job.get('NodeList') or 'a node'} failed under it",
        JobCause.CANCELLED: "it was cancelled",
        JobCause.PREEMPTED: "it made room for another job",
        JobCause.STOPPED: f"it is {job.state.lower()}: it has its nodes, and stands still",
        JobCause.NO_OUTPUT: f"its output cannot be written to {job.get('StdOut')}",
        JobCause.NO_SUCH_COMMAND: f"a program was not found, or may not be run (exit code {code})",
        JobCause.SIGNALLED: f"signal {number} ended it",
        JobCause.IMPOSSIBLE: f"SLURM refused it: no node can give {_asked(job)}",
    }.get(cause, f"its script ended with exit code {code}")
    text = f"job {job.shown_id} ({job.name}, of {job.user}): {says}"
    evidence = [f"scontrol: {job.state} ({job.reason or 'no reason'}), ExitCode={code}:{number}"]
    if job.time("EndTime") and cause is not JobCause.STOPPED:
        evidence.append(f"it ended at {at(job.time('EndTime'))} on {job.get('NodeList') or '-'}")
    return _of(cause, job, text, evidence, Queue())


def _failure(job: JobRecord, code: int, number: int) -> JobCause:
    if job.reason.startswith("BadConstraints"):
        return JobCause.IMPOSSIBLE
    if number == _NO_FILES:
        return JobCause.NO_OUTPUT
    if number == _NO_MEMORY:
        return JobCause.OUT_OF_MEMORY
    if number:
        return JobCause.SIGNALLED
    if code in {_NOT_FOUND, _NOT_EXECUTABLE}:
        return JobCause.NO_SUCH_COMMAND
    return JobCause.FAILED


def _of(cause: JobCause, job: JobRecord, text: str, evidence: Sequence[str], queue: Queue) -> Cause:
    """The cause with the words for its remedy; what is no plain word is not among them."""
    output = PurePosixPath(job.fields.get("StdOut") or "/")
    path = output.parent if cause is JobCause.NO_OUTPUT else output
    others = re.findall(r"\d+", job.get("Dependency").partition(":")[2])
    down = [one.name for one in nodes_for(job, queue) if not one.is_working] or list(job.nodes)
    words = {
        "job": job.shown_id,
        "array": job.array or job.id,
        "other": ",".join(others[:20]),
        "partition": job.partition,
        "user": job.user,
        "qos": job.get("QOS"),
        "nodes": str(len(nodes_for(job, queue)) or ""),
    }
    words = {name: word for name, word in words.items() if is_safe(word.replace(",", "")) and word}
    words |= {"path": shlex.quote(one_path(str(path))), "memory": _more_memory(job)}
    words["limit"] = queue.max_time if cause is JobCause.PARTITION_TIME else _more_time(job)
    subject = f"job {job.shown_id}"
    node = next((one for one in down if is_safe(one)), "NODE")
    found = cause_of(JOBS, Rank.JOB, cause, node, text, evidence, **words)
    return Cause(found.rank, found.id, subject, text, found.severity, found.evidence, found.remedy)


def one_path(path: str) -> str:
    """The path of a user's job, for a command to paste: without control characters."""
    return "".join(one for one in path if one.isprintable())[:400]


def _more_memory(job: JobRecord) -> str:
    asked = read_mib(job.asked("mem"))
    return f"{2 * asked}M" if asked else "MORE"


def _more_time(job: JobRecord) -> str:
    seconds = duration_s(job.get("TimeLimit"))
    return str(max(1, round(2 * seconds / 60))) if seconds else "MORE"


def _asked(job: JobRecord) -> str:
    nodes = job.get("NumNodes").partition("-")[0] or "1"
    parts = [f"{nodes} {'node' if nodes == '1' else 'nodes'}"]
    parts += [f"{job.get('NumCPUs').partition('-')[0] or '?'} CPUs"]
    parts += [f"{memory} of memory"] if (memory := job.asked("mem")) else []
    parts += [f"features {features}"] if (features := job.get("Features")) else []
    parts += [f"nodes {names}"] if (names := job.get("ReqNodeList")) else []
    return ", ".join(parts)


def _too_much(job: JobRecord, there: Sequence[NodeRoom]) -> str:
    """What no node can give, if that is plain."""
    features = set(re.findall(r"[\w.-]+", job.get("Features")))
    has = {one for node in there for one in node.features.split(",")}
    if missing := sorted(features - has):
        return f"no node has the feature {', '.join(missing[:4])}"
    return "no node can ever give what it asks for"


def _told(node: NodeRoom) -> str:
    states = "+".join(sorted(node.states)).lower()
    return f"{node.name} is {states}" + (f": {node.reason}" if node.reason else "")


def _room(node: NodeRoom) -> str:
    features = f", features {node.features}" if node.features else ""
    return f"{node.name} has {node.cpus} CPUs, {node.memory_mib} MiB{features}"
