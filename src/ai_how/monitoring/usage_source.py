"""Reads how a cluster was used: from its collector if one runs, else from what one has kept."""

from typing import TYPE_CHECKING, Protocol

from ai_how.clusters.collecting import find_collector
from ai_how.monitoring.history import Grid, Series, in_steps
from ai_how.monitoring.model import Job
from ai_how.monitoring.records import read_job
from ai_how.monitoring.store import MINUTE_S, Store
from ai_how.monitoring.usage import UsageReport, report_usage

if TYPE_CHECKING:
    from ai_how.clusters.known_cluster import KnownCluster

STEPS = 1000
"""Of a picture: more points would not be seen."""


class Kept(Protocol):
    """What was seen of a cluster."""

    def series(
        self, name: str, subject: str, since: float, until: float, step_s: float
    ) -> Series: ...
    def jobs(self, since: float, until: float) -> tuple[Job, ...]: ...
    def close(self) -> None: ...


def read_usage(cluster: "KnownCluster", *, since: float, until: float) -> UsageReport:
    """How a cluster was used in this time. Starts no collector, and needs no VM.

    Raises StateError if there is no such cluster, and HostError if what was kept cannot be read.
    """
    cluster.get_state()
    kept = _open(cluster)
    if kept is None:
        return report_usage(cluster.name, (), (), (), since=since, until=until)
    step_s = max(float(MINUTE_S), (until - since) / STEPS)
    try:
        cpus, allotted = (
            kept.series(name, "slurm", since, until, step_s) for name in ("cpus", "cpus_allotted")
        )
        jobs = kept.jobs(since, until)
    finally:
        kept.close()
    return report_usage(cluster.name, jobs, cpus, allotted, since=since, until=until)


def _open(cluster: "KnownCluster") -> Kept | None:
    """None if nobody has ever looked."""
    if find_collector(cluster.paths):
        from ai_how.monitoring.live import connect  # noqa: PLC0415  for a collector that runs

        return connect(cluster)
    path = cluster.paths.history
    return _FromStore(Store(path, is_reader=True)) if path.exists() else None


class _FromStore:
    """The database, while no collector writes to it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def series(self, name: str, subject: str, since: float, until: float, step_s: float) -> Series:
        found = self._store.series(name, subject, since, until)
        return in_steps(found, Grid(since, until, step_s))

    def jobs(self, since: float, until: float) -> tuple[Job, ...]:
        return tuple(read_job(record.encode()) for _, record in self._store.jobs(since, until))

    def close(self) -> None:
        self._store.close()
