"""Jobs one by one, and what waits: SLURM's own endpoint only counts them (pure)."""

from collections import Counter
from collections.abc import Sequence

from ai_how.dashboard.metrics_page import Series, label_of, mib
from ai_how.monitoring.model import Job

MOST_JOBS = 500
"""Running jobs that have series of their own: those that run longest."""
MOST_REASONS = 50


def add_jobs(series: Series, jobs: Sequence[Job], now: float) -> None:
    running = sorted((job for job in jobs if job.is_running), key=_begun)
    for job in running[:MOST_JOBS]:
        _add_job(series, job, now)
    series.page.left_out += max(len(running) - MOST_JOBS, 0)
    waiting = [job for job in jobs if job.is_waiting]
    reasons = Counter(label_of(job.reason or "None") for job in waiting)
    for reason, count in reasons.most_common(MOST_REASONS):
        series.gauge(
            "ai_how_jobs_waiting",
            "Jobs that wait, by SLURM's reason; an array is one.",
            count,
            reason=reason,
        )
    series.gauge(
        "ai_how_jobs_longest_wait_seconds",
        "How long the oldest job waits that is not held.",
        max((_wait_s(job, now) for job in waiting if not _is_held(job)), default=0.0),
    )


def _begun(job: Job) -> float:
    return job.started_at or 0.0


def _wait_s(job: Job, now: float) -> float:
    return max(now - job.submitted_at, 0.0) if job.submitted_at else 0.0


def _is_held(job: Job) -> bool:
    return job.reason in {"JobHeldUser", "JobHeldAdmin", "BeginTime", "Dependency"}


def _add_job(series: Series, job: Job, now: float) -> None:
    own = series.of(jobid=job.shown_id, user=job.user, partition=job.partition)
    runs_s = max(now - job.started_at, 0.0) if job.started_at else None
    own.gauge("ai_how_job_info", "A job that runs.", 1, name=job.name)
    own.gauge("ai_how_job_running_seconds", "How long it runs.", runs_s)
    own.gauge("ai_how_job_limit_seconds", "How long it may run.", job.limit_s)
    own.gauge("ai_how_job_cpus", "CPUs that it has.", job.cpus)
    own.gauge("ai_how_job_memory_bytes", "Memory that it asked for.", mib(job.memory_mib))
    own.gauge(
        "ai_how_job_memory_peak_bytes",
        "Sum of the peaks on its nodes.",
        mib(job.memory_peak_mib),
    )
    own.counter("ai_how_job_cpu_seconds_total", "CPU time that it has used.", job.cpu_used_s)
    for node in job.nodes:
        own.gauge("ai_how_job_node", "1: it runs on this node.", 1, node=node)
