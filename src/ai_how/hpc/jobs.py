"""SLURM's jobs: commands to list, requeue and cancel them, and lines about them (pure).

The scripts are for a shell on the controller. Names in them are quoted.
"""

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

# It distinguishes nodes that we drained from those that a user drained.
OUR_REASON = "stopped by ai-how"
LOST_REASON = "its VM ended"

_FIELDS = "JobID:16|,JobArrayID:40|,UserName:40|,BatchFlag:4|,Requeue:4|,StartTime:24|,Name:80"
_HELD = "running,suspended"
# SLURM kills a job ten seconds (KillWait) after SIGTERM.
_MOMENTS = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """A job that has nodes allocated."""

    id: str
    shown_id: str
    user: str
    name: str
    may_be_requeued: bool
    started_s: int
    """Start time, in seconds since 1970."""

    def __str__(self) -> str:
        return f"job {self.shown_id} ({self.name}, of {self.user})"


def jobs_script(nodes: Collection[str]) -> str:
    """A script that lists the jobs on these nodes, for `read_jobs`."""
    names = shlex.quote(",".join(nodes))
    return f"SLURM_TIME_FORMAT=%s squeue -h -t {_HELD} -w {names} -O '{_FIELDS}'"


def read_jobs(text: str) -> list[SlurmJob]:
    """Parse the output of `jobs_script`. Other lines are ignored."""
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
    """A script that drains these nodes."""
    return _update(nodes, f"state=drain reason={shlex.quote(OUR_REASON)}")


def open_words(nodes: Collection[str]) -> list[str]:
    """The command that undrains these nodes, which are on."""
    return ["scontrol", "update", f"nodename={','.join(nodes)}", "state=undrain"]


def off_script(nodes: Collection[str], drained: Iterable[tuple[str, str]]) -> str:
    """A script that marks nodes that are off as down.

    `nodes` were drained by us: after `resume` a node gets no job before it answers, so none starts
    in between. `drained` were drained by a user, and keep their reason. SLURM would append to the
    reason of a drained node that does not answer.
    """
    lines = [_update([name], f"state=down reason={shlex.quote(why)}") for name, why in drained]
    if nodes:
        down = _update(nodes, f"state=down reason={shlex.quote(OUR_REASON)}")
        lines += [_update(nodes, "state=resume"), down]
    return "; ".join(lines)


def lost_script(nodes: Collection[str]) -> str:
    """A script by which SLURM ends or requeues all jobs on these nodes."""
    return _update(nodes, f"state=down reason={shlex.quote(LOST_REASON)}")


def end_script(jobs: Iterable[SlurmJob], nodes: Collection[str]) -> str:
    """A script that requeues jobs if possible, cancels the others, and waits until all ended."""
    again, others = _sorted_out(jobs)
    names = shlex.quote(",".join(nodes))
    lines = [f"scontrol requeue {','.join(again)}"] if again else []
    if others:
        lines.append(f"scancel --full --signal=TERM {' '.join(others)}")
    still = f"squeue -h -t {_HELD},completing -w {names} -o %A"
    # If squeue fails, nothing is known about the jobs.
    is_over = f'left=$({still}) && [ -z "$left" ] && exit 0'
    lines.append(f"for moment in {_MOMENTS}; do {is_over}; sleep 1; done")
    if others:
        lines.append(f"scancel {' '.join(others)}")
    return "; ".join(lines)


def drop_script(jobs: Iterable[SlurmJob]) -> str:
    """A script that requeues lost jobs if possible, and cancels the others."""
    again, others = _sorted_out(jobs)
    lines = [f"scontrol requeue {','.join(again)}"] if again else []
    lines += [f"scancel {' '.join(others)}"] if others else []
    return "; ".join(lines)


def describe_jobs(jobs: Sequence[SlurmJob], why: str, *, most: int = 8) -> list[str]:
    """What happens to each of the first `most` jobs, a line each, and a line for the others."""
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
    """The ids of the jobs that may be requeued, and of the others."""
    jobs = tuple(jobs)
    again = [job.id for job in jobs if job.may_be_requeued]
    return again, [job.id for job in jobs if not job.may_be_requeued]


def _update(nodes: Collection[str], what: str) -> str:
    return f"scontrol update nodename={shlex.quote(','.join(nodes))} {what}"
