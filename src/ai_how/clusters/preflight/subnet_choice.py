"""The subnet of a cluster, apart from those of the host and of other clusters."""

from collections.abc import Iterator
from ipaddress import IPv4Network
from uuid import UUID

from ai_how.errors import (
    AiHowError,
)
from ai_how.host.place import HypervisorHost
from ai_how.hpc.plan import STEP_TYPES
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.journal import Journal
from ai_how.spec.models import HpcSpec
from ai_how.spec.nodes import nodes_of
from ai_how.state.cluster_state import read_state
from ai_how.state.paths import Roots
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.networks.subnets import TakenSubnet, check_bridge, choose_subnet


def choose_cluster_subnet(
    hpc: HpcSpec, cluster_id: UUID, roots: Roots, place: HypervisorHost, client: LibvirtClient
) -> IPv4Network:
    xmls = [one.xml for one in client.list_networks()]
    seen = HostNetworks(tuple(place.enter([]))).observe(xmls)
    if hpc.network.bridge:
        check_bridge(hpc.network.bridge, seen.links)
    taken = (*seen.subnets, *_promised_subnets(roots, besides=hpc.name))
    count = len(nodes_of(hpc))
    return choose_subnet(hpc.network.subnet, taken, cluster_id, node_count=count)


def _promised_subnets(roots: Roots, *, besides: str) -> Iterator[TakenSubnet]:
    """Subnets of clusters that are off, or are just being made."""
    for name in roots.cluster_names():
        if name == besides:
            continue
        paths = roots.cluster(name)
        try:
            if state := read_state(paths):
                yield TakenSubnet(state.network.subnet, f"cluster {name}")
            if left := Journal.read(paths.journal, STEP_TYPES):
                yield TakenSubnet(IPv4Network(left.note["subnet"]), f"cluster {name}")
        except AiHowError:
            continue  # libvirt's own list still shows what is defined
