"""What a row of the tables is made of: nodes and jobs with all that a cell needs (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ai_how.monitoring.model import GpuSample, Job, NodeSample, Snapshot, SourceState
from ai_how.monitoring.usage import cpu_efficiency, memory_efficiency

PATIENCE = 3.0
"""A source is silent if it has missed so many answers."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A source that does not answer."""

    source: str
    seconds: float | None
    """Since its last answer; None if it never answered."""
    why: str | None


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node, its jobs, and whether its figures are old."""

    node: NodeSample
    jobs: tuple[Job, ...] = ()
    is_vm_old: bool = False
    is_slurm_old: bool = False
    is_guest_old: bool = False
    mark: str | None = None
    """What was asked for and is not seen yet: `draining`."""

    @property
    def gpus(self) -> tuple[GpuSample, ...]:
        return self.node.guest.gpus if self.node.guest else ()


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job, at a moment."""

    job: Job
    now: float
    is_old: bool = False
    mark: str | None = None

    @property
    def elapsed_s(self) -> float | None:
        """How long it has run; None before that."""
        if self.job.is_waiting or self.job.started_at is None:
            return None
        return max(0.0, (self.job.ended_at or self.now) - self.job.started_at)

    @property
    def cpu_share(self) -> float | None:
        """CPU time of what it had, until that was seen last."""
        return cpu_efficiency(self.job, self.now)

    @property
    def memory_share(self) -> float | None:
        """The peak of its memory, of what it asked for."""
        return memory_efficiency(self.job)


@dataclass(frozen=True, slots=True)
class Picture:
    """A snapshot as rows."""

    snapshot: Snapshot
    nodes: Mapping[str, NodeRow]
    jobs: Mapping[str, JobRow]
    silences: tuple[Silence, ...] = ()

    @property
    def silences_named(self) -> frozenset[str]:
        return frozenset(one.source for one in self.silences)


@dataclass(slots=True)
class Marks:
    """What was asked of SLURM and its next answer will show."""

    _nodes: dict[str, tuple[str, float]] = field(default_factory=dict)
    _jobs: dict[str, tuple[str, float]] = field(default_factory=dict)

    def set_node(self, name: str, word: str, at: float) -> None:
        self._nodes[name] = (word, at)

    def set_job(self, number: str, word: str, at: float) -> None:
        self._jobs[number] = (word, at)

    def drop_seen(self, asked_at: float | None) -> None:
        """Drop what the answer to a question of this time includes."""
        for marks in (self._nodes, self._jobs):
            for key in [key for key, (_, at) in marks.items() if at < (asked_at or 0)]:
                del marks[key]

    def of_node(self, name: str) -> str | None:
        return self._nodes.get(name, (None, 0))[0]

    def of_job(self, number: str) -> str | None:
        return self._jobs.get(number, (None, 0))[0]


def silence_of(source: SourceState | None, now: float) -> Silence | None:
    """Whether it is silent; None while it answers."""
    if source is None:
        return None
    seconds = None if source.at is None else max(0.0, now - source.at)
    late_s = PATIENCE * source.every_s + (source.took_s or 0.0)
    if source.trouble is None and (seconds is None or seconds <= late_s):
        return None
    return Silence(source.name, seconds, source.trouble)


def picture_of(snapshot: Snapshot, now: float, marks: Marks, *, with_ended: bool) -> Picture:
    """The rows of a snapshot, and which sources are silent."""
    silences = {
        one.name: found for one in snapshot.sources if (found := silence_of(one, now)) is not None
    }
    slurm = snapshot.find_source("slurm")
    marks.drop_seen(slurm.at - (slurm.took_s or 0.0) if slurm and slurm.at else None)
    is_vm_old, is_slurm_old = "libvirt" in silences, "slurm" in silences
    jobs = snapshot.slurm.jobs if snapshot.slurm else ()
    # Silent since 40 s: what has run on since then is not known.
    job_now = slurm.at if slurm and slurm.at and is_slurm_old else now
    on_node: dict[str, list[Job]] = {}
    for job in jobs:
        if job.is_running:
            for name in job.nodes:
                on_node.setdefault(name, []).append(job)
    return Picture(
        snapshot,
        {
            one.name: NodeRow(
                one,
                tuple(on_node.get(one.name, ())),
                is_vm_old,
                is_slurm_old,
                f"guest/{one.name}" in silences,
                marks.of_node(one.name),
            )
            for one in snapshot.nodes
        },
        {
            job.id: JobRow(job, job_now, is_slurm_old, marks.of_job(job.id))
            for job in jobs
            if with_ended or not job.has_ended
        },
        tuple(silences.values()),
    )
