"""The manager of Kubernetes clusters."""

from dataclasses import dataclass
from pathlib import Path

from ai_how.cloud.kind import KUBERNETES
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.manager import ClusterManager
from ai_how.plan.step import Plan
from ai_how.state.cluster_state import write_state
from ai_how.state.lock import held_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudManager(ClusterManager):
    """One Kubernetes cluster by its name."""

    kind: ClusterKind = KUBERNETES

    def destroy(self, *, backups: Path | None = None, snapshots_too: bool = False) -> Plan:
        """As of any cluster; then its entry goes from the kubeconfigs that it was merged into."""
        from ai_how.cloud.merged import read_merged, unmerge_all  # noqa: PLC0415  as below

        merged = read_merged(self.paths)
        # A class with slots has no super() without words.
        plan = super(CloudManager, self).destroy(backups=backups, snapshots_too=snapshots_too)
        if merged:
            unmerge_all(self.name, merged, self.warn)
        return plan

    def find_ending_certificate(self) -> str | None:
        """What ends within a month, of what `rotate_certificates` replaces; None if nothing."""
        from ai_how.cloud.identities import pki_of  # noqa: PLC0415  few verbs need it
        from ai_how.cloud.pki import find_ending  # noqa: PLC0415  as above

        return find_ending(pki_of(self.paths))

    def rotate_certificates(self) -> None:
        """Remove the certificates of all nodes and of the administrator; the CAs are kept.

        The next start makes new ones, and gives all nodes theirs. Does nothing before the first.
        """
        doing = f"{self.kind.name} start"
        with held_lock(self.paths.lock, doing=doing):
            if not self.paths.journal.exists():
                self._rotate()
                return
        # A start that was killed is undone first: the state that is written here would pass for the
        # one that it left.
        with self._locked("start", self.place()):
            self._rotate()

    def _rotate(self) -> None:
        from ai_how.cloud.identities import pki_of  # noqa: PLC0415  few verbs need it
        from ai_how.cloud.pki import rotate  # noqa: PLC0415  as above

        if state := self.find_state():
            # What nodes were told is then not known: the next start tells all.
            write_state(self.paths, state.model_copy(update={"config_digest": ""}))
            rotate(pki_of(self.paths))
