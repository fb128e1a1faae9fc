"""What runs on a cluster's nodes, as every kind of cluster tells it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeReadiness:
    """What the cluster's own software says of one of its nodes."""

    name: str
    state: str
    """In that software's words."""
    reason: str | None
    is_working: bool
    """Whether it takes or runs jobs."""
    is_closed_by_us: bool = False
    """Whether a stop of ours keeps jobs from it, and did not come to its end."""
    is_drained: bool = False
    """Whether its user keeps jobs from it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the software of a cluster says of its nodes."""

    nodes: Mapping[str, NodeReadiness] | None
    """By name; None where it could not be asked."""
    trouble: str | None = None
    """Why it could not be asked."""


def describe_drained(node: NodeReadiness) -> str:
    """What is said of a node that is up, and that its user keeps jobs from."""
    return f"{node.name} is {node.state} and takes no jobs: {node.reason or 'no reason is given'}"
