"""The manager of Kubernetes clusters."""

from dataclasses import dataclass

from ai_how.cloud.kind import KUBERNETES
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.manager import ClusterManager


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudManager(ClusterManager):
    """One Kubernetes cluster by its name."""

    kind: ClusterKind = KUBERNETES
