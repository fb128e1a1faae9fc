"""The manager of Kubernetes clusters."""

from dataclasses import dataclass

from ai_how.cloud.kind import KUBERNETES
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.manager import ClusterManager
from ai_how.state.cluster_state import write_state
from ai_how.state.lock import held_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudManager(ClusterManager):
    """One Kubernetes cluster by its name."""

    kind: ClusterKind = KUBERNETES

    def find_ending_certificate(self) -> str | None:
        """What ends within a month, of what `rotate_certificates` replaces; None if nothing."""
        from ai_how.cloud.identities import pki_of  # noqa: PLC0415  few verbs need it
        from ai_how.cloud.pki import find_ending  # noqa: PLC0415  as above

        return find_ending(pki_of(self.paths))

    def rotate_certificates(self) -> None:
        """Remove the certificates of all nodes and of the administrator; the CAs are kept.

        The next start makes new ones, and gives all nodes theirs. Does nothing before the first.
        """
        from ai_how.cloud.identities import pki_of  # noqa: PLC0415  few verbs need it
        from ai_how.cloud.pki import rotate  # noqa: PLC0415  as above

        with held_lock(self.paths.lock, doing=f"{self.kind.name} start"):
            if state := self.find_state():
                # What nodes were told is then not known: the next start tells all.
                write_state(self.paths, state.model_copy(update={"config_digest": ""}))
                rotate(pki_of(self.paths))
