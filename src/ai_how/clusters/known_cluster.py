"""A cluster by its name: its state and its host, as far as they are remembered."""

from dataclasses import dataclass

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.named_nodes import no_such_cluster
from ai_how.clusters.preflight.existing_cluster import refuse_moved
from ai_how.errors import HostError, StateError
from ai_how.host.place import HypervisorHost, resolve_host, storage_of
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.journal import Journal, JournalContents
from ai_how.state.cluster_state import read_state
from ai_how.state.every_cluster import read_every_state
from ai_how.state.lock import held_lock
from ai_how.state.models import HPC, ClusterState
from ai_how.state.paths import ClusterPaths, Roots, StoragePaths


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCluster:
    """A cluster, by its name. Only what is remembered of it is read, unless that is lost."""

    kind: ClusterKind
    roots: Roots
    name: str
    connect: str | None = None
    is_named: bool = False
    """Whether the user gave the name, and no file that has it."""

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.name)

    def find_state(self) -> ClusterState | None:
        """The state, or None. Raises StateError if the cluster is of another kind."""
        state = read_state(self.paths)
        if state is not None:
            self._require_kind(state.kind)
        return state

    def get_state(self) -> ClusterState:
        """The state. Raises StateError, listing the existing clusters, if there is none.

        Raises LockedError during the first start.
        """
        if state := self.find_state():
            return state
        if self._is_half_made():
            with held_lock(self.paths.lock, doing=f"a look at {self.name}"):
                pass
            raise StateError(
                f"the first start of {self.name} was cut short",
                details="What it created still exists.",
                hint=f"ai-how {self.kind.name} destroy --cluster {self.name}  # or start it again",
            )
        self._refuse_lost()
        there = {
            name: self.kind.name if isinstance(state, StateError) else state.kind
            for name, state in read_every_state(self.roots).items()
        }
        raise no_such_cluster(self.kind.name, self.name, there, is_named=self.is_named)

    def place(self, asked: str | None = None) -> HypervisorHost:
        """The host of the cluster; before its first start, the host where it will be created.

        Raises HostError if `connect` names a host other than the cluster's.
        """
        there, kept = self._remembered_host(), self._remembered_storage()
        if there and self.connect not in (None, "auto", there):
            raise HostError(
                f"the cluster {self.name} is on {there}, not on {self.connect}",
                hint=f"ai-how --connect {there} …  # or without --connect and AI_HOW_CONNECT",
            )
        return resolve_host(there or self.connect or asked or "auto", self.roots, kept=kept)

    def _require_kind(self, kind: str) -> None:
        if kind != self.kind.name:
            raise StateError(
                f"{self.name} is a cluster of the kind {kind}, not {self.kind.name}",
                details="Each kind has commands of its own; a new cluster needs another name.",
                hint=f"ai-how {kind} status --cluster {self.name}",
            )

    def _read_journal(self) -> JournalContents | None:
        """The journal of a killed run, or None. Raises StateError if it is of another kind."""
        if note := Journal.read_note(self.paths.journal):
            self._require_kind(note.get("kind", HPC))
        return Journal.read(self.paths.journal, self.kind.step_types)

    def _is_half_made(self) -> bool:
        """Whether the journal of its first start is all there is of the cluster."""
        return self.find_state() is None and self.paths.journal.exists()

    def _refuse_moved(self, place: HypervisorHost) -> None:
        if place.moves_with_state and (state := self.find_state()):
            refuse_moved(state, place.storage)

    def _refuse_lost(self) -> None:
        from ai_how.clusters.recovery import refuse_lost  # noqa: PLC0415  seldom needed

        place = resolve_host(self.connect or "auto", self.roots)
        if place.is_up:
            with LibvirtClient(place.uri) as client:
                refuse_lost(client.list_domains(), self.paths, place, kind=self.kind.name)

    def _remembered_host(self) -> str | None:
        """The URI of the cluster's host; during a first start, from its journal."""
        if state := self.find_state():
            return state.host_uri
        left = self._read_journal()
        return str(left.note["host"]) if left else None

    def _remembered_storage(self) -> StoragePaths | None:
        """The storage of the disks; during a first start, from its journal."""
        if state := self.find_state():
            return storage_of(state.nodes[0].disk) if state.nodes else None
        left = self._read_journal()
        planned = left.note.get("state") if left else None
        return storage_of(ClusterState.model_validate(planned).nodes[0].disk) if planned else None
