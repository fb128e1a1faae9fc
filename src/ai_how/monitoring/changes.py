"""What happened between two looks at a cluster, as events (pure)."""

from collections.abc import Iterator
from dataclasses import replace

from ai_how.monitoring.model import Event, Job, NodeSample, Snapshot
from ai_how.monitoring.points import is_silent

ON = {"running", "blocked", "paused", "shutting_down", "crashed", "suspended"}
SAVED = "saved"


def events_between(before: Snapshot | None, now: Snapshot) -> Iterator[Event]:
    """What is new in `now`. Of the first look only its findings, and the sources that fail."""
    yield from _of_sources(before, now)
    yield from _of_findings(before, now)
    if before is not None:
        for node in now.nodes:
            if last := before.find_node(node.name):
                yield from _of_node(last, node, now.at)


def events_of_job(before: Job | None, job: Job, now: float) -> Iterator[Event]:
    """The start and the end of a job, at SLURM's times."""
    had_begun = before is not None and _has_begun(before)
    if _has_begun(job) and not had_begun:
        where = f" on {', '.join(job.nodes[:4])}" if job.nodes else ""
        text = f"job {job.shown_id} ({job.name}) of {job.user} runs{where}"
        yield Event(at=job.started_at or now, kind="job-start", subject=job.id, text=text)
    if job.has_ended and not (before is not None and before.has_ended):
        text = f"job {job.shown_id} ({job.name}) of {job.user}: {job.state}"
        yield Event(at=job.ended_at or now, kind="job-end", subject=job.id, text=text)


def with_use_of(last: Job | None, job: Job) -> Job:
    """The job, with what was seen of its use before, if nothing is known of that now."""
    if last is None or job.use_seen_at is not None or last.submitted_at != job.submitted_at:
        return job
    return replace(
        job,
        cpu_used_s=last.cpu_used_s,
        memory_peak_mib=last.memory_peak_mib,
        use_seen_at=last.use_seen_at,
    )


def _has_begun(job: Job) -> bool:
    # One that was cancelled while it waited has no nodes.
    return job.is_running or (job.has_ended and bool(job.nodes))


def _of_sources(before: Snapshot | None, now: Snapshot) -> Iterator[Event]:
    for source in now.sources:
        last = before.find_source(source.name) if before else None
        was_silent = last is not None and last.trouble is not None
        if source.trouble is not None and not was_silent:
            yield Event(at=now.at, kind="gap", subject=source.name, text=source.trouble)
        elif was_silent and not is_silent(source):
            text = f"{source.name} answers again"
            yield Event(at=now.at, kind="gap-over", subject=source.name, text=text)


def _of_findings(before: Snapshot | None, now: Snapshot) -> Iterator[Event]:
    last = {(one.id, one.subject): one for one in (before.findings if before else ())}
    seen = {(one.id, one.subject): one for one in now.findings}
    for key, one in seen.items():
        if key not in last:
            yield Event(at=now.at, kind="finding", subject=one.subject, text=one.text)
    for key, one in last.items():
        if key not in seen:
            yield Event(at=now.at, kind="finding-over", subject=one.subject, text=one.text)


def _of_node(before: NodeSample, now: NodeSample, at: float) -> Iterator[Event]:
    if before.vm is None or now.vm is None:
        return
    was_on, is_on = before.vm.state in ON, now.vm.state in ON
    if is_on and not was_on:
        was_saved = before.vm.reason == SAVED
        kind, what = ("resume", "is resumed") if was_saved else ("start", "is on")
    elif was_on and not is_on:
        is_saved = now.vm.reason == SAVED
        kind, what = ("suspend", "is suspended") if is_saved else ("stop", "is off")
    else:
        return
    reason = f" ({now.vm.reason})" if now.vm.reason else ""
    yield Event(at=at, kind=kind, subject=now.name, text=f"{now.name} {what}{reason}")


def was_there(job: Job, since: float, until: float) -> bool:
    """Whether a job waited, ran or ended in a span of time."""
    begun = job.submitted_at or job.started_at or 0.0
    return begun < until and (job.ended_at is None or job.ended_at >= since)
