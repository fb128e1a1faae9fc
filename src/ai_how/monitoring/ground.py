"""The cluster that is watched, as far as it is remembered, and its libvirt while that is up."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_how.errors import HostError
from ai_how.monitoring.watched import Watched
from ai_how.state.models import ClusterState

if TYPE_CHECKING:  # the client loads libvirt
    from collections.abc import Callable

    from ai_how.libvirt_client.client import LibvirtClient

PATIENCE_S = 8.0
"""How long libvirt may take for anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the state directory and the host tell of a cluster."""

    state: ClusterState
    uri: str | None
    """Of its libvirt; None while its host is down."""
    max_calls: int = 4
    has_kvm: bool | None = None


class GroundSource:
    """Reads the state of a cluster anew when its file has changed."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._stamp: tuple[int, int, int] | None = None
        self._state: ClusterState | None = None

    def look(self) -> Ground | None:
        """None if the cluster does not exist. Raises StateError if its state is damaged."""
        state = self._read()
        if state is None:
            return None
        place = self._watched.place(state)
        if place.embedded is None:
            return Ground(state=state, uri=place.uri, max_calls=place.max_calls)
        supervisor = place.embedded.find_supervisor()
        return Ground(
            state=state,
            uri=supervisor.uri if supervisor else None,
            max_calls=place.max_calls,
            has_kvm=supervisor.has_kvm if supervisor else None,
        )

    def _read(self) -> ClusterState | None:
        path = self._watched.roots.cluster(self._watched.name).state
        try:
            seen = path.stat()
        except FileNotFoundError:
            self._stamp = self._state = None
            return None
        stamp = seen.st_ino, seen.st_mtime_ns, seen.st_size
        if stamp != self._stamp:
            self._state = self._watched.find_state()
            self._stamp = stamp
        return self._state


class Line:
    """The client of the libvirt where the cluster is now; a new one if its host was begun anew.

    One thread at a time may call `reach`; the others use what is reached.
    """

    def __init__(self, open_client: "Callable[[Ground], LibvirtClient] | None" = None) -> None:
        self._open = open_client or open_line
        self._uri: str | None = None
        self._client: LibvirtClient | None = None

    @property
    def client(self) -> "LibvirtClient | None":
        return self._client

    def reach(self, ground: Ground) -> "LibvirtClient":
        """The client. Raises HostError if the host is down."""
        if ground.uri is None:
            self.close()
            raise HostError("the embedded host is down")
        if self._client is None or ground.uri != self._uri:
            self.close()
            self._client, self._uri = self._open(ground), ground.uri
        return self._client

    def close(self) -> None:
        """Safe to repeat."""
        client, self._client, self._uri = self._client, None, None
        if client is not None:
            client.close()


def open_line(ground: Ground) -> "LibvirtClient":
    """A client that leaves no more than one thread behind, however long libvirt hangs."""
    from ai_how.libvirt_client.client import LibvirtClient  # noqa: PLC0415  slow to load
    from ai_how.libvirt_client.guarded_opening import GuardedOpening  # noqa: PLC0415  as above

    client = LibvirtClient(
        ground.uri or "",
        patience_s=PATIENCE_S,
        max_calls=ground.max_calls,
        opener=GuardedOpening(),
    )
    for node in ground.state.nodes:
        client.learn(node.uuid, node.domain_name)
    return client
