"""What a change is made of: steps that can be reverted, and the plan that holds them in order."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol


class Applied(StrEnum):
    """What a step did: KEPT means that its thing was there in spite of the plan."""

    MADE = "made"
    KEPT = "kept"


class Step(Protocol):
    """One reversible change, as a frozen dataclass that holds all that its undo needs.

    Its fields are written to the journal, so they are values (str, int, Path, UUID, addresses,
    enums, tuples and frozen dataclasses of such), and none is a secret. Both verbs are safe to
    repeat, and `revert` is right after an `apply` that was cut short anywhere, or never began.
    """

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Unique in its plan, printable, the same in every run: `disk/demo-compute-01`.

        It is a name, and nobody reads it: what a step is about is its `subject`.
        """

    @property
    def subject(self) -> str:
        """What it is about: a VM's name, a network's, the cluster's, or an image's digest."""

    @property
    def stage(self) -> str:
        """What its subject goes through meanwhile, in one word, as progress is shown."""

    @property
    def needs(self) -> frozenset[str]:
        """Keys of the steps that must be over before this one begins."""

    # The world is whatever the steps of one plan agree on; this room does not look into it.
    def apply(self, world: Any) -> Applied:  # noqa: ANN401
        """Make the change."""

    def revert(self, world: Any) -> None:  # noqa: ANN401
        """Take the change back; nothing to take back is success."""

    def describe(self) -> str:
        """One line in the user's words, for a dry run and for what remains."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """Segments of a plan, of which at most `most` are under way at once.

    A segment is the keys of steps, each of which comes after the one before it. It is under way
    from the beginning of its first step until its last is done, or one of them has failed.
    """

    maximum: int
    segments: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps under a verb, each after all that it needs. Anything else is a bug: ValueError.

    `limit` is about when steps begin, and no more: undo and the journal know nothing of it.
    """

    verb: str
    steps: tuple[Step, ...]
    limit: ConcurrencyLimit | None = None

    def __post_init__(self) -> None:
        every = {step.key for step in self.steps}
        before: set[str] = set()
        for step in self.steps:
            if step.key in before:
                raise ValueError(f"{self.verb}: two steps are called {step.key}")
            if unknown := step.needs - every:
                raise ValueError(f"{self.verb}: {step.key} needs {_listed(unknown)}: no such step")
            if late := step.needs - before:
                raise ValueError(
                    f"{self.verb}: {step.key} needs {_listed(late)}, which does not come before it"
                )
            before.add(step.key)
        if self.limit:
            self._check_limit(self.limit, every)

    def _check_limit(self, limit: ConcurrencyLimit, every: set[str]) -> None:
        if limit.maximum < 1:
            raise ValueError(f"{self.verb}: a limit of {limit.maximum} lets nothing begin")
        limited = [key for segment in limit.segments for key in segment]
        if len(limited) != len(set(limited)) or not all(limit.segments):
            raise ValueError(f"{self.verb}: a step is in two segments, or a segment has none")
        if unknown := set(limited) - every:
            raise ValueError(f"{self.verb}: a limit on {_listed(frozenset(unknown))}: no such step")


def node_of(subject: str, cluster: str) -> str | None:
    """The node of a step's subject; None where that is no VM of the cluster.

    A node's VM has the cluster's name before its own: `demo-compute-01`.
    """
    prefix = f"{cluster}-"
    return subject.removeprefix(prefix) if subject.startswith(prefix) else None


def _listed(keys: frozenset[str]) -> str:
    return ", ".join(sorted(keys))


class KeyedStep(ABC):
    """A step whose key is its kind and its subject, and whose stage has its kind's name."""

    __slots__ = ()

    kind: ClassVar[str]

    @property
    @abstractmethod
    def subject(self) -> str:
        """As `Step` has it."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject}"

    @property
    def stage(self) -> str:
        return self.kind


class ForwardStep(KeyedStep):
    """A step that is only ever carried on."""

    __slots__ = ()

    def revert(self, world: Any) -> None:  # noqa: ANN401
        """What was taken down stays down."""
