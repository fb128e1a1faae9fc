"""SLURM's jobs, as a stop and a start deal with them: listed, queued again, ended, said (pure).

What is returned to be run is for a shell on the controller; names in it are quoted.
"""

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

# By it we tell the nodes that we closed from those that a user drained.
OUR_REASON = "stopped by ai-how"
LOST_REASON = "its VM ended"

_FIELDS = "JobID:16|,JobArrayID:40|,UserName:40|,BatchFlag:4|,Requeue:4|,StartTime:24|,Name:80"
_HELD = "running,suspended"
# SLURM kills what does not end by itself after ten seconds (KillWait).
_MOMENTS = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """A job that has nodes."""

    id: str
    shown_id: str
    user: str
    name: str
    may_be_requeued: bool
    started_s: int
    """When it began, in seconds since 1970."""

    def __str__(self) -> str:
        return f"job {self.shown_id} ({self.name}, of {self.user})"


def jobs_script(nodes: Collection[str]) -> str:
    """What lists the jobs that have these nodes, for `read_jobs`."""
    names = shlex.quote(",".join(nodes))
    return f"SLURM_TIME_FORMAT=%s squeue -h -t {_HELD} -w {names} -O '{_FIELDS}'"


def read_jobs(text: str) -> list[SlurmJob]:
    """The jobs in what `jobs_script` printed; lines that are not of that form are passed over."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|", _FIELDS.count("|"))]
        if len(words) != _FIELDS.count("|") + 1 or not words[0].isdecimal():
            continue
        number, shown, user, is_batch, requeue, started, name = words
        may = is_batch == requeue == "1"
        started_s = int(started) if started.isdecimal() else 0
        found.append(SlurmJob(number, shown, user, name, may, started_s))
    return found


def close_script(nodes: Collection[str]) -> str:
    """What keeps new jobs from these nodes."""
    return _update(nodes, f"state=drain reason={shlex.quote(OUR_REASON)}")


def open_words(nodes: Collection[str]) -> list[str]:
    """What lets jobs on these nodes again, which are on: a program and its arguments."""
    return ["scontrol", "update", f"nodename={','.join(nodes)}", "state=undrain"]


def off_script(nodes: Collection[str], drained: Iterable[tuple[str, str]]) -> str:
    """What says of nodes that are off that they are down; `drained` are others, with the reason.

    Resumed, a node that we closed gets no job before it answers, so it takes none between the two.
    One that its user drained stays so: SLURM would in time write more behind the reason.
    """
    lines = [_update([name], f"state=down reason={shlex.quote(why)}") for name, why in drained]
    if nodes:
        down = _update(nodes, f"state=down reason={shlex.quote(OUR_REASON)}")
        lines += [_update(nodes, "state=resume"), down]
    return "; ".join(lines)


def lost_script(nodes: Collection[str]) -> str:
    """What has SLURM end, or queue again, all that it takes to run on these nodes."""
    return _update(nodes, f"state=down reason={shlex.quote(LOST_REASON)}")


def end_script(jobs: Iterable[SlurmJob], nodes: Collection[str]) -> str:
    """What queues the jobs again that may be, asks the others to end, and waits for both."""
    again, others = _sorted_out(jobs)
    names = shlex.quote(",".join(nodes))
    lines = [f"scontrol requeue {','.join(again)}"] if again else []
    if others:
        lines.append(f"scancel --full --signal=TERM {' '.join(others)}")
    still = f"squeue -h -t {_HELD},completing -w {names} -o %A"
    # A squeue that fails says nothing of the jobs.
    is_over = f'left=$({still}) && [ -z "$left" ] && exit 0'
    lines.append(f"for moment in {_MOMENTS}; do {is_over}; sleep 1; done")
    if others:
        lines.append(f"scancel {' '.join(others)}")
    return "; ".join(lines)


def drop_script(jobs: Iterable[SlurmJob]) -> str:
    """What queues jobs again that are no more, where they may be, and else ends them."""
    again, others = _sorted_out(jobs)
    lines = [f"scontrol requeue {','.join(again)}"] if again else []
    lines += [f"scancel {' '.join(others)}"] if others else []
    return "; ".join(lines)


def describe_jobs(jobs: Sequence[SlurmJob], why: str, *, most: int = 8) -> list[str]:
    """A line for each of the first jobs: what becomes of it; and one for how many there are."""
    lines = [
        f"{job} {'is requeued' if job.may_be_requeued else 'is ended'}: {why}"
        for job in jobs[:most]
    ]
    if more := jobs[most:]:
        again = sum(job.may_be_requeued for job in more)
        ids = ", ".join(job.shown_id for job in more)
        lines.append(f"{again} more are requeued, {len(more) - again} ended: {ids}")
    return lines


def _sorted_out(jobs: Iterable[SlurmJob]) -> tuple[list[str], list[str]]:
    """The ids of those that may be requeued, and of the others."""
    jobs = tuple(jobs)
    again = [job.id for job in jobs if job.may_be_requeued]
    return again, [job.id for job in jobs if not job.may_be_requeued]


def _update(nodes: Collection[str], what: str) -> str:
    return f"scontrol update nodename={shlex.quote(','.join(nodes))} {what}"
