"""What jobs have used: joined from their cgroups on all nodes, and kept after they have ended."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ai_how.monitoring.model import Job, JobUse, SlurmSample

MOST_JOBS = 5000
"""Of so many jobs the last figures are kept."""
KEPT_S = 600.0
"""So long after a job was last seen on a node, though the cluster's software knows no such job."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a job had used on one node at a time of day."""

    use: JobUse
    at: float


class JobLedger:
    """The last look at each job on each node. A cgroup is gone as soon as its job has ended."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`clock` never goes back; `now` is the time of day."""
        self._clock, self._now = clock, now
        self._uses: dict[str, dict[str, _Seen]] = {}
        self._noted: dict[str, float] = {}

    def note(self, node: str, uses: Iterable[JobUse]) -> None:
        """What the jobs on a node have used so far."""
        for use in uses:
            by_node = self._uses.pop(use.job, {})
            by_node[node] = _Seen(use, self._now())
            self._uses[use.job] = by_node  # the newest come last
            self._noted[use.job] = self._clock()
        while len(self._uses) > MOST_JOBS:
            self._forget(next(iter(self._uses)))

    def forget_all_but(self, jobs: Iterable[str]) -> None:
        """Forget the jobs that are not among these, and were not seen on a node for a while."""
        kept, before = set(jobs), self._clock() - KEPT_S
        for job in [one for one in self._uses if one not in kept and self._noted[one] < before]:
            self._forget(job)

    def joined(self, sample: SlurmSample) -> SlurmSample:
        """The sample with what is known of the use of its jobs."""
        if not self._uses:
            return sample
        return replace(sample, jobs=tuple(self._joined(one) for one in sample.jobs))

    def _forget(self, job: str) -> None:
        del self._uses[job], self._noted[job]

    def _joined(self, job: Job) -> Job:
        uses = self._uses.get(job.id)
        if uses is None or job.is_waiting:
            return job
        cpu_s, peak_mib = _summed([one.use for one in uses.values()])
        seen_at = sum(one.at for one in uses.values()) / len(uses)
        return replace(
            job, cpu_used_s=cpu_s, memory_peak_mib=peak_mib, use_seen_at=round(seen_at, 3)
        )


def _summed(uses: Sequence[JobUse]) -> tuple[float | None, int | None]:
    """CPU seconds, and the peaks of memory in MiB, over all nodes."""
    cpu = [one.cpu_s for one in uses if one.cpu_s is not None]
    peaks = [
        peak
        for one in uses
        if (peak := one.memory_peak_mib if one.memory_peak_mib is not None else one.memory_mib)
        is not None
    ]
    return round(sum(cpu), 3) if cpu else None, sum(peaks) if peaks else None
