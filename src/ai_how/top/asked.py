"""The changes that can be asked for: which of them make sense, and the question before (pure)."""

from dataclasses import dataclass

from ai_how.monitoring.model import Job
from ai_how.top.plain import duration, plain
from ai_how.top.rows import JobRow, NodeRow

_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Asked:
    """A change, in words. If `refusal` is set, it makes no sense, and is not asked for."""

    lines: tuple[str, ...] = ()
    verb: str = ""
    doing: str = ""
    """What the row shows until SLURM's next answer."""
    done: str = ""
    asks: str | None = None
    refusal: str | None = None


def job_words(job: Job) -> str:
    return f"job {plain(job.shown_id, 24)} ({plain(job.name, 40)}) of {plain(job.user, 40)}"


def cancel(row: JobRow) -> Asked:
    """The end of a job."""
    job = row.job
    if job.has_ended:
        return Asked(refusal=f"job {plain(job.shown_id, 24)} has ended")
    if job.is_running:
        where = plain(",".join(job.nodes), 60) or "a node"
        what = f"It runs on {where}, {duration(row.elapsed_s)} so far, and is ended now."
        what += " What it has not written is lost."
    else:
        what = "It has not started, and will not."
    words = job_words(job)
    return Asked(
        (f"Cancel {words}?", what), "cancel the job", "cancelling", f"{words} is cancelled"
    )


def hold(row: JobRow) -> Asked:
    """That a waiting job stays waiting."""
    job, shown = row.job, plain(row.job.shown_id, 24)
    if not job.is_waiting:
        return Asked(refusal=f"job {shown} does not wait: only a waiting job can be held")
    if is_held(job):
        return Asked(refusal=f"job {shown} is held already")
    lines = (f"Hold {job_words(job)}?", "It does not start before it is released.")
    return Asked(lines, "hold the job", "holding", f"job {shown} is held")


def release(row: JobRow) -> Asked:
    """That a job that is held may start."""
    job, shown = row.job, plain(row.job.shown_id, 24)
    if not is_held(job):
        return Asked(refusal=f"job {shown} is not held")
    lines = (f"Release {job_words(job)}?", "It starts when SLURM has nodes for it.")
    return Asked(lines, "release the job", "releasing", f"job {shown} is released")


def drain(row: NodeRow) -> Asked:
    """That a node gets no more jobs."""
    name, slurm = plain(row.node.name, 64), row.node.slurm
    if slurm is None:
        return Asked(refusal=f"{name} runs no jobs")
    if slurm.is_drained:
        return Asked(refusal=f"{name} is drained already: {plain(slurm.reason or 'no reason')}")
    return Asked(
        (f"Drain {name}? No new job starts there.", _jobs_words(row)),
        "drain the node",
        "draining",
        f"{name} is drained",
        asks="Reason",
    )


def resume(row: NodeRow) -> Asked:
    """That a node gets jobs again."""
    name, slurm = plain(row.node.name, 64), row.node.slurm
    if slurm is None:
        return Asked(refusal=f"{name} runs no jobs")
    if slurm.is_working:
        return Asked(refusal=f"{name} takes jobs already")
    why = f"It is {plain('+'.join(slurm.states), 60)}"
    why += f": {plain(slurm.reason, 200)}" if slurm.reason else ""
    who = f" ({plain(slurm.reason_user, 40)})" if slurm.reason_user else ""
    return Asked(
        (f"Return {name} to service? New jobs may start there.", f"{why}{who}."),
        "resume the node",
        "resuming",
        f"{name} is back in service",
    )


def is_held(job: Job) -> bool:
    """By its user or by an administrator."""
    return job.is_waiting and (job.reason or "").startswith("JobHeld")


def _jobs_words(row: NodeRow) -> str:
    if not row.jobs:
        return "No job runs there now."
    named = ", ".join(plain(one.shown_id, 24) for one in row.jobs[:_MOST_NAMED])
    more = f" and {len(row.jobs) - _MOST_NAMED} more" if row.jobs[_MOST_NAMED:] else ""
    are = "1 job there goes on" if len(row.jobs) == 1 else f"{len(row.jobs)} jobs there go on"
    return f"{are} until the end: {named}{more}."
