"""What a cluster's software reports of its nodes, for every kind."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuUse:
    """The GPUs of one type on one node, whole cards or slices."""

    type: str
    count: int
    allotted: int | None
    """How many jobs have now; None if it is not known."""


@dataclass(frozen=True, slots=True)
class NodeReadiness:
    """What the cluster's software reports of one node."""

    name: str
    state: str
    """In that software's words."""
    reason: str | None
    is_working: bool
    """Whether it accepts or runs jobs."""
    is_closed_by_us: bool = False
    """Whether it is to be undrained: a stop of ours drained it and did not finish, or the software
    did so for a reason that is over.
    """
    is_drained: bool = False
    """Whether a user drained it."""
    gpus: tuple[GpuUse, ...] = ()
    """Empty if it has none, or if they were not asked for."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the cluster's software reports of its nodes."""

    nodes: Mapping[str, NodeReadiness] | None
    """By name; None if it could not be asked."""
    trouble: str | None = None
    """Why it could not be asked."""


def describe_drained(node: NodeReadiness) -> str:
    """The warning for a node that is up and that a user drained."""
    return f"{node.name} is {node.state} and takes no jobs: {node.reason or 'no reason is given'}"
