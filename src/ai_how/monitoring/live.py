"""What those who look at a cluster ask: the newest snapshot, each new one, and what was before."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ai_how.clusters.collecting import Order, find_collector, read_end, start_collector
from ai_how.clusters.watching import order_of, settings_of
from ai_how.errors import AiHowError
from ai_how.monitoring.asking import CollectorGoneError, Connection
from ai_how.monitoring.history import Series
from ai_how.monitoring.model import Event, Job, Snapshot, SourceState
from ai_how.monitoring.records import read_job_record, read_snapshot

if TYPE_CHECKING:
    from ai_how.clusters.known_cluster import KnownCluster

COLLECTOR = "collector"
"""The name of the collector among the sources of a snapshot, while it has a trouble."""
FIRST_S = 30.0
SILENT_S = 20.0
STALE_S = 30.0
PAUSE_S = 1.0
LONGEST_PAUSE_S = 5.0
EVERY_S = 5.0
ENDED = {
    "stop": "the cluster was stopped",
    "suspend": "the cluster was suspended",
    "destroy": "the cluster was destroyed",
    "off": "its collector was stopped",
}

T = TypeVar("T")


class Live(Protocol):
    """A cluster that is being watched. Several threads may use it, but only one may follow."""

    def snapshot(self) -> Snapshot:
        """The newest. Does not hang: of a collector that is gone its sources have a trouble."""

    def follow(self) -> Iterator[Snapshot]:
        """The newest, and then each new one, until `close`.

        While the collector is gone or hangs: every few seconds the last one, with the trouble.
        """

    def series(self, name: str, subject: str, since: float, until: float, step_s: float) -> Series:
        """Means over steps of `step_s`; None where unknown, also for what was never seen.

        Steps are longer if they are too many, and a minute or more beyond the last hour.
        docs/monitoring.md has the names. This and what follows raises HostError while the
        collector is gone.
        """

    def jobs(self, since: float, until: float) -> tuple[Job, ...]:
        """The jobs that waited, ran or ended then, by the time of their submission."""

    def events(self, since: float, until: float) -> tuple[Event, ...]:
        """What happened then, oldest first."""

    def close(self) -> None:
        """Also ends `follow`."""


def connect(cluster: "KnownCluster") -> "CollectorLive":
    """Watch a cluster; its collector is started if none runs. Raises AiHowError."""
    cluster.get_state()
    settings = settings_of(cluster.kind, cluster.paths)
    # One that was killed under a cluster that is to be watched anyway stays, too.
    order = order_of(cluster, settings, stays=settings.enabled)
    start_collector(order)
    return CollectorLive(order, kind=cluster.kind.name)


class CollectorLive:
    """A cluster as its collector tells of it (`Live`)."""

    def __init__(
        self,
        order: Order,
        *,
        kind: str,
        start: Callable[[Order], None] = start_collector,
        silent_s: float = SILENT_S,
    ) -> None:
        self._order = order
        self._paths = order.roots.cluster(order.name)
        self._start = start
        self._silent_s = silent_s
        self._last = Snapshot(at=0.0, cluster=order.name, kind=kind, host_uri="")
        self._asking: Connection | None = None
        self._following: Connection | None = None
        self._guard = threading.Lock()
        self._closed = threading.Event()

    def snapshot(self) -> Snapshot:
        until = time.monotonic() + FIRST_S
        try:
            while True:
                # As a line: its snapshot is read once, by pydantic.
                age_s, line = snapshot_parts(
                    self._ask(lambda line: line.ask_line({"ask": "snapshot"}))
                )
                if line is not None or time.monotonic() > until:
                    break
                self._closed.wait(0.1)
        except AiHowError as error:
            return self._troubled(error.brief)
        if line is None or age_s is None:
            return self._troubled("the collector has seen nothing yet")
        self._last = read_snapshot(line)
        if age_s > STALE_S:
            return self._troubled(f"the collector has seen nothing new for {age_s:.0f} s")
        return self._last

    def follow(self) -> Iterator[Snapshot]:
        pause_s = PAUSE_S
        while not self._closed.is_set():
            try:
                for seen in self._follow_one():
                    pause_s = PAUSE_S
                    yield seen
            except AiHowError as error:
                if self._closed.is_set():
                    return
                yield self._troubled(error.brief)
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def series(self, name: str, subject: str, since: float, until: float, step_s: float) -> Series:
        answer = self._asked(
            ask="series", name=name, subject=subject, since=since, until=until, step_s=step_s
        )
        return [(at, value) for at, value in answer["series"]]

    def jobs(self, since: float, until: float) -> tuple[Job, ...]:
        found: dict[tuple[str, float | None], Job] = {}
        for record in self._paged("jobs", since, until):
            job = read_job_record(record)
            found[job.id, job.submitted_at] = job
        return tuple(found.values())

    def events(self, since: float, until: float) -> tuple[Event, ...]:
        found = dict.fromkeys(Event(**one) for one in self._paged("events", since, until))
        return tuple(sorted(found, key=lambda one: one.at))

    def names(self) -> tuple[tuple[str, str], ...]:
        """Name and subject of each series that is known."""
        return tuple((name, subject) for name, subject in self._asked(ask="names")["names"])

    def status(self) -> dict[str, Any]:
        """What the collector says of itself."""
        told = self._asked(ask="status")["status"]
        return dict(told)

    def close(self) -> None:
        self._closed.set()
        if following := self._following:
            following.interrupt()
        with self._guard:
            if self._asking:
                self._asking.close()
                self._asking = None

    def _follow_one(self) -> Iterator[Snapshot]:
        """What one connection tells, until it ends. Raises AiHowError at its end."""
        self._revive()
        line = Connection(self._paths.collector_socket)
        self._following = line
        try:
            line.ask_line({"ask": "follow"})
            silent_s = 0.0
            while not self._closed.is_set():
                told = line.next_line(self._silent_s)
                if told is None:
                    silent_s += self._silent_s
                    yield self._troubled(f"the collector has said nothing for {silent_s:.0f} s")
                    continue
                silent_s = 0.0
                _, snapshot = snapshot_parts(told)
                if snapshot is not None:
                    self._last = read_snapshot(snapshot)
                    yield self._last
        finally:
            self._following = None
            line.close()

    def _asked(self, **question: object) -> dict[str, Any]:
        return self._ask(lambda line: line.ask(question))

    def _paged(self, what: str, since: float, until: float) -> Iterator[Any]:
        after: object = None
        while True:
            answer = self._asked(ask=what, since=since, until=until, after=after)
            yield from answer[what]
            after = answer["more"]
            if after is None:
                return

    def _ask(self, question: Callable[[Connection], T]) -> T:
        """Ask on the connection that there is; if it is broken, once more on a new one."""
        with self._guard:
            if self._closed.is_set():
                raise CollectorGoneError("the connection is closed")
            if self._asking:
                with suppress(CollectorGoneError):
                    return question(self._asking)
                self._asking = None
            self._revive()
            self._asking = Connection(self._paths.collector_socket)
            try:
                return question(self._asking)
            except CollectorGoneError:
                self._asking = None
                raise

    def _revive(self) -> None:
        """Start the collector again if it was killed. Raises AiHowError if it is not to run."""
        if not self._paths.state.exists():
            raise CollectorGoneError(ENDED["destroy"])
        there = find_collector(self._paths)
        if there and there.is_current:
            return
        if why := read_end(self._paths):
            raise CollectorGoneError(ENDED.get(why, why))
        self._start(self._order)

    def _troubled(self, why: str) -> Snapshot:
        """The last snapshot, as old as it is."""
        old = tuple(
            replace(one, trouble=one.trouble or why)
            for one in self._last.sources
            if one.name != COLLECTOR
        )
        own = SourceState(name=COLLECTOR, every_s=EVERY_S, at=self._last.at or None, trouble=why)
        return replace(self._last, at=time.time(), sources=(*old, own))


def snapshot_parts(line: bytes) -> tuple[float | None, bytes | None]:
    """Age and snapshot of a line that has one. Raises CollectorGoneError for another line."""
    begin = line.find(b'"snapshot": ')
    if begin < 0 or not line.endswith(b"}"):
        if line == b'{"follows": true}':
            return None, None
        raise CollectorGoneError(f"the collector answers {line[:200].decode(errors='replace')}")
    snapshot = line[begin + len(b'"snapshot": ') : -1]
    age = line[:begin].partition(b'"age_s": ')[2].rstrip(b", ")
    try:
        age_s = float(age) if age and age != b"null" else None
    except ValueError:
        raise CollectorGoneError("the collector answers nonsense") from None
    return age_s, None if snapshot == b"null" else snapshot
