"""The protocol of a kind's diagnosis: the questions to its nodes, and their meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from ai_how.clusters.diagnosis.catalogue import Entry, Severity, fill
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence


class Rank(IntEnum):
    """The order of causes. A lower one may be the reason of a higher one, never the reverse."""

    HOST = 0
    MACHINE = 1
    NETWORK = 2
    CLOCK = 3
    CREDENTIALS = 4
    CONTROLLER = 5
    HOME = 6
    NODE = 7
    JOB = 8


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one node, or with `host`, `network` or a job.

    Programs rely on `id`, so it never changes. docs/troubleshooting.md lists the ids.
    """

    rank: Rank
    id: str
    node: str
    text: str
    severity: Severity = field(default=Severity.CRITICAL, compare=False)
    evidence: tuple[str, ...] = field(default=(), compare=False)
    """What was seen, a line each."""
    remedy: str = field(default="", compare=False)
    """A command to paste, or one line of advice. `{kind}` in it is the kind of the cluster."""

    def remedy_of(self, kind: str) -> str:
        """The remedy for a cluster of that kind."""
        return self.remedy.replace("{kind}", kind)


def cause_of(
    entries: Mapping[str, Entry],
    rank: Rank,
    cause_id: str,
    node: str,
    text: str,
    evidence: Sequence[str] = (),
    **words: str,
) -> Cause:
    """A cause with the severity and the remedy of its id in `entries`."""
    entry = entries[cause_id]
    remedy = fill(entry.remedy, **{"node": node, **words})
    return Cause(rank, cause_id, node, text, entry.severity, tuple(evidence), remedy)


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The output of a node, by section. A guest wrote it, so it is untrusted.

    Besides the sections of the kind's script there are those of look.py: `SERVICES`.
    """

    node: str
    is_controller: bool
    sections: Mapping[str, str]


class WorkloadEvidence(Protocol):
    """The evidence of a cluster's workload."""

    def find_causes(self, node: NodeEvidence) -> tuple[Cause, ...]:
        """What is wrong with the workload on a node, the first cause first."""

    def is_working(self, node: str) -> bool | None:
        """Whether a node does its work; None if that is not known."""


class Diagnosis(Protocol):
    """The diagnosis of one kind of cluster.

    Its scripts are constant POSIX shell, without values from outside. A node has `Limits.ask_s` for
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
