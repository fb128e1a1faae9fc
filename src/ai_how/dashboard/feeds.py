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

from ai_how.dashboard.clusters import Clusters, Known
from ai_how.dashboard.work import Work
from ai_how.errors import AiHowError, StateError, brief_of
from ai_how.limits import start_thread
from ai_how.monitoring.live import Live
from ai_how.monitoring.model import Snapshot
from ai_how.monitoring.records import write_snapshot

logger = logging.getLogger(__name__)

SCAN_S = 2.0
# A cluster that nobody looks at is not followed any longer.
IDLE_S = 60.0
MOST_EVENTS = 200
RETRY_S = 3.0
# If a collector cannot be started, it is not tried again for every question.
AGAIN_S = 10.0


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


class Link:
    """The connection to what collects of one cluster, made when it is first needed."""

    def __init__(self, name: str, clusters: Clusters) -> None:
        self.name, self._clusters = name, clusters
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._failed_at = -AGAIN_S
        self._failure: AiHowError | OSError = StateError(f"{name} is not watched")
        self._is_over = False

    def get(self) -> Live:
        """The connection. Raises AiHowError, and for some seconds the same again, if there is none.

        It blocks: to make one may start the collector.
        """
        with self._lock:
            if self._live is None:
                if self._is_over or time.monotonic() - self._failed_at < AGAIN_S:
                    raise self._failure
                try:
                    self._live = self._clusters.connect(self.name)
                except (AiHowError, OSError) as error:
                    self._failed_at, self._failure = time.monotonic(), error
                    raise
            return self._live

    def drop(self) -> None:
        """Close the connection, which also ends its feed; a later `get` makes a new one."""
        start_thread(self._drop, name=f"close-{self.name}")

    def end(self) -> None:
        self._is_over = True
        self.drop()

    def _drop(self) -> None:
        with self._lock:
            live, self._live = self._live, None
        if live:
            with suppress(AiHowError, OSError):
                live.close()


class Feed:
    """Follows one cluster in a thread of its own, and keeps its newest snapshot."""

    def __init__(self, link: Link, hub: "Hub") -> None:
        self.link, self._hub = link, hub
        self.wanted_at = time.monotonic()
        self.snapshot: Snapshot | None = None
        self.data: bytes | None = None
        self.trouble: str | None = None
        self._closed = threading.Event()
        self._events_since = time.time()

    def start(self) -> None:
        start_thread(self._follow, name=f"feed-{self.link.name}")

    def close(self) -> None:
        """End the thread as soon as its connection is dropped, too."""
        self._closed.set()

    def _follow(self) -> None:
        while not self._closed.is_set():
            try:
                for seen in self.link.get().follow():
                    if self._closed.is_set():
                        return
                    self._pass_on(seen)
                why = "its collector has ended"
            except (AiHowError, OSError) as error:
                why = brief_of(error)
            if not self._closed.is_set():
                logger.info("%s cannot be followed: %s", self.link.name, why)
                self._hub.call(self._hub.tell_trouble, self, why)
                self._closed.wait(RETRY_S)

    def _pass_on(self, seen: Snapshot) -> None:
        data = write_snapshot(seen)
        self.snapshot, self.data = seen, data
        self._hub.call(self._hub.tell_snapshot, self, data)
        try:
            # The end is open: an event may be a little later than the snapshot that shows it.
            found = self.link.get().events(self._events_since, time.time() + 1)
        except (AiHowError, OSError):
            return  # the snapshot says it: its collector is gone
        new = [one for one in found if one.at > self._events_since]
        self._events_since = max([one.at for one in new], default=self._events_since)
        for one in new[-MOST_EVENTS:]:
            told = json.dumps({"cluster": self.link.name, **asdict(one)}).encode()
            self._hub.call(self._hub.tell_event, self, told)


@dataclass(slots=True)
class Watched:
    """A known cluster, and its feed while somebody looks at it."""

    known: Known
    link: Link
    feed: Feed | None = None

    def drop(self) -> None:
        """Nobody looks at it."""
        if self.feed:
            self.feed.close()
            self.feed = None
            self.link.drop()

    def end(self) -> None:
        self.drop()
        self.link.end()


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

    @property
    def watched(self) -> list[Watched]:
        """All known clusters, by name."""
        return [self._watched[name] for name in sorted(self._watched)]

    def find(self, name: str) -> Watched | None:
        return self._watched.get(name)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the loop call it, from any thread; nothing happens once the loop has ended."""
        if self._loop:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *arguments)

    async def begin(self) -> None:
        """Look once, so that the first page sees the clusters."""
        self._loop = asyncio.get_running_loop()
        with suppress(AiHowError, OSError, TimeoutError):
            await self.scan()

    async def run(self) -> None:
        """Look which clusters there are, again and again, until this is cancelled."""
        while True:
            await asyncio.sleep(SCAN_S)
            with suppress(AiHowError, OSError, TimeoutError):
                await self.scan()

    async def scan(self) -> None:
        """Look once: end what is not wanted any longer, follow what a page waits for."""
        found = {one.name: one for one in await self.work.do(self.clusters.known)}
        for name in self._watched.keys() - found.keys():
            self._watched.pop(name).end()
            self._tell("gone", {"cluster": name}, cluster=name)
        for name, known in found.items():
            if name in self._watched:
                self._watched[name].known = known
            elif not self.is_closed:
                self._watched[name] = Watched(known, Link(name, self.clusters))
            if any(one.wants(name) for one in self._readers):
                self.touch(name)
        too_old = time.monotonic() - IDLE_S
        for one in self._watched.values():
            if one.feed and one.feed.wanted_at < too_old:
                one.drop()
        self._tell_list()

    def listed(self) -> list[dict[str, object]]:
        """Each cluster in short; `is_up` is None while nobody has looked."""
        return [_listed(one) for one in self.watched]

    def touch(self, name: str) -> Feed | None:
        """Follow a known cluster from now on; its first snapshot takes a moment."""
        watched = self._watched.get(name)
        if watched is None or self.is_closed:
            return None
        if watched.feed is None:
            watched.feed = Feed(watched.link, self)
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
                one.put_snapshot(feed.link.name, data)
            self._tell_list()

    def tell_event(self, feed: Feed, data: bytes) -> None:
        if self._is_current(feed):
            for one in self._readers:
                one.put("event", data, cluster=feed.link.name)

    def tell_trouble(self, feed: Feed, why: str) -> None:
        feed.trouble = why
        self._tell_list()

    def close(self) -> None:
        """End all streams and feeds; waits for nothing."""
        self.is_closed = True
        for reader in self._readers:
            reader.close()
        for one in self._watched.values():
            one.end()
        self._watched.clear()

    def _is_current(self, feed: Feed) -> bool:
        watched = self._watched.get(feed.link.name)
        return watched is not None and watched.feed is feed

    def _tell_list(self) -> None:
        """Tell all pages if the list has changed."""
        if (listed := self.listed()) != self._listed:
            self._listed = listed
            self._tell("clusters", listed)

    def _tell(self, kind: str, value: object, *, cluster: str | None = None) -> None:
        data = json.dumps(value).encode()
        for one in self._readers:
            one.put(kind, data, cluster=cluster)


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
