"""The kinds of clusters on the command line; each is a group of verbs: `hpc`, `cloud`.

A kind itself is loaded by the verbs that need it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_how.clusters.kind import ClusterKind
    from ai_how.clusters.manager import ClusterManager
    from ai_how.spec.models import ClusterFile

_WORD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of cluster: its name is the group of its verbs, and in states and hints."""

    name: str
    _kind: str
    _manager: str
    words: Mapping[str, str]
    """What its software and its nodes are called in the help of verbs that both kinds have."""

    @property
    def login(self) -> str:
        """The node to which a login without a node goes."""
        return self.words["login"]

    def fill(self, text: str | None) -> str | None:
        """The text with the words of this kind in place of `{word}`; other braces stay."""
        known = {"kind": self.name, **self.words}
        return text and _WORD.sub(lambda found: known.get(found[1], found[0]), text)

    def load(self) -> "ClusterKind":
        """What makes a cluster one of this kind."""
        return cast("ClusterKind", resolve_name(self._kind))

    def load_manager(self) -> "Callable[..., ClusterManager]":
        """The manager of such clusters."""
        return cast("Callable[..., ClusterManager]", resolve_name(self._manager))


HPC = Kind(
    "hpc",
    "ai_how.hpc.kind:SLURM",
    "ai_how.hpc.manager:HpcManager",
    {
        "software": "SLURM",
        "until": "SLURM has run a job on every node",
        "until_whole": "SLURM has run a job on every compute node",
        "first": "controller",
        "login": "controller",
        "command": "squeue --me",
        "unit": "slurmd",
        "jobs": "jobs",
        "jobs_of_stop": "jobs are requeued if possible",
    },
)
CLOUD = Kind(
    "cloud",
    "ai_how.cloud.kind:KUBERNETES",
    "ai_how.cloud.manager:CloudManager",
    {
        "software": "Kubernetes",
        "until": "a Pod has run on every node",
        "until_whole": "a Pod has run on every node, and reached a Service of another one",
        "first": "first node of the control plane",
        "login": "control-plane-01",
        "use": "kubectl -- get nodes",
        "command": "uptime",
        "unit": "kubelet",
        "jobs": "Pods",
        "jobs_of_stop": "Pods run again at the next start",
    },
)
KINDS = {one.name: one for one in (HPC, CLOUD)}


def kinds_in(spec: "ClusterFile") -> tuple[Kind, ...]:
    """The kinds of the clusters that a file has, at least one."""
    return tuple(one for one in KINDS.values() if getattr(spec.clusters, one.name) is not None)
