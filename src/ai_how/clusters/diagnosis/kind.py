"""The protocol of a kind's diagnosis: the questions to its nodes, and their meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from ai_how.clusters.diagnosis.node_evidence import NodeEvidence


class Rank(IntEnum):
    """The order of causes. A lower one may be the reason of a higher one, never the reverse."""

    MACHINE = 0
    CLOCK = 1
    CREDENTIALS = 2
    CONTROLLER = 3
    NODE = 4


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one node.

    Programs rely on `id`, so it never changes. docs/troubleshooting.md lists the ids.
    """

    rank: Rank
    id: str
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The output of a node, by section. A guest wrote it, so it is untrusted.

    Besides the sections of the kind's script there are `jobs`, `failed` and `memory`.
    """

    node: str
    is_controller: bool
    sections: Mapping[str, str]


class WorkloadEvidence(Protocol):
    """The evidence of a cluster's workload after a failure."""

    def find_cause(self, node: NodeEvidence) -> Cause | None:
        """What is wrong with the workload on a node, or None if no evidence shows it."""


class Diagnosis(Protocol):
    """The diagnosis of one kind of cluster.

    Its scripts are constant POSIX shell, without values from outside. A node has ASK_S seconds for
    its script.
    """

    @property
    def awaiting(self) -> frozenset[str]:
        """The kinds of steps that fail if the workload does not come up on some node."""

    @property
    def request(self) -> str:
        """The first script, for the controller.

        Its output is the standard input of all other scripts.
        """

    def script(self, *, is_controller: bool, has_input: bool) -> str:
        """The script for a node. Each section of its output begins with a line `== NAME`.

        `has_input` is whether the controller printed anything.
        """

    def read(self, answers: Sequence[NodeAnswer]) -> WorkloadEvidence:
        """Interpret all answers together. A node that did not answer is not among them."""
