"""Why a job of SLURM waits, or how it ended: joined with what is wrong with its nodes."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ai_how.clusters.cluster_access import ClusterAccess, client_of
from ai_how.clusters.diagnosis.kind import Cause
from ai_how.clusters.diagnosis.look import read_sections
from ai_how.clusters.diagnosis.why import LIBVIRT_S, Answer, explain, find_all, worst_first
from ai_how.errors import AiHowError, SpecError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.serial_log import one_line
from ai_how.hpc.catalogue import JobCause
from ai_how.hpc.job_causes import (
    Queue,
    find_job_cause,
    is_waiting,
    is_well,
    nodes_for,
    one_path,
)
from ai_how.hpc.job_record import (
    ASK_JOB,
    ASK_QUEUE,
    JobRecord,
    read_jobs,
    read_nodes,
    read_partition,
    read_running,
)
from ai_how.hpc.job_times import ago, at
from ai_how.state.models import ClusterState, NodeState
from ai_how.waiting import Deadline

ASK_S = 60.0
MOST = 8
_OF_OUTPUT = (
    JobCause.FAILED,
    JobCause.SIGNALLED,
    JobCause.NO_SUCH_COMMAND,
    JobCause.OUT_OF_MEMORY,
)
# In the order in which an array is told by one of its tasks.
_ORDER = ("PENDING", "FAILED", "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "RUNNING")


def explain_job(access: ClusterAccess, number: str) -> Answer:
    """Why a job does not run, or how it ended. `number` is one that squeue shows: `12`, `12_3`.

    If SLURM cannot be asked, the answer is why not. Raises SpecError if SLURM knows no such job.
    """
    state = access.get_state()
    controller = state.find_controller()
    told = _ask(access, controller, ASK_JOB, number) if controller else None
    found = read_jobs(told or "")
    if controller is None or told is None or (not found and "Invalid job id" not in told):
        return _without_slurm(access, number, controller)
    if not found:
        raise SpecError(
            f"SLURM knows no job {number}",
            details="It forgets a job some minutes after its end (MinJobAge).",
            hint="ai-how hpc exec controller -- squeue -a",
        )
    job = min(found, key=_order)
    queue = _read_queue(access, controller, job) if is_waiting(job) else Queue()
    now = time.time()
    cause = find_job_cause(job, queue, now)
    notes = [_array_note(found)] if found[1:] else []
    notes += _waiting_notes(job, queue, now) if is_waiting(job) else []
    if cause and cause.id in _OF_OUTPUT:
        cause = replace(cause, evidence=(*cause.evidence, *_output(access, state, job)))
    return _join(access, state, job, queue, cause, notes)


def _join(
    access: ClusterAccess,
    state: ClusterState,
    job: JobRecord,
    queue: Queue,
    cause: Cause | None,
    notes: Sequence[str],
) -> Answer:
    """The answer, with what is wrong with the nodes that the job would need."""
    down = {one.name for one in nodes_for(job, queue) if not one.is_working}
    nodes = [one for one in state.nodes if one.name in down]
    found = find_all(access, state, nodes).of(down) if nodes else None
    deeper = list(found.causes) if found else []
    first = cause
    if cause and cause.id == JobCause.NODES_UNAVAILABLE and deeper:
        first, deeper = deeper[0], [cause, *deeper[1:]]
    return Answer(
        cluster=state.name,
        subject=f"job {job.shown_id}",
        is_well=is_well(job),
        says=_says(job),
        cause=first,
        also=worst_first(deeper),
        notes=tuple(notes),
        silent=found.silent if found else (),
    )


def _without_slurm(access: ClusterAccess, number: str, controller: NodeState | None) -> Answer:
    answer = explain(access, controller)
    says = f"SLURM cannot be asked about job {number}"
    late = f"controller: scontrol did not answer within {ASK_S:g} s"
    silent = (*answer.silent, *([] if answer.cause else [late]))
    return replace(answer, subject=f"job {number}", is_well=False, says=says, silent=silent)


def _says(job: JobRecord) -> str:
    what = f"job {job.shown_id} ({job.name}, of {job.user})"
    nodes = job.get("NodeList")
    if job.state == "COMPLETED":
        return f"{what} ended with 0 at {at(job.time('EndTime'))}, on {nodes}"
    if is_well(job):
        until = job.time("EndTime")
        limit = f", until {at(until)} at the latest" if until else ", without a limit of time"
        return f"{what} runs on {nodes} since {at(job.time('StartTime'))}{limit}"
    return f"job {job.shown_id} {'waits' if is_waiting(job) else 'is ' + job.state.lower()}"


def _order(job: JobRecord) -> tuple[int, int]:
    place = _ORDER.index(job.state) if job.state in _ORDER else len(_ORDER)
    return place, int(job.id)


def _array_note(tasks: Sequence[JobRecord]) -> str:
    states = [one.state.lower() for one in tasks]
    counts = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
    return f"it is an array; SLURM has these entries of it: {counts}"


def _ask(access: ClusterAccess, node: NodeState, script: str, *words: str) -> str | None:
    """The output of a script on a node, or None if it cannot be asked in time."""
    place = access.place()
    if not place.is_up:
        return None
    with suppress(AiHowError), client_of(place, patience_s=LIBVIRT_S) as client:
        if client.is_agent_connected(node.uuid):
            agent = GuestAgent(client, node.uuid, node.name)
            argv = ["/bin/busybox", "sh", "-c", script, "sh", *words]
            return agent.run(argv, Deadline.after(ASK_S)).output
    return None


def _read_queue(access: ClusterAccess, controller: NodeState, job: JobRecord) -> Queue:
    sections = read_sections(_ask(access, controller, ASK_QUEUE) or "")
    partition = read_partition(sections.get("partitions", ""), job.partition)
    return Queue(
        nodes=tuple(read_nodes(sections.get("nodes", ""))),
        running=tuple(read_running(sections.get("running", ""))),
        max_time=one_line(partition.get("MaxTime", "")),
        max_nodes=one_line(partition.get("MaxNodes", "")),
    )


def _waiting_notes(job: JobRecord, queue: Queue, now: float) -> list[str]:
    """When SLURM expects to start it, who has what it waits for, and what would fit now."""
    begins = job.time("StartTime")
    is_known = begins is not None and begins > now - 1
    notes = [
        f"SLURM expects to start it at {at(begins)}, {ago(begins - now)}"
        if begins is not None and is_known
        else "SLURM does not say when it will start it"
    ]
    there = nodes_for(job, queue)
    names = {one.name for one in there}
    holders = [one for one in queue.running if names & set(one.nodes)]
    for one in sorted(holders, key=lambda one: one.ends_at or float("inf"))[:MOST]:
        until = f"until {at(one.ends_at)} at the latest" if one.ends_at else "without a limit"
        where = ", ".join(sorted(names & set(one.nodes))[:MOST])
        cpus = f"{one.cpus} CPUs" if one.cpus else "CPUs"
        notes.append(f"job {one.id} ({one.name}, of {one.user}) has {cpus} of {where} {until}")
    if more := holders[MOST:]:
        notes.append(f"{len(more)} more jobs run there")
    room = [one for one in there if one.is_working and one.cpus_free and one.memory_free_mib]
    fits = [f"{one.cpus_free} CPUs, {one.memory_free_mib} MiB on {one.name}" for one in room]
    free = "; ".join(fits[:MOST]) if fits else "nothing"
    return [*notes, f"what would fit now: {free}"]


def _output(access: ClusterAccess, state: ClusterState, job: JobRecord) -> list[str]:
    """The last lines of a job's output, where they can be read in time."""
    path = job.fields.get("StdErr") or job.fields.get("StdOut") or ""
    host = state.find_node(job.get("BatchHost")) or state.find_controller()
    if not path.startswith("/") or path == "/dev/null" or host is None:
        return []
    script = 'exec timeout -s KILL 10 tail -n 3 -- "$1" 2>&1 | tail -c 2000'
    lines = [one_line(line) for line in (_ask(access, host, script, path) or "").splitlines()]
    return [f"{one_path(path)}: {line}" for line in lines if line]
