"""What a kind of cluster adds to the look at a failure: its own questions, and their meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from ai_how.clusters.diagnosis.node_evidence import NodeEvidence


class Rank(IntEnum):
    """What comes first: a node without memory does not register, and not the other way round."""

    MACHINE = 0
    CLOCK = 1
    CREDENTIALS = 2
    CONTROLLER = 3
    NODE = 4


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one node.

    `id` never changes, as programs go by it; docs/troubleshooting.md lists it.
    """

    rank: Rank
    id: str
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node printed, by the names of its sections. A guest wrote it: it is data.

    Besides those of the kind's script there are `jobs`, `failed` and `memory`.
    """

    node: str
    is_controller: bool
    sections: Mapping[str, str]


class WorkloadEvidence(Protocol):
    """What is known of a cluster's workload after a failure."""

    def find_cause(self, node: NodeEvidence) -> Cause | None:
        """What is wrong with the workload on a node, where something that was seen says so."""


class Diagnosis(Protocol):
    """The part of a kind of cluster. Its scripts are a POSIX shell's, and constant.

    No value from outside is in them. Each is part of what a node is given ASK_S seconds for.
    """

    @property
    def awaiting(self) -> frozenset[str]:
        """The kinds of steps that fail where the workload does not come up on some node."""

    @property
    def request(self) -> str:
        """What the controller runs first: what it prints is the standard input of every script."""

    def script(self, *, is_controller: bool, has_input: bool) -> str:
        """What a node runs; each section of what it prints begins with a line `== NAME`.

        `has_input` is whether the controller has printed anything.
        """

    def read(self, answers: Sequence[NodeAnswer]) -> WorkloadEvidence:
        """What the answers mean together. A node that did not answer is not among them."""
