"""The part of a cluster file that a SLURM cluster is made from."""

from ai_how.clusters.kind import ClusterSection
from ai_how.spec.models import HpcSpec


def hpc_of(section: ClusterSection) -> HpcSpec:
    """The section as that of a SLURM cluster, which it is: TypeError for another."""
    if not isinstance(section, HpcSpec):
        raise TypeError(f"{section.name} is no SLURM cluster")
    return section
