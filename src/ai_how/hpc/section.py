"""The section of a SLURM cluster in a cluster file."""

from ai_how.clusters.kind import ClusterSection
from ai_how.spec.models import HpcSpec


def hpc_of(section: ClusterSection) -> HpcSpec:
    """The section as an HpcSpec. Raises TypeError for that of another kind."""
    if not isinstance(section, HpcSpec):
        raise TypeError(f"{section.name} is no SLURM cluster")
    return section
