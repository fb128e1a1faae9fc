"""Measures how long each stage of each node takes."""

from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied, Step
from ai_how.state.models import ClusterState

# Kinds of steps, in the order of a node's life. It boots, is restored or is resumed.
STAGES = (
    *("disk", "domain", "boot", "restore", "resume"),
    *("agent", "clock", "services", "ready"),
)


class StageTimes(Observer):
    """Forwards all events to another observer, and records the seconds of each stage."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner
        self._stages: dict[str, dict[str, float]] = {}

    def begun(self, step: Step) -> None:
        self._inner.begun(step)

    def done(self, step: Step, applied: Applied, elapsed_s: float) -> None:
        if step.kind in STAGES:
            stages = self._stages.setdefault(step.subject, {})
            # If several steps are about the whole cluster, the longest counts.
            stages[step.kind] = max(stages.get(step.kind, 0.0), round(elapsed_s, 3))
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
        whole = self._stages.get(state.name, {})
        nodes = (
            node.model_copy(update={"stages_s": {**own, **whole}})
            if (own := self._stages.get(node.domain_name))
            else node
            for node in state.nodes
        )
        return state.model_copy(update={"nodes": tuple(nodes)})
