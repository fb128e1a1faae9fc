"""Measures how long each stage of each node takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied, Step
from ai_how.plan.time_left import TimeLeft
from ai_how.state.models import ClusterState

# What a node waits for: the image, the network and its turn (the boot limit), before its VM is
# begun; and, when it is done, the other nodes, before SLURM is asked for all.
QUEUE, OTHERS = "queue", "others"

# Kinds of steps, in the order of a node's life, and between them what it waits for. It boots, is
# restored or is resumed. Together they are the time of the plan.
STAGES = (
    *("disk", "domain", QUEUE, "boot", "restore", "resume"),
    *("agent", "clock", "services", OTHERS, "ready"),
)
_WAIT_BEFORE = {"boot": QUEUE, "restore": QUEUE, "resume": QUEUE, "ready": OTHERS}
_COMES_UP = frozenset({"agent", "clock", "services"})


@dataclass(frozen=True, slots=True)
class _Span:
    """When a stage began and ended, on the monotonic clock."""

    begun_at: float
    ended_at: float

    def __or__(self, other: "_Span") -> "_Span":
        return _Span(min(self.begun_at, other.begun_at), max(self.ended_at, other.ended_at))


class StageTimes(Observer):
    """Forwards all events to another observer, and records when steps were done, and stages."""

    def __init__(self, inner: Observer, now: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._now = now
        self._begun_at = now()
        self._spans: dict[str, dict[str, _Span]] = {}
        self._done_s: list[float] = []

    @property
    def done_s(self) -> Sequence[float]:
        """When the steps were done, in seconds from the beginning, in ascending order."""
        return self._done_s

    def expected(self, time_left: TimeLeft) -> None:
        self._inner.expected(time_left)

    def begun(self, step: Step) -> None:
        self._inner.begun(step)

    def done(self, step: Step, applied: Applied, elapsed_s: float) -> None:
        ended_at = self._now()
        self._done_s.append(ended_at - self._begun_at)
        if step.kind in STAGES:
            span = _Span(ended_at - elapsed_s, ended_at)
            spans = self._spans.setdefault(step.subject, {})
            # Several steps about the whole cluster count as one, from the first to the last.
            spans[step.kind] = spans.get(step.kind, span) | span
        self._inner.done(step, applied, elapsed_s)

    def failed(self, step: Step, error: BaseException) -> None:
        self._inner.failed(step, error)

    def undoing(self, step: Step) -> None:
        self._inner.undoing(step)

    def undone(self, step: Step) -> None:
        self._inner.undone(step)

    def undo_failed(self, step: Step, error: BaseException) -> None:
        self._inner.undo_failed(step, error)

    def interrupted(self) -> None:
        self._inner.interrupted()

    def remembered(self, state: ClusterState) -> ClusterState:
        """The state with the stages of this run. A node without steps keeps its previous ones."""
        whole = self._spans.get(state.name, {})
        nodes = (
            node.model_copy(update={"stages_s": self._stages_s(own, whole)})
            if (own := self._spans.get(node.domain_name))
            else node
            for node in state.nodes
        )
        return state.model_copy(update={"nodes": tuple(nodes)})

    def _stages_s(self, own: Mapping[str, _Span], whole: Mapping[str, _Span]) -> dict[str, float]:
        """One node's stages; what the whole cluster passes is none of a node that stays off."""
        spans = {**own, **whole} if _COMES_UP & own.keys() else own
        stages_s, at, waited_s = dict[str, float](), self._begun_at, 0.0
        for kind in STAGES:
            if (span := spans.get(kind)) is None:
                continue
            waited_s += max(span.begun_at - at, 0.0)
            if wait := _WAIT_BEFORE.get(kind):
                stages_s[wait], waited_s = round(waited_s, 3), 0.0
            stages_s[kind] = round(span.ended_at - span.begun_at, 3)
            at = span.ended_at
        return stages_s
