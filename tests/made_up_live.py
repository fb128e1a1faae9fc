"""Made-up clusters for the page: they move, can be told to fail, and need no host.

As a program it serves them: `python tests/made_up_live.py [--port N] [--nodes N] [--jobs N]`. With
`--of DIR`, each directory in it is a cluster: it is gone when that is, its collector is dead while
there is a file `dead`, and hangs while there is a file `hung`.
"""

import argparse
import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ai_how.dashboard import connection, server, stream, work
from ai_how.dashboard.app import Settings
from ai_how.dashboard.clusters import JournalEntry, Known
from ai_how.dashboard.guard import Keys, Place
from ai_how.dashboard.metrics_own import NodeStart
from ai_how.errors import HostError, StateError
from ai_how.monitoring.model import Event, Finding, Job, Snapshot
from made_up_cluster import make_snapshot

FINDING = Finding(
    id="node-drained",
    severity="warning",
    subject="compute-02",
    text="compute-02 is drained: a test of disks",
    since=time.time() - 600,
    evidence=("scontrol says: State=IDLE+DRAIN Reason=a test of disks",),
    remedy="ai-how hpc check --heal",
    heals=True,
)


class MadeUpLive:
    """A collector that answers at once: a new snapshot every `every_s`."""

    def __init__(
        self,
        name: str,
        *,
        nodes: int,
        jobs: int,
        every_s: float = 1.0,
        event_s: int = 60,
        place: Path | None = None,
    ) -> None:
        self.name, self._nodes, self._jobs, self._every_s = name, nodes, jobs, every_s
        self._event_s = event_s
        self._place = place
        self._closed = threading.Event()

    def is_told(self, word: str) -> bool:
        return self._place is not None and (self._place / word).exists()

    def check(self) -> None:
        """As a collector that is hung or dead."""
        while self.is_told("hung"):
            time.sleep(0.05)
        if self.is_told("dead"):
            raise HostError("the collector has ended")

    def snapshot(self) -> Snapshot:
        at = time.time()
        seen = make_snapshot(nodes=self._nodes, jobs=self._jobs, at=at, findings=(FINDING,))
        wave = 0.5 + 0.5 * math.sin(at / 10)
        nodes = tuple(
            replace(one, vm=replace(one.vm, cpus_busy=round(wave * one.vm.vcpus, 3)))
            for one in seen.nodes
            if one.vm
        )
        trouble = "the collector is gone" if self.is_told("dead") else None
        sources = tuple(replace(one, trouble=trouble) for one in seen.sources)
        return replace(seen, cluster=self.name, nodes=nodes, sources=sources)

    def follow(self) -> Iterator[Snapshot]:
        while not self._closed.is_set():
            yield self.snapshot()
            self._closed.wait(self._every_s)

    def series(
        self, name: str, subject: str, since: float, until: float, step_s: float
    ) -> Sequence[tuple[float, float | None]]:
        self.check()
        if name in ("nan", "inf"):
            return [(since, float(name))]
        count = int((until - since) / step_s)
        phase = sum(map(ord, name + subject))
        return [
            (
                since + place * step_s,
                None
                if place % 97 == 50
                else round(2 + 2 * math.sin((since + place * step_s) / 300 + phase), 3),
            )
            for place in range(count)
        ]

    def jobs(self, since: float, until: float) -> tuple[Job, ...]:
        self.check()
        found = self.snapshot().slurm
        return found.jobs if found else ()

    def events(self, since: float, until: float) -> tuple[Event, ...]:
        self.check()
        step = self._event_s
        numbers = range(math.ceil(since / step), int(until / step) + 1)
        kinds = ("job-start", "job-end", "finding", "finding-over", "heal", "start", "gap")
        return tuple(
            Event(
                at=float(number * step),
                kind=kinds[number % len(kinds)],
                subject=f"compute-{number % self._nodes + 1:02}",
                text=f"what happened for the {number % 60 + 1}. time",
            )
            for number in numbers
        )

    def close(self) -> None:
        self._closed.set()


class MadeUpLine:
    """A serial line that says back what is typed, as a shell does."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._said.put(b"root@compute-01:~# ")

    def recv(self, size: int) -> bytes:
        return self._said.get()[:size]

    def send(self, data: bytes) -> None:
        self._said.put(data.replace(b"\r", b"\r\nroot@compute-01:~# "))

    def close(self) -> None:
        self._said.put(b"")


class MadeUpClusters:
    """Clusters by name, of so many nodes; a test adds and removes them."""

    def __init__(
        self,
        *,
        nodes: int = 2,
        jobs: int = 8,
        names: Sequence[str] = ("made-up",),
        of: Path | None = None,
        event_s: int = 60,
    ) -> None:
        self.nodes, self.jobs, self._names, self._of = nodes, jobs, names, of
        self._event_s = event_s

    @property
    def names(self) -> list[str]:
        """Those of the directory, if there is one."""
        return sorted(one.name for one in self._of.iterdir()) if self._of else list(self._names)

    def known(self) -> Sequence[Known]:
        numbers = range(1, self.nodes + 1)
        nodes = ("controller", *(f"compute-{number:02}" for number in numbers))
        return [Known(name, "hpc", nodes) for name in self.names]

    def connect(self, name: str) -> MadeUpLive:
        if name not in self.names:
            raise StateError(f"there is no cluster {name}")
        place = self._of / name if self._of else None
        return MadeUpLive(
            name, nodes=self.nodes, jobs=self.jobs, event_s=self._event_s, place=place
        )

    def starts(self, name: str) -> Sequence[NodeStart]:
        return [NodeStart("controller", {"boot": 1.5, "agent": 4.0})]

    def journal(self, name: str, node: str, lines: int) -> Sequence[JournalEntry]:
        return [
            JournalEntry(
                at=1_800_000_000.0 + number,
                identifier="slurmd",
                priority=(3, 6)[number % 2],
                message=f"line {number} of {node}",
            )
            for number in range(lines)
        ]

    @contextmanager
    def console(self, name: str, node: str) -> Iterator[MadeUpLine]:
        line = MadeUpLine()
        try:
            yield line
        finally:
            line.close()


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--port", type=int, default=0)
    asked.add_argument("--nodes", type=int, default=2)
    asked.add_argument("--jobs", type=int, default=8)
    asked.add_argument("--clusters", nargs="+", default=["made-up", "second"])
    asked.add_argument("--no-console", action="store_true")
    asked.add_argument("--of", type=Path, help="the directory of the clusters")
    asked.add_argument("--patience", type=float, help="seconds for a request, and for an answer")
    asked.add_argument("--event", type=int, default=60, help="seconds between two events")
    given = asked.parse_args()
    if given.patience:
        connection.REQUEST_S = connection.REST_S = work.PATIENCE_S = given.patience
        stream.STUCK_S = server.KEEP_ALIVE_S = given.patience
    line = server.listen("127.0.0.1", given.port)
    port, keys = line.getsockname()[1], Keys()
    settings = Settings(
        place=Place(port), keys=keys, version="0.0.0", has_console=not given.no_console
    )
    clusters = MadeUpClusters(
        nodes=given.nodes, jobs=given.jobs, names=given.clusters, of=given.of, event_s=given.event
    )
    server.serve(
        line,
        clusters,
        settings,
        lambda: print(f"http://127.0.0.1:{port}/#token={keys.token}", flush=True),  # noqa: T201
    )


if __name__ == "__main__":
    main()
