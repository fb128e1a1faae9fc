"""Made-up clusters whose figures move in time, and that do only what a test tells them."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ai_how.dashboard.clusters import JournalEntry, Known
from ai_how.errors import HostError
from ai_how.monitoring.changes import was_there
from ai_how.monitoring.history import Grid
from ai_how.monitoring.model import (
    Event,
    Finding,
    GpuCount,
    GpuSample,
    Job,
    NodeSample,
    Snapshot,
)
from made_up_cluster import make_snapshot
from made_up_live import MadeUpClusters, MadeUpLine

GIB = 2**30
Point = tuple[float, float | None]


def wave(text: str, at: float, low: float, high: float) -> float:
    """A figure between two others, always the same at a time."""
    seed = sum(ord(one) * (place + 1) for place, one in enumerate(text)) % 997
    mixed = 0.5 + 0.3 * math.sin(at / (190 + seed % 60) + seed) + 0.2 * math.sin(at / 37 + seed * 2)
    return low + (high - low) * min(1.0, max(0.0, mixed))


def value_of(name: str, subject: str, at: float) -> float:
    """The figure of a series, in its unit."""
    scales = {
        "cpu": 16.0 if subject == "host" else 4.0,
        "steal": 0.3,
        "memory_used_mib": 50000.0 if subject == "host" else 3600.0,
        "qemu_memory_mib": 4000.0,
        "disk_used_bytes": 6.0 * GIB,
        "jobs_running": 6.0,
        "jobs_waiting": 4.0,
        "gpu_busy": 100.0,
        "storage_free_mib": 300000.0,
        "storage_used_mib": 200000.0,
    }
    found = wave(f"{name} {subject}", at, 0.02, 1.0) * scales.get(name, 4e6)
    return round(found) if name.startswith("jobs_") else found


@dataclass(kw_only=True)
class MovingLife:
    """A cluster that is watched. `tell` is a new look at it."""

    name: str
    nodes: int = 3
    count: int = 12
    findings: tuple[Finding, ...] = ()
    gaps: list[tuple[float, float]] = field(default_factory=list)
    happened: list[Event] = field(default_factory=list)
    change: Callable[[Snapshot], Snapshot] = lambda seen: seen
    has_gpus: bool = False
    every_s: float | None = None
    clock: Callable[[], float] = time.time
    told: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def names(self) -> tuple[str, ...]:
        return ("controller", *(f"compute-{number:02}" for number in range(1, self.nodes + 1)))

    def snapshot(self) -> Snapshot:
        at = self.clock()
        seen = make_snapshot(nodes=self.nodes, jobs=self.count, at=at, findings=self.findings)
        seen = replace(
            seen, cluster=self.name, nodes=tuple(self._moved(one, at) for one in seen.nodes)
        )
        return self.change(with_gpus(seen, at) if self.has_gpus else seen)

    def _moved(self, node: NodeSample, at: float) -> NodeSample:
        assert node.vm
        figures = {
            field: value_of(name, node.name, at)
            for field, name in (
                ("cpus_busy", "cpu"),
                ("cpus_waiting", "steal"),
                ("disk_read_bytes_s", "disk_read_bytes_s"),
                ("disk_written_bytes_s", "disk_written_bytes_s"),
                ("net_received_bytes_s", "net_received_bytes_s"),
                ("net_sent_bytes_s", "net_sent_bytes_s"),
            )
        }
        used = int(value_of("memory_used_mib", node.name, at))
        return replace(node, vm=replace(node.vm, guest_memory_used_mib=used, **figures))

    def tell(self) -> None:
        with self.changed:
            self.told += 1
            self.changed.notify_all()

    def series(
        self, name: str, subject: str, since: float, until: float, step_s: float
    ) -> Sequence[Point]:
        grid = Grid(since, until, step_s)
        times = [grid.since + step * grid.step_s for step in range(grid.count)]
        return [(at, self._figure(name, subject, at)) for at in times]

    def _figure(self, name: str, subject: str, at: float) -> float | None:
        if at > self.clock() or any(begin <= at < end for begin, end in self.gaps):
            return None
        return value_of(name, subject, at)

    def jobs(self, since: float, until: float) -> Sequence[Job]:
        seen = self.snapshot().slurm
        return [one for one in (seen.jobs if seen else ()) if was_there(one, since, until)]

    def events(self, since: float, until: float) -> Sequence[Event]:
        return [one for one in self.happened if since <= one.at < until]


class Watch:
    """One reader of a life, as `monitoring.live.Live` is."""

    def __init__(self, life: MovingLife) -> None:
        self.snapshot, self.series = life.snapshot, life.series
        self.jobs, self.events = life.jobs, life.events
        self._life = life
        self._is_closed = False

    def follow(self) -> Iterator[Snapshot]:
        life, seen = self._life, -1
        while not self._is_closed:
            with life.changed:
                before = seen
                life.changed.wait_for(
                    lambda: life.told > before or self._is_closed,  # noqa: B023
                    timeout=life.every_s,
                )
                seen = life.told
            if not self._is_closed:
                yield life.snapshot()

    def close(self) -> None:
        self._is_closed = True
        self._life.tell()


def with_gpus(seen: Snapshot, at: float) -> Snapshot:
    """Two GPUs in each compute node; jobs of alice have one."""
    assert seen.slurm
    jobs = tuple(replace(one, gpus=1) if one.user == "alice" else one for one in seen.slurm.jobs)
    held = {name for one in jobs if one.is_running and one.gpus for name in one.nodes}

    def equip(node: NodeSample) -> NodeSample:
        if not node.slurm or not node.guest:
            return node
        count = GpuCount(type="t4", count=2, allotted=int(node.name in held))
        gpus = tuple(
            GpuSample(
                index=index,
                name="Tesla T4",
                busy_percent=value_of("gpu_busy", f"{node.name}/{index}", at),
                memory_mib=16384,
                memory_used_mib=3000 * index + 400,
                temperature_c=51.0,
                power_w=38.5,
            )
            for index in range(2)
        )
        return replace(
            node, slurm=replace(node.slurm, gpus=(count,)), guest=replace(node.guest, gpus=gpus)
        )

    slurm = replace(seen.slurm, jobs=jobs)
    return replace(seen, slurm=slurm, nodes=tuple(map(equip, seen.nodes)))


class ToldClusters(MadeUpClusters):
    """Clusters that do what a test tells them; `lives` may change at any time."""

    def __init__(self, *lives: MovingLife, entries: Sequence[JournalEntry] = ()) -> None:
        super().__init__()
        self.told = {one.name: one for one in lives}
        self.entries = entries

    def known(self) -> Sequence[Known]:
        return [Known(one.name, "hpc", one.names) for one in self.told.values()]

    def connect(self, name: str) -> Watch:  # type: ignore[override]
        if name not in self.told:
            raise HostError(f"there is no cluster {name}")
        return Watch(self.told[name])

    @contextmanager
    def console(self, name: str, node: str) -> Iterator[MadeUpLine]:
        """A line with a colour of 24 bits, which is then as that of `MadeUpClusters`."""
        line = MadeUpLine()
        line._said.put(b"\x1b[38;2;1;2;3mcoloured\x1b[0m\r\n# ")
        try:
            yield line
        finally:
            line.close()

    def journal(self, name: str, node: str, lines: int) -> Sequence[JournalEntry]:
        return self.entries[-lines:] or super().journal(name, node, lines)
