"""The section of a Kubernetes cluster in a cluster file."""

from ai_how.clusters.kind import ClusterSection
from ai_how.spec.models import CloudSpec


def cloud_of(section: ClusterSection) -> CloudSpec:
    """The section as a CloudSpec. Raises TypeError for that of another kind."""
    if not isinstance(section, CloudSpec):
        raise TypeError(f"{section.name} is no Kubernetes cluster")
    return section
