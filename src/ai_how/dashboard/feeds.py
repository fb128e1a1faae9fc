"""One follower for each cluster that is looked at; what it sees is passed on to all open pages.

A page that reads slowly misses snapshots, never the newest, and takes no memory for those.
"""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from ai_how.dashboard.clusters import Clusters, Known, Live
from ai_how.dashboard.work import Work
from ai_how.errors import AiHowError, brief_of
from ai_how.limits import start_thread
from ai_how.monitoring.model import Snapshot
from ai_how.monitoring.records import write_snapshot

T = TypeVar("T")
logger = logging.getLogger(__name__)

SCAN_S = 2.0
# A cluster that nobody looks at is not followed any longer.
IDLE_S = 60.0
MOST_EVENTS = 200
RETRY_S = 3.0


class Reader:
    """What one page has still to get: the newest snapshot of each cluster, and the last events."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names
        self._snapshots: dict[str, bytes] = {}
        self._others: deque[tuple[str, bytes]] = deque(maxlen=MOST_EVENTS)
        self._news = asyncio.Event()
        self.is_closed = False

    def wants(self, name: str) -> bool:
        return self._names is None or name in self._names

    def put_snapshot(self, name: str, data: bytes) -> None:
        if self.wants(name):
            self._snapshots[name] = data
            self._news.set()

    def put(self, kind: str, data: bytes, *, cluster: str | None = None) -> None:
        """Pass on an event of any other kind, of a cluster or of all."""
        if cluster is None or self.wants(cluster):
            if kind == "gone" and cluster:
                self._snapshots.pop(cluster, None)
            self._others.append((kind, data))
            self._news.set()

    def close(self) -> None:
        self.is_closed = True
        self._news.set()

    async def take(self, seconds: float) -> list[tuple[str, bytes]]:
        """What is new, as soon as there is something; nothing after this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()
        found = [*self._others, *(("snapshot", one) for one in self._snapshots.values())]
        self._others.clear()
        self._snapshots.clear()
        return found


class Feed:
    """Follows one cluster in a thread of its own, and keeps its newest snapshot."""

    def __init__(self, name: str, clusters: Clusters, hub: "Hub") -> None:
        self.name, self._clusters, self._hub = name, clusters, hub
        self.wanted_at = time.monotonic()
        self.snapshot: Snapshot | None = None
        self.data: bytes | None = None
        self.trouble: str | None = None
        self._live: Live | None = None
        self._closed = threading.Event()
        self._events_since = time.time()

    def start(self) -> None:
        start_thread(self._follow, name=f"feed-{self.name}")

    def close(self) -> None:
        """End the thread, soon. Safe to repeat."""
        if not self._closed.is_set():
            self._closed.set()
            start_thread(self._close, name=f"close-{self.name}")

    def _close(self) -> None:
        # The thread sets it, then looks whether it is closed.
        if live := self._live:
            with suppress(AiHowError, OSError):
                live.close()

    def _follow(self) -> None:
        while not self._closed.is_set():
            try:
                self._live = self._clusters.connect(self.name)
                if self._closed.is_set():
                    self._close()
                    return
                for seen in self._live.follow():
                    if self._closed.is_set():
                        return
                    self._pass_on(seen, self._live)
                why = "its collector has ended"
            except (AiHowError, OSError) as error:
                why = brief_of(error)
            if not self._closed.is_set():
                logger.info("%s cannot be followed: %s", self.name, why)
                self._hub.call(self._hub.tell_trouble, self, why)
                self._closed.wait(RETRY_S)

    def _pass_on(self, seen: Snapshot, live: Live) -> None:
        data = write_snapshot(seen)
        self.snapshot, self.data = seen, data
        self._hub.call(self._hub.tell_snapshot, self, data)
        # The end is open: an event may be a little later than the snapshot that shows it.
        found = live.events(self._events_since, time.time() + 1)
        new = [one for one in found if one.at > self._events_since]
        self._events_since = max([one.at for one in new], default=self._events_since)
        for one in new[-MOST_EVENTS:]:
            told = json.dumps({"cluster": self.name, **asdict(one)}).encode()
            self._hub.call(self._hub.tell_event, self, told)


