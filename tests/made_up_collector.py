"""A collector of a cluster that is made up: the program, and what starts and asks it.

As a program it reads `control.json` in its state directory at each round.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ai_how.clusters.collecting import Order, end_collector, find_collector, start_collector
from ai_how.monitoring.live import CollectorLive
from ai_how.monitoring.service import Task, main
from ai_how.state.paths import Roots
from made_up_cluster import make_snapshot

CONTROL = "control.json"
NAME = "made-up"


@dataclass
class MadeUp:
    """A cluster that is made up, in a directory of its own."""

    root: Path

    def __post_init__(self) -> None:
        self.paths.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.paths.state.write_text("{}")

    @property
    def roots(self) -> Roots:
        return Roots(self.root, self.root / "data", self.root / "cache")

    @property
    def paths(self):
        return self.roots.cluster(NAME)

    def control(self, **told: object) -> None:
        draft = self.root / f"{CONTROL}.draft"
        draft.write_text(json.dumps(told))
        draft.replace(self.root / CONTROL)

    def order(self, **more: object) -> Order:
        return Order(program=("-I", str(Path(__file__))), roots=self.roots, name=NAME, **more)

    def start(self, **more: object) -> int:
        """Start the collector; its pid."""
        start_collector(self.order(**more))
        return self.pid

    @property
    def pid(self) -> int:
        there = find_collector(self.paths)
        assert there is not None, self.paths.collector_log.read_text()
        return there.pid

    def live(self, **more: object) -> CollectorLive:
        return CollectorLive(self.order(), kind="hpc", **more)

    def end(self) -> None:
        if find_collector(self.paths):
            end_collector(self.paths)


def rounds_of(task: Task):
    path = task.roots.state / CONTROL

    def rounds(stop):
        while not stop.is_set():
            told = json.loads(path.read_text()) if path.exists() else {}
            if "raises" in told:
                raise ValueError(told["raises"])
            if told.get("hangs"):
                time.sleep(0.05)
                continue
            at = time.time() + told.get("ahead_s", 0)
            seen = make_snapshot(nodes=told.get("nodes", 2), jobs=told.get("jobs", 4), at=at)
            yield replace(seen, cluster=task.name)
            stop.wait(told.get("every_s", 0.05))

    return rounds


if __name__ == "__main__":
    main(rounds_of, linger_s=float(os.environ.get("MADE_UP_LINGER_S", "300")))
