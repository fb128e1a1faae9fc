"""Base classes of steps by their subject: a VM, a network or a whole cluster.

The name of the subject is the first field of a step, also in the journal.
"""

from dataclasses import dataclass

from ai_how.plan.step import KeyedStep


@dataclass(frozen=True, slots=True)
class DomainStep(KeyedStep):
    """A step about one VM."""

    domain: str

    @property
    def subject(self) -> str:
        return self.domain


@dataclass(frozen=True, slots=True)
class NetworkStep(KeyedStep):
    """A step about one network."""

    name: str

    @property
    def subject(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ClusterStep(KeyedStep):
    """A step about all nodes of a cluster, or what they share."""

    cluster: str

    @property
    def subject(self) -> str:
        return self.cluster
