"""How a cluster was used in a period: CPU hours, efficiency, waiting, failures (pure).

All is from jobs and series as they were collected. What nobody saw is not guessed: a figure is None
where nothing is known, and `covered_s` says for how much of the period there is anything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ai_how.monitoring.model import Job

Points = Sequence[tuple[float, float | None]]
"""Values at times, at equal steps; None is a gap."""

HOUR_S = 3600.0
STATES = ("completed", "failed", "cancelled", "timeout", "out_of_memory", "node_fail")
"""How jobs end, in SLURM's words, in the order in which they are shown; others come last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The jobs of one user, account or partition, or all of them."""

    name: str
    jobs: int
    """Those that waited, ran or ended in the period."""
    ended: Mapping[str, int] = field(default_factory=dict)
    """How many ended in the period, by SLURM's state."""
    cpu_hours: float = 0.0
    """CPUs that jobs had, times hours, in the period."""
    gpu_hours: float = 0.0
    cpu_efficiency: float | None = None
    """CPU time used of what jobs had, from 0 to 1, over the jobs of which it is known."""
    memory_efficiency: float | None = None
    """Memory used at most of what was asked, from 0 to 1, weighted by the size of the jobs."""
    known_hours: float = 0.0
    """The part of `cpu_hours` of the jobs whose use is known."""
    wait_median_s: float | None = None
    wait_max_s: float | None = None
    """Of the jobs that started in the period."""

    @property
    def failed(self) -> int:
        """Those that ended neither well nor by a user's wish."""
        return sum(count for state, count in self.ended.items() if is_failure(state))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One job that the report names."""

    id: str
    name: str
    user: str
    partition: str
    state: str
    reason: str | None
    exit_code: int | None
    signal: int | None
    nodes: tuple[str, ...]
    ended_at: float | None
    cpu_hours: float
    cpu_efficiency: float | None
    memory_efficiency: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """A period of a cluster."""

    cluster: str
    since: float
    until: float
    covered_s: float
    """Seconds of the period in which SLURM was seen."""
    cpu_hours: float | None
    """The CPUs that SLURM had, times hours, as far as it was seen."""
    allotted_hours: float | None
    """Of these, what jobs had."""
    total: Usage
    users: tuple[Usage, ...]
    partitions: tuple[Usage, ...]
    failures: tuple[JobLine, ...]
    """The latest first."""
    wasteful: tuple[JobLine, ...]
    """Jobs that used little of what they had, those with the most unused CPU hours first."""
    waits_s: tuple[float, ...] = ()
    """How long each job that started in the period had waited, in no order."""
    cpus: Points = ()
    allotted: Points = ()
    ended_at: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By SLURM's state, when jobs ended."""

    @property
    def utilisation(self) -> float | None:
        """From 0 to 1; None if SLURM was not seen, or had no CPUs."""
        if not self.cpu_hours or self.allotted_hours is None:
            return None
        return self.allotted_hours / self.cpu_hours


MOST_LINES = 20
WASTED = 0.5
"""A job that used less of its CPUs is named."""
MOST_NAMES = 200


def is_failure(state: str) -> bool:
    """Whether a job that ended so neither came to its end nor was cancelled."""
    return state not in {"completed", "cancelled", "preempted", "revoked"}


def report_usage(
    cluster: str,
    jobs: Iterable[Job],
    cpus: Points,
    allotted: Points,
    *,
    since: float,
    until: float,
) -> UsageReport:
    """Sum up a period. `cpus` and `allotted` are series of SLURM's CPUs with the same times."""
    seen = [one for one in jobs if _was_there(one, since, until)]
    both = [
        (at, have, used)
        for (at, have), (_, used) in zip(cpus, allotted, strict=True)
        if have is not None and used is not None
    ]
    step_s = _step_s(cpus)
    hours = step_s / HOUR_S
    lines = [_line(one, since, until) for one in seen]
    failures = [line for line in lines if _failed_within(line, since, until)]
    wasteful = [line for line in lines if _is_wasteful(line)]
    return UsageReport(
        cluster=cluster,
        since=since,
        until=until,
        covered_s=min(len(both) * step_s, until - since),
        cpu_hours=sum(have for _, have, _ in both) * hours if both else None,
        allotted_hours=sum(used for _, _, used in both) * hours if both else None,
        total=_usage("all", seen, since, until),
        users=_by(lambda job: job.user, seen, since, until),
        partitions=_by(lambda job: job.partition, seen, since, until),
        failures=tuple(sorted(failures, key=lambda line: -(line.ended_at or 0))[:MOST_LINES]),
        wasteful=tuple(sorted(wasteful, key=_unused_hours, reverse=True)[:MOST_LINES]),
        waits_s=tuple(_waits(seen, since, until)),
        cpus=cpus,
        allotted=allotted,
        ended_at=_ends(seen, since, until),
    )


def cpu_efficiency(job: Job, now: float) -> float | None:
    """CPU time used of what the job had, from 0 to 1, until it was seen last; None if unknown."""
    elapsed_s = _elapsed_s(job, now)
    if job.use_seen_at is not None and job.started_at is not None:
        elapsed_s = min(elapsed_s, job.use_seen_at - job.started_at)
    if job.cpu_used_s is None or not job.cpus or elapsed_s <= 0:
        return None
    return min(1.0, job.cpu_used_s / (job.cpus * elapsed_s))