class Asked:
    """Answers the questions of pages about one cluster, one after the other."""

    def __init__(self, name: str, clusters: Clusters) -> None:
        self._name, self._clusters = name, clusters
        self._lock = threading.Lock()
        self._live: Live | None = None
        self.is_closed = False

    def ask(self, question: Callable[[Live], T]) -> T:
        """In a thread that may wait: the answer. A new connection is tried where one is broken."""
        with self._lock:
            if self._live is None:
                self._live = self._clusters.connect(self._name)
            try:
                return question(self._live)
            except (AiHowError, OSError):
                self._drop()
                raise
            finally:
                if self.is_closed:
                    self._drop()

    def close(self) -> None:
        self.is_closed = True
        start_thread(self._end, name=f"close-{self._name}")

    def _end(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        live, self._live = self._live, None
        if live:
            with suppress(AiHowError, OSError):
                live.close()


@dataclass(slots=True)
class Watched:
    """A known cluster: what is asked of it, and its feed while somebody looks at it."""

    known: Known
    asked: Asked
    feed: Feed | None = None

    def close(self) -> None:
        self.asked.close()
        self.drop_feed()

    def drop_feed(self) -> None:
        if self.feed:
            self.feed.close()
        self.feed = None


class Hub:
    """All clusters, and the pages that read them. Its methods are the loop's, but for `call`."""

    def __init__(self, clusters: Clusters) -> None:
        self.clusters = clusters
        self.work = Work()
        self._watched: dict[str, Watched] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: set[Reader] = set()
        self._listed: list[dict[str, object]] = []
        self.is_closed = False

    @property
    def reader_count(self) -> int:
        return len(self._readers)

    def find(self, name: str) -> Watched | None:
        return self._watched.get(name)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the loop call it, from any thread; nothing happens once the loop has ended."""
        if self._loop:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *arguments)

    async def run(self) -> None:
        """Look which clusters there are, again and again, until this is cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            with suppress(AiHowError, OSError, TimeoutError):
                await self.scan()
            await asyncio.sleep(SCAN_S)

    async def scan(self) -> None:
        """Look once: end what is not wanted any longer, follow what a page waits for."""
        found = {one.name: one for one in await self.work.do(self.clusters.known)}
        for name in self._watched.keys() - found.keys():
            self._watched.pop(name).close()
            self._tell("gone", {"cluster": name}, cluster=name)
        for name, known in found.items():
            if name in self._watched:
                self._watched[name].known = known
            elif not self.is_closed:
                self._watched[name] = Watched(known, Asked(name, self.clusters))
            if any(one.wants(name) for one in self._readers):
                self.touch(name)
        too_old = time.monotonic() - IDLE_S
        for one in self._watched.values():
            if one.feed and one.feed.wanted_at < too_old:
                one.drop_feed()
        self._tell_list()

    def listed(self) -> list[dict[str, object]]:
        """Each cluster in short; `is_up` is None while nobody has looked."""
        return [_listed(self._watched[name]) for name in sorted(self._watched)]

    def touch(self, name: str) -> Feed | None:
        """Follow a known cluster from now on; its first snapshot takes a moment."""
        watched = self._watched.get(name)
        if watched is None or self.is_closed:
            return None
        if watched.feed is None:
            watched.feed = Feed(name, self.clusters, self)
            watched.feed.start()
        watched.feed.wanted_at = time.monotonic()
        return watched.feed

    def join(self, names: frozenset[str] | None) -> Reader:
        """A new page, which gets at once what is known."""
        reader = Reader(names)
        self._readers.add(reader)
        reader.put("clusters", json.dumps(self.listed()).encode())
        for name in self._watched:
            if reader.wants(name) and (feed := self.touch(name)) and feed.data:
                reader.put_snapshot(name, feed.data)
        return reader

    def leave(self, reader: Reader) -> None:
        self._readers.discard(reader)

    def tell_snapshot(self, feed: Feed, data: bytes) -> None:
        feed.trouble = None
        if self._is_current(feed):
            for one in self._readers:
                one.put_snapshot(feed.name, data)
            self._tell_list()

    def tell_event(self, feed: Feed, data: bytes) -> None:
        if self._is_current(feed):
            for one in self._readers:
                one.put("event", data, cluster=feed.name)

    def tell_trouble(self, feed: Feed, why: str) -> None:
        feed.trouble = why
        self._tell_list()

    def close(self) -> None:
        """End all streams and feeds; waits for nothing."""
        self.is_closed = True
        for reader in self._readers:
            reader.close()
        for one in self._watched.values():
            one.close()
        self._watched.clear()

    def _is_current(self, feed: Feed) -> bool:
        watched = self._watched.get(feed.name)
        return watched is not None and watched.feed is feed

    def _tell_list(self) -> None:
        """Tell all pages if the list has changed."""
        if (listed := self.listed()) != self._listed:
            self._listed = listed
            self._tell("clusters", listed)

    def _tell(self, kind: str, value: object, *, cluster: str | None = None) -> None:
        for one in self._readers:
            one.put(kind, json.dumps(value).encode(), cluster=cluster)


def _listed(one: Watched) -> dict[str, object]:
    seen = one.feed.snapshot if one.feed else None
    return {
        "name": one.known.name,
        "kind": one.known.kind,
        "nodes": list(one.known.nodes),
        "is_up": seen.is_up if seen else None,
        "findings": len(seen.findings) if seen else None,
        "trouble": one.feed.trouble if one.feed else None,
    }
