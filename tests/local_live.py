"""A cluster that is watched by this process itself: for tests of what is shown."""

import threading
from collections.abc import Callable, Iterator

from ai_how.errors import HostError
from ai_how.limits import start_thread
from ai_how.monitoring.changes import was_there
from ai_how.monitoring.history import Grid, History, Series, in_steps
from ai_how.monitoring.model import Event, Job, Snapshot

FIRST_S = 60.0
Rounds = Callable[[threading.Event], Iterator[Snapshot]]


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
