"""Plans: reversible steps, and the order in which they are applied."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol


class Applied(StrEnum):
    """The result of a step. KEPT: its object existed already, so undo must not remove it."""

    MADE = "made"
    KEPT = "kept"


class Step(Protocol):
    """One reversible change: a frozen dataclass with all that its undo needs.

    Its fields are written to the journal. They must be values (str, int, Path, UUID, addresses,
    enums, tuples and frozen dataclasses of these), and must hold no secret. `apply` and `revert`
    are idempotent. `revert` must work after an `apply` that stopped at any point or never began.
    """

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Unique in its plan, printable, the same in every run: `disk/demo-compute-01`.

        It is opaque: no code parses it. Use `subject` for the object of the step.
        """

    @property
    def subject(self) -> str:
        """The object of the step: the name of a VM, network or cluster, or an image's digest."""

    @property
    def stage(self) -> str:
        """One word for the subject's progress during the step, such as `booting`."""

    @property
    def needs(self) -> frozenset[str]:
        """Keys of the steps that must be applied before this one begins."""

    # This package never looks into the context; its type is up to the steps of a plan.
    def apply(self, context: Any, /) -> Applied:  # noqa: ANN401
        """Make the change."""

    def revert(self, context: Any, /) -> None:  # noqa: ANN401
        """Undo the change. If there is nothing to undo, that is success."""

    def describe(self) -> str:
        """One line for the user, shown by a dry run and if the step could not be undone."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """Segments of a plan, of which at most `maximum` run at once.

    A segment is a chain of step keys, each step after the one before it. It runs from the beginning
    of its first step until its last step is done or one of them has failed.
    """

    maximum: int
    segments: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a verb, in an order in which each comes after the steps that it needs.

    `limit` only decides when steps begin: undo and the journal ignore it. Raises ValueError for
    steps out of order, duplicate keys and unknown needs: each is a bug of the caller.
    """

    verb: str
    steps: tuple[Step, ...]
    limit: ConcurrencyLimit | None = None

    def __post_init__(self) -> None:
        every = {step.key for step in self.steps}
        before: set[str] = set()
        for step in self.steps:
            if step.key in before:
                raise ValueError(f"{self.verb}: two steps have the key {step.key}")
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
            raise ValueError(f"{self.verb}: a limit of {limit.maximum} allows no step to begin")
        limited = [key for segment in limit.segments for key in segment]
        if len(limited) != len(set(limited)) or not all(limit.segments):
            raise ValueError(f"{self.verb}: a step is in two segments, or a segment is empty")
        if unknown := set(limited) - every:
            raise ValueError(f"{self.verb}: a limit on {_listed(frozenset(unknown))}: no such step")


def node_of(subject: str, cluster: str) -> str | None:
    """The node that a step's subject belongs to; None if that is no VM of the cluster.

    The name of a node's VM is the cluster's name and the node's: `demo-compute-01`.
    """
    prefix = f"{cluster}-"
    return subject.removeprefix(prefix) if subject.startswith(prefix) else None


def _listed(keys: frozenset[str]) -> str:
    return ", ".join(sorted(keys))


class KeyedStep(ABC):
    """A step whose key is `kind/subject` and whose stage is its kind."""

    __slots__ = ()

    kind: ClassVar[str]

    @property
    @abstractmethod
    def subject(self) -> str:
        """See `Step.subject`."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject}"

    @property
    def stage(self) -> str:
        return self.kind


class ForwardStep(KeyedStep):
    """A step that is never undone: an unfinished run of it is completed."""

    __slots__ = ()

    def revert(self, context: Any) -> None:  # noqa: ANN401
        """Does nothing: what was removed stays removed."""
