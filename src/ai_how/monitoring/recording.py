"""Keeps what is seen: the last hour in memory, days in the database, as far as that can be used.

While it cannot, what is to be written waits in memory, and is bounded.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ai_how.guest.serial_log import one_line
from ai_how.monitoring.changes import events_between, events_of_job, with_use_of
from ai_how.monitoring.history import History
from ai_how.monitoring.model import Event, Job, Snapshot, SourceState
from ai_how.monitoring.points import SLURM, is_silent, points_of
from ai_how.monitoring.store import MINUTE_S, Key, Minute, Store, StoreError, set_aside

STORE = "history"
"""The name of the database among the sources."""
DAY_S = 86_400.0
PRUNE_S = 3600.0
SETTLED_S = 3600.0
FIRST_PRUNE_S = 240.0
JUMP_S = 600.0
MOST_MINUTES = 360
MOST_EVENTS = 5000
MOST_JOBS = 20_000
UNSEEN = "EndNotSeen"
"""The reason of a job that SLURM forgot before its end was seen."""


class Recorder:
    """What is seen of a cluster goes in here, by one thread; `waiting` is for others, too."""

    def __init__(self, path: Path, *, keep_days: int, retry_s: float = float(MINUTE_S)) -> None:
        self.history = History()
        self.keep_days = keep_days
        self._path = path
        self._retry_s = retry_s
        self._store: Store | None = None
        self._trouble: str | None = None
        self._written_at: float | None = None
        self._took_s: float | None = None
        self._tried_at = -retry_s
        self._pruned_at = time.monotonic() - PRUNE_S
        self._settled_at = time.monotonic() - SETTLED_S + FIRST_PRUNE_S
        self._minute: Minute | None = None
        self._counts: dict[Key, int] = {}
        self._before: Snapshot | None = None
        self._jobs: dict[str, Job] = {}
        self._is_new = True
        self._lock = threading.Lock()
        self._minutes: deque[Minute] = deque(maxlen=MOST_MINUTES)
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._unwritten: dict[str, Job] = {}
        self._is_urgent = False

    @property
    def source(self) -> SourceState:
        """The database, as a source of what was."""
        return SourceState(
            name=STORE,
            every_s=float(MINUTE_S),
            at=self._written_at,
            took_s=self._took_s,
            trouble=self._trouble,
        )

    def take(self, seen: Snapshot) -> Snapshot:
        """Keep a snapshot; return it with the state of the database among its sources."""
        self._open()
        seen = replace(seen, sources=(*seen.sources, self.source))
        self._note_clock(seen)
        self.history.add(seen)
        self._add_to_minute(seen)
        self.note(*events_between(self._before, seen))
        self._take_jobs(seen)
        self._before = seen
        self._write(seen.at)
        return replace(seen, sources=(*seen.sources[:-1], self.source))

    def note(self, *events: Event) -> None:
        """Keep events; they are written with the next snapshot, or by `close`."""
        kept = [
            replace(one, subject=one_line(one.subject), text=one_line(one.text)) for one in events
        ]
        with self._lock:
            self._events.extend(kept)
            self._is_urgent = self._is_urgent or bool(events)

    def waiting(self) -> tuple[list[Minute], list[Event], list[Job]]:
        """What is not written yet. The minute that has just begun is none of it."""
        with self._lock:
            return list(self._minutes), list(self._events), list(self._unwritten.values())

    def close(self) -> None:
        """Write what waits, if that is possible."""
        self._end_minute()
        self._is_urgent, self._tried_at = True, -self._retry_s
        self._open()
        self._write(self._before.at if self._before else time.time())
        if self._store:
            self._store.close()

    def _open(self) -> None:
        """Open the database, unless that failed a moment ago."""
        if self._store or time.monotonic() < self._tried_at + self._retry_s:
            return
        try:
            self._store = Store(self._path)
        except StoreError as error:
            self._fail(error)
            return
        if self._is_new:
            with suppress(StoreError):
                self._jobs = {one.id: one for one in self._store.open_jobs()}
            self._is_new = False

    def _fail(self, error: StoreError) -> None:
        self._trouble = error.brief
        self._tried_at = time.monotonic()
        if self._store:
            self._store.close()
            self._store = None
        if error.is_damaged:
            with suppress(StoreError):
                kept = set_aside(self._path)
                text = f"{error.brief}; it is kept as {kept.name}, and a new one is begun"
                self.note(Event(at=time.time(), kind="collector", subject=STORE, text=text))
                self._tried_at = -self._retry_s

    def _note_clock(self, seen: Snapshot) -> None:
        """Nothing is removed for its age while it is not sure what time it is."""
        if self._before is None:
            return
        jump = seen.at - self._before.at
        if not -1 <= jump <= JUMP_S:
            self._settled_at = time.monotonic()
        if jump < -1:
            text = f"the clock of the host was set back by {-jump:.0f} s"
            self.note(Event(at=seen.at, kind="collector", subject="host", text=text))

    def _add_to_minute(self, seen: Snapshot) -> None:
        number = int(seen.at // MINUTE_S)
        if self._minute is None or self._minute[0] != number:
            self._end_minute()
            self._minute, self._counts = (number, {}), {}
        means = self._minute[1]
        for name, subject, value in points_of(seen):
            if value is not None:
                key = (name, subject)
                count = self._counts[key] = self._counts.get(key, 0) + 1
                mean = means.get(key, 0.0)
                means[key] = mean + (value - mean) / count

    def _end_minute(self) -> None:
        if self._minute and self._minute[1]:
            with self._lock:
                self._minutes.append(self._minute)
        self._minute = None

    def _take_jobs(self, seen: Snapshot) -> None:
        source = seen.find_source(SLURM)
        if seen.slurm is None or (source is not None and is_silent(source)):
            return
        there = {one.id: one for one in seen.slurm.jobs}
        for number, shown in there.items():
            last = self._jobs.get(number) or self._find_ended(shown)
            job = with_use_of(last, shown)
            if last != job:
                self._keep_job(last, job, seen.at)
            self._jobs[number] = job
        for number, last in list(self._jobs.items()):
            if number not in there:
                del self._jobs[number]
                if not last.has_ended:
                    lost = replace(last, state="unknown", reason=UNSEEN, ended_at=None)
                    self._keep_job(last, lost, seen.at)

    def _find_ended(self, job: Job) -> Job | None:
        """A job that had ended before this process began, and is still shown by SLURM."""
        if not (job.has_ended and self._store):
            return None
        with suppress(StoreError):
            found = self._store.find_job(job.id)
            return found if found and found.submitted_at == job.submitted_at else None
        return None

    def _keep_job(self, last: Job | None, job: Job, now: float) -> None:
        self.note(*events_of_job(last, job, now))
        is_same = last is not None and last.state == job.state
        with self._lock:
            self._unwritten[job.id] = job
            while len(self._unwritten) > MOST_JOBS:
                del self._unwritten[next(iter(self._unwritten))]
            self._is_urgent = self._is_urgent or not is_same

    def _write(self, now: float) -> None:
        """Write what waits: at once if something happened, else once a minute."""
        if not self._store or not (self._minutes or self._is_urgent):
            return
        if self._trouble and time.monotonic() < self._tried_at + self._retry_s:
            return
        minutes, events, jobs = self.waiting()
        begun = time.monotonic()
        try:
            self._store.write(minutes, events, jobs, seen_at=now)
            self._prune(now)
        except StoreError as error:
            self._fail(error)
            return
        self._trouble, self._written_at = None, now
        self._took_s = time.monotonic() - begun
        self._forget(minutes, events, jobs)

    def _forget(self, minutes: list[Minute], events: list[Event], jobs: Iterable[Job]) -> None:
        """What is written waits no more."""
        with self._lock:
            self._is_urgent = False
            # Some may have been crowded out meanwhile.
            for waiting, written in ((self._minutes, minutes), (self._events, events)):
                for one in written:
                    if waiting and waiting[0] is one:
                        waiting.popleft()
            for job in jobs:
                if self._unwritten.get(job.id) is job:
                    del self._unwritten[job.id]

    def _prune(self, now: float) -> None:
        at = time.monotonic()
        if self._store and at >= self._pruned_at + PRUNE_S and at >= self._settled_at + SETTLED_S:
            self._pruned_at = at
            self._store.prune(now - self.keep_days * DAY_S)
