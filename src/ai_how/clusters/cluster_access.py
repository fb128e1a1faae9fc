"""The status of a cluster, and the access to its nodes; without its lock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ai_how.clusters.file_systems import asked_file_systems
from ai_how.clusters.known_cluster import KnownCluster
from ai_how.clusters.named_nodes import require_on
from ai_how.clusters.observation import Observed, existing_disks, observe, with_host_faults
from ai_how.clusters.status import ClusterStatus, find_disk_problems, find_version, status_of
from ai_how.errors import HostError
from ai_how.guest.agent import GuestAgent
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.console import Console
from ai_how.state.models import NodeState
from ai_how.state.paths import ImagePaths
from ai_how.vm_management.disks.manager import DiskManager


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess(KnownCluster):
    """A cluster, by its name, for those who do not change it. Each method raises AiHowError."""

    warn: Callable[[str], None] = lambda _line: None

    def status(self) -> ClusterStatus:
        """Ask libvirt and the cluster's software. Takes no lock, and changes nothing."""
        state, place = self.get_state(), self.place()
        self._refuse_moved(place)
        problems = find_disk_problems(state, DiskManager(place.storage))
        version = find_version(self.kind, state, ImagePaths(self.roots.images))
        if not place.is_up:
            down = Observed(disks=existing_disks(state), host_is_down=True)
            return status_of(self.kind, state, down, {}, problems, slurm_version=version)
        with client_of(place) as client:
            seen = observe(client, state, self.kind)
            with asked_file_systems(client, seen) as file_systems:
                seen = with_host_faults(seen, state, place, self.paths)
                stats = client.stats(seen.domains)
            return status_of(
                self.kind, state, seen, stats, problems, file_systems, slurm_version=version
            )

    @contextmanager
    def agent_of(self, node: NodeState) -> Iterator[GuestAgent]:
        """The guest agent of a node that is on."""
        with self._asking(node) as client:
            require_on(client, node, self.kind.name)
            yield GuestAgent(client, node.uuid, node.name)

    @contextmanager
    def console_of(self, node: NodeState) -> Iterator[Console]:
        """The serial console of a node."""
        with self._asking(node) as client:
            require_on(client, node, self.kind.name)
            with client.open_console(node.uuid) as line:
                yield line

    @contextmanager
    def _asking(self, node: NodeState) -> Iterator[LibvirtClient]:
        """A client without a lock, for reads."""
        place = self.place()
        if not place.is_up:
            raise HostError("the embedded host is down", hint=f"ai-how {self.kind.name} start")
        with client_of(place) as client:
            client.learn(node.uuid, node.domain_name)
            yield client


def client_of(place: HypervisorHost, *, patience_s: float | None = None) -> LibvirtClient:
    """A client as this host wants it.

    `patience_s` is how long it waits for a libvirt that does not answer, if not as long as usual.
    """
    uri, max_calls, is_kept = place.uri, place.max_calls, place.is_kept
    if patience_s is None:
        return LibvirtClient(uri, max_calls=max_calls, is_kept=is_kept)
    return LibvirtClient(uri, max_calls=max_calls, is_kept=is_kept, patience_s=patience_s)
