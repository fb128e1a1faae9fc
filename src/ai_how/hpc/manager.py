"""The manager of SLURM clusters."""

from dataclasses import dataclass

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.manager import ClusterManager
from ai_how.hpc.kind import SLURM


@dataclass(frozen=True, slots=True, kw_only=True)
class HpcManager(ClusterManager):
    """One SLURM cluster by its name."""

    kind: ClusterKind = SLURM
