"""Chooses a subnet that neither the host nor another cluster uses."""

from collections.abc import Iterator
from ipaddress import IPv4Network
from uuid import UUID

from ai_how.clusters.kind import ClusterSection
from ai_how.clusters.other_clusters import read_notes
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.state.every_cluster import read_every_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots
from ai_how.vm_management.networks.host_networks import HostNetworks, NetworksInUse
from ai_how.vm_management.networks.subnets import TakenSubnet, check_bridge, choose_subnet


def choose_cluster_subnet(
    section: ClusterSection,
    node_count: int,
    cluster_id: UUID,
    roots: Roots,
    place: HypervisorHost,
    client: LibvirtClient,
) -> IPv4Network:
    """The subnet that is asked for, or a free one. Raises HostError if it is in use."""
    seen = _observe(place, client)
    if section.network.bridge:
        check_bridge(section.network.bridge, seen.links)
    taken = (*seen.subnets, *_promised_subnets(roots, besides=section.name))
    return choose_subnet(section.network.subnet, taken, cluster_id, node_count=node_count)


def choose_free_subnet(
    for_id: UUID, roots: Roots, place: HypervisorHost, client: LibvirtClient
) -> IPv4Network:
    """A subnet that nobody uses, for a network that no cluster has."""
    taken = (*_observe(place, client).subnets, *_promised_subnets(roots))
    return choose_subnet(None, taken, for_id, node_count=1)


def _observe(place: HypervisorHost, client: LibvirtClient) -> NetworksInUse:
    xmls = [one.xml for one in client.list_networks()]
    return HostNetworks(tuple(place.enter([]))).observe(xmls)


def _promised_subnets(roots: Roots, *, besides: str | None = None) -> Iterator[TakenSubnet]:
    """The subnets of clusters that are off or being created.

    A state that cannot be read is left out: libvirt still lists what is defined.
    """
    for name, state in read_every_state(roots).items():
        if name != besides and isinstance(state, ClusterState):
            yield TakenSubnet(state.network.subnet, f"cluster {name}")
    for name, note in read_notes(roots, besides=besides):
        yield TakenSubnet(IPv4Network(note["subnet"]), f"cluster {name}")
