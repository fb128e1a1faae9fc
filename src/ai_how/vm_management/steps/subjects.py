"""What steps are about: a VM, a network or a whole cluster, by its name.

It is the first of a step's fields, in the journal too.
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
    """A step about what all nodes of a cluster share."""

    cluster: str

    @property
    def subject(self) -> str:
        return self.cluster
