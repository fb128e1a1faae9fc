"""A world of files, and the steps of a make-believe cluster that make them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.plan.executor import AfterFailure, execute
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal
from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied, Plan

OP_ID = UUID("11111111-2222-3333-4444-555555555555")


class World:
    """A directory; `on` is told of every moment of every step, and may raise."""

    def __init__(self, root: Path, on: Callable[[str, str], None] | None = None) -> None:
        self.root = root
        self.on = on or (lambda moment, key: None)
        self.log: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def tell(self, moment: str, key: str) -> None:
        with self._lock:
            self.log.append((moment, key))
        self.on(moment, key)

    @property
    def content(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    def keys(self, moment: str) -> list[str]:
        return [key for known, key in self.log if known == moment]


@dataclass(frozen=True, slots=True)
class Put:
    kind: ClassVar[str] = "put"
    name: str
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.name

    @property
    def subject(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def stage(self) -> str:
        return self.kind

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.after)

    def apply(self, world: World) -> Applied:
        world.tell("before apply", self.key)
        file = world.root / self.name
        applied = Applied.KEPT if file.exists() else Applied.MADE
        file.touch()
        world.tell("after apply", self.key)
        return applied

    def revert(self, world: World) -> None:
        world.tell("before revert", self.key)
        (world.root / self.name).unlink(missing_ok=True)
        world.tell("after revert", self.key)

    def describe(self) -> str:
        return f"put {self.name} there"


STEP_TYPES = {"put": Put}


def cluster_plan(nodes: int = 4) -> Plan:
    """A network, a base, and for every node a disk, a domain and its bring-up: 14 steps for 4."""
    steps = [Put("network"), Put("base")]
    for number in range(nodes):
        disk, domain, ready = (f"{what}-{number}" for what in ("disk", "domain", "ready"))
        steps += [
            Put(disk, ("base",)),
            Put(domain, (disk, "network")),
            Put(ready, (domain, "domain-0")),
        ]
    return Plan("start", tuple(steps))


class Recorder(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def begun(self, step):
        self.heard.append(("begun", step.key))

    def done(self, step, applied, elapsed_s):
        self.heard.append((str(applied), step.key))

    def failed(self, step, error):
        self.heard.append(("failed", step.key))

    def undoing(self, step):
        self.heard.append(("undoing", step.key))

    def undone(self, step):
        self.heard.append(("undone", step.key))

    def undo_failed(self, step, error):
        self.heard.append(("undo failed", step.key))

    def interrupted(self):
        self.heard.append(("interrupted", ""))


@dataclass
class Bench:
    """A directory with a world and a journal, and how to run a plan there."""

    directory: Path
    recorder: Recorder = field(default_factory=Recorder)
    interrupts: Interrupts = field(default_factory=Interrupts)

    def __post_init__(self) -> None:
        (self.directory / "world").mkdir(exist_ok=True)
        self.world = World(self.directory / "world")

    @property
    def journal_path(self) -> Path:
        return self.directory / "journal.jsonl"

    def journal(self, plan: Plan, on_boundary=None) -> Journal:
        return Journal.create(
            self.journal_path,
            verb=plan.verb,
            op_id=OP_ID,
            cluster="demo",
            note={"file": "demo.yaml"},
            on_boundary=on_boundary,
        )

    def run(self, plan: Plan, *, on_boundary=None, evidence=None, undone=None, **options) -> None:
        """As a verb does it: create the journal, execute, and close it."""
        with self.journal(plan, on_boundary) as journal:
            execute(
                plan,
                self.world,
                journal,
                after_failure=AfterFailure(evidence, undone),
                **{"observer": self.recorder, "interrupts": self.interrupts, **options},
            )
            journal.close()

    def left(self):
        return Journal.read(self.journal_path, STEP_TYPES)


def raise_at(moment: str, key: str, error: BaseException) -> Callable[[str, str], None]:
    def on(now: str, at: str) -> None:
        if (now, at) == (moment, key):
            raise error

    return on
