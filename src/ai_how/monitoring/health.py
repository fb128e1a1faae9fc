"""The health of a cluster: all rules of every kind of cluster, and those that its kind adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ai_how.clusters.diagnosis.catalogue import CATALOGUE, Entry
from ai_how.monitoring import guest_rules, host_rules, machine_rules
from ai_how.monitoring.judging import Judge, Rule

if TYPE_CHECKING:
    from ai_how.monitoring.healing import Mend

RULES: tuple[Rule, ...] = (*host_rules.RULES, *machine_rules.RULES, *guest_rules.RULES)
"""Those of every kind. Where two see the same thing, the later one counts."""


@dataclass(frozen=True, slots=True)
class KindHealth:
    """What a kind of cluster adds: its rules, the catalogue with all their ids, what it mends."""

    rules: Sequence[Rule] = ()
    catalogue: Mapping[str, Entry] = field(default_factory=lambda: CATALOGUE)
    mends: Mapping[str, "Mend"] = field(default_factory=dict)


@runtime_checkable
class Judged(Protocol):
    """A kind of cluster (`ClusterKind`) with rules of its own."""

    def health(self, *, heals: bool = False) -> KindHealth:
        """With what it mends only if it `heals`: a collector does not load that."""


def mends_of(kind: object) -> Mapping[str, "Mend"]:
    """What can be mended of a cluster of this kind, by the id of the finding."""
    from ai_how.monitoring.healing import MENDS  # noqa: PLC0415  only healing needs it

    own = kind.health(heals=True) if isinstance(kind, Judged) else KindHealth()
    return {**MENDS, **own.mends}


def judge_of(kind: object, *, is_single: bool = False) -> Judge:
    """The judge of a cluster of this kind. `is_single` is for one look without a past."""
    own = kind.health() if isinstance(kind, Judged) else KindHealth()
    return Judge((*RULES, *own.rules), own.catalogue, is_single=is_single)
