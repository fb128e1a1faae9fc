"""What the faces of the monitoring ask: the newest snapshot, each new one, and what was before."""

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from ai_how.errors import HostError
from ai_how.limits import start_thread
from ai_how.monitoring.history import Grid, History, Series, in_steps
from ai_how.monitoring.model import Event, Job, Snapshot

if TYPE_CHECKING:
    from ai_how.clusters.known_cluster import KnownCluster

FIRST_S = 60.0
Rounds = Callable[[threading.Event], Iterator[Snapshot]]
"""Each new snapshot, until the event is set."""


class Live(Protocol):
    """A cluster that is being watched. For one thread; each face and page has its own."""

    def snapshot(self) -> Snapshot:
        """The newest. Does not hang: of a collector that is gone its sources have a trouble."""

    def follow(self) -> Iterator[Snapshot]:
        """The newest, and then each new one, until `close`; also while the collector is gone."""

    def series(self, name: str, subject: str, since: float, until: float, step_s: float) -> Series:
        """Means over steps of `step_s` (longer ones if they are too many); None where unknown.

        docs/monitoring.md has the names. A series that was never seen is None everywhere.
        """

    def jobs(self, since: float, until: float) -> tuple[Job, ...]:
        """The jobs that waited, ran or ended then."""

    def events(self, since: float, until: float) -> tuple[Event, ...]:
        """What happened then, oldest first."""

    def close(self) -> None:
        """Also ends `follow`."""


def connect(manager: "KnownCluster") -> Live:
    """Watch a cluster; its collector is started if none runs. Raises AiHowError."""
    raise HostError(f"nothing collects what is seen of {manager.name} yet")


class LocalLive:
    """A cluster that is watched by this process, on a thread of its own. Nothing is kept on disk.

    Its events are those that are handed over.
    """

    def __init__(self, rounds: Rounds, *, events: tuple[Event, ...] = ()) -> None:
        self._events = events
        self._history = History()
        self._jobs: dict[str, Job] = {}
        self._newest: Snapshot | None = None
        self._count = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = start_thread(lambda: self._collect(rounds), name="rounds")

    def snapshot(self) -> Snapshot:
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._stop.is_set(), FIRST_S)
            if self._newest is None:
                raise HostError("nothing was seen of the cluster")
            return self._newest

    def follow(self) -> Iterator[Snapshot]:
        told = 0
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._count > told or self._stop.is_set())  # noqa: B023
                told, newest = self._count, self._newest
            if newest and not self._stop.is_set():
                yield newest

    def series(self, name: str, subject: str, since: float, until: float, step_s: float) -> Series:
        return in_steps(
            self._history.points(name, subject, since, until), Grid(since, until, step_s)
        )

    def jobs(self, since: float, until: float) -> tuple[Job, ...]:
        with self._changed:
            return tuple(one for one in self._jobs.values() if was_there(one, since, until))

    def events(self, since: float, until: float) -> tuple[Event, ...]:
        return tuple(one for one in self._events if since <= one.at < until)

    def close(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _collect(self, rounds: Rounds) -> None:
        for seen in rounds(self._stop):
            self._history.add(seen)
            with self._changed:
                self._newest = seen
                self._count += 1
                self._jobs |= {one.id: one for one in (seen.slurm.jobs if seen.slurm else ())}
                self._changed.notify_all()
            if self._stop.is_set():
                return


def was_there(job: Job, since: float, until: float) -> bool:
    """Whether a job waited, ran or ended in a span of time."""
    begun = job.submitted_at or job.started_at or 0.0
    return begun < until and (job.ended_at is None or job.ended_at >= since)