def memory_efficiency(job: Job) -> float | None:
    """Memory used at most of what was asked for, from 0 to 1; None if it is not known."""
    if job.memory_peak_mib is None or not job.memory_mib:
        return None
    return min(1.0, job.memory_peak_mib / job.memory_mib)


def _was_there(job: Job, since: float, until: float) -> bool:
    begins = job.submitted_at if job.submitted_at is not None else job.started_at
    ends = job.ended_at if job.has_ended else None
    return (begins is None or begins < until) and (ends is None or ends >= since)


def _elapsed_s(job: Job, now: float) -> float:
    if job.started_at is None or job.is_waiting:
        return 0.0
    ends = job.ended_at if job.has_ended and job.ended_at is not None else now
    return max(0.0, ends - job.started_at)


def _hours_within(job: Job, since: float, until: float) -> float:
    """How long it ran in the period."""
    if job.started_at is None or job.is_waiting:
        return 0.0
    ends = job.ended_at if job.has_ended and job.ended_at is not None else until
    return max(0.0, min(ends, until) - max(job.started_at, since)) / HOUR_S


def _waits(jobs: Iterable[Job], since: float, until: float) -> list[float]:
    return [
        max(0.0, one.started_at - one.submitted_at)
        for one in jobs
        if one.started_at is not None and one.submitted_at is not None and not one.is_waiting
        if since <= one.started_at < until
    ]


def _ends(jobs: Iterable[Job], since: float, until: float) -> dict[str, tuple[float, ...]]:
    found: dict[str, list[float]] = {}
    for one in jobs:
        if one.has_ended and one.ended_at is not None and since <= one.ended_at < until:
            found.setdefault(one.state, []).append(one.ended_at)
    ordered = sorted(found, key=lambda state: (_place(state), state))
    return {state: tuple(sorted(found[state])) for state in ordered}


def _place(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)


def _by(
    key: Callable[[Job], str], jobs: Sequence[Job], since: float, until: float
) -> tuple[Usage, ...]:
    """A line for each name, the largest use first; the rest of very many is left out."""
    names: dict[str, list[Job]] = {}
    for one in jobs:
        names.setdefault(key(one), []).append(one)
    found = (_usage(name, own, since, until) for name, own in names.items())
    return tuple(sorted(found, key=lambda one: (-one.cpu_hours, one.name))[:MOST_NAMES])


def _usage(name: str, jobs: Sequence[Job], since: float, until: float) -> Usage:
    hours = [(job, (job.cpus or 0) * _hours_within(job, since, until)) for job in jobs]
    by_cpu = [(one, part) for job, part in hours if (one := cpu_efficiency(job, until)) is not None]
    by_memory = [
        (one, float(job.memory_mib or 0))
        for job in jobs
        if (one := memory_efficiency(job)) is not None
    ]
    waits = _waits(jobs, since, until)
    ended = {state: len(at) for state, at in _ends(jobs, since, until).items()}
    return Usage(
        name=name,
        jobs=len(jobs),
        ended=ended,
        cpu_hours=sum((part for _, part in hours), 0.0),
        gpu_hours=sum(((job.gpus or 0) * _hours_within(job, since, until) for job in jobs), 0.0),
        cpu_efficiency=_mean(by_cpu),
        memory_efficiency=_mean(by_memory),
        known_hours=sum((part for _, part in by_cpu), 0.0),
        wait_median_s=median(waits) if waits else None,
        wait_max_s=max(waits, default=None),
    )


def _mean(parts: Sequence[tuple[float, float]]) -> float | None:
    """The mean of values with weights; None without any."""
    weight = sum(one for _, one in parts)
    return sum(value * one for value, one in parts) / weight if weight > 0 else None


def _line(job: Job, since: float, until: float) -> JobLine:
    return JobLine(
        id=job.shown_id,
        name=job.name,
        user=job.user,
        partition=job.partition,
        state=job.state,
        reason=job.reason,
        exit_code=job.exit_code,
        signal=job.signal,
        nodes=job.nodes,
        ended_at=job.ended_at if job.has_ended else None,
        cpu_hours=(job.cpus or 0) * _hours_within(job, since, until),
        cpu_efficiency=cpu_efficiency(job, until),
        memory_efficiency=memory_efficiency(job),
    )


def _failed_within(line: JobLine, since: float, until: float) -> bool:
    return line.ended_at is not None and since <= line.ended_at < until and is_failure(line.state)


def _is_wasteful(line: JobLine) -> bool:
    return line.cpu_efficiency is not None and line.cpu_efficiency < WASTED and line.cpu_hours > 0


def _unused_hours(line: JobLine) -> float:
    return line.cpu_hours * (1 - (line.cpu_efficiency or 0.0))


def _step_s(points: Points) -> float:
    """The distance of the points; 0 for fewer than two."""
    return points[1][0] - points[0][0] if len(points) > 1 else 0.0
