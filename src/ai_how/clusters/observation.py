"""What is there of a cluster: as libvirt, the disks and its nodes say, not as a file remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.workload import NodeReadiness, Workload
from ai_how.errors import AiHowError, OwnershipError
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo, NetworkInfo
from ai_how.libvirt_client.network_xml import find_taps, read_network_facts
from ai_how.state.models import ClusterState, NodeState
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.networks.links import Link, find_bridge_trouble, find_ports
from ai_how.vm_management.nodes.clocks import watched_clocks
from ai_how.vm_management.owners import describe_owner, owner_of


@dataclass(frozen=True, slots=True)
class Wiring:
    """What is wrong with the network of a cluster, and with the links of its VMs, on their host.

    Without arguments it says that nothing is.
    """

    unplugged: frozenset[str] = frozenset()
    """The nodes whose VM runs and is no port of the network's bridge."""
    dead_taps: Mapping[str, str] = field(default_factory=dict)
    """The host's end of the interface of a node that runs, where that was deleted."""
    down_taps: Mapping[str, str] = field(default_factory=dict)
    """The same where it is there, and down."""
    bridge_trouble: str | None = None
    """What is wrong with the bridge of a network that libvirt says is up."""
    dhcp_is_gone: bool = False
    """Whether the network is up, and its DHCP and DNS server is not."""
    uplink_trouble: str | None = None
    """Why guests reach nothing outside, where that is known."""
    uplink_is_ours: bool = False
    """Whether the settings of that host are ours to mend."""
    outside_trouble: str | None = None
    """Why the embedded host itself has no uplink."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at a cluster."""

    domains: Mapping[UUID, DomainInfo] = field(default_factory=dict)
    network: NetworkInfo | None = None
    disks: frozenset[str] = frozenset()
    has_disk_directory: bool = False
    readiness: Mapping[str, NodeReadiness] | None = None
    """What the cluster's software says of its nodes, by name; None where it was not asked."""
    workload_trouble: str | None = None
    """Why that software could not be asked, where it was to be."""
    skews_s: Mapping[UUID, float] = field(default_factory=dict)
    """By how much each guest's clock is at least ahead of ours, where it was said in time."""
    host_is_down: bool = False
    wiring: Wiring | None = None
    """What `observe_wiring` found; None where nobody looked, or could."""
    impostors: tuple[str, ...] = ()
    """VMs that carry this cluster's mark, as anybody can copy it, and are none of its nodes."""

    @property
    def known_faults(self) -> Wiring:
        """What is known to be wrong with the wiring: nothing, where nobody looked."""
        return self.wiring or Wiring()

    def find_domain(self, uuid: UUID) -> DomainInfo | None:
        return self.domains.get(uuid)

    def is_on(self, node: NodeState) -> bool:
        """Whether the node's VM is there and not off."""
        domain = self.find_domain(node.uuid)
        return domain is not None and domain.state.is_on

    def has_managed_save(self, node: NodeState) -> bool:
        """Whether the node's VM is off with its memory saved."""
        domain = self.find_domain(node.uuid)
        return domain is not None and domain.has_managed_save


def observe(
    client: LibvirtClient, state: ClusterState, kind: ClusterKind, *, asks_workload: bool = True
) -> Observed:
    """Look at everything that the cluster should have, and refuse what stands there instead.

    Raises OwnershipError where a VM or network has our name but not our UUID and mark.
    """
    learn_names(client, state)
    every = client.list_domains()
    by_name = {one.name: one for one in every}
    uuids = {node.uuid for node in state.nodes}
    for node in state.nodes:
        other = by_name.get(node.domain_name)
        if other is not None and other.uuid != node.uuid:
            raise OwnershipError(
                f"a VM named {node.domain_name} exists, but does not belong to this cluster",
                details=_tell(other),
                hint="give the cluster another name, or rename that VM",
            )
    domains = {one.uuid: one for one in every if one.uuid in uuids}
    for one in domains.values():
        if one.mark is None or one.mark.id != state.lineage:
            raise OwnershipError(
                f"the VM {one.name} has the UUID of a node, but not the mark of this cluster",
                hint=client.virsh("dumpxml", str(one.uuid)),
            )
    network = client.find_network(state.network.uuid)
    if network is None and (other_net := client.find_network_by_name(state.network.name)):
        raise OwnershipError(
            f"a network named {state.network.name} exists, but does not belong to this cluster",
            details=_tell(other_net),
            hint="give the cluster another name, or rename that network",
        )
    workload = Workload(None)
    skews_s: Mapping[UUID, float] = {}
    if asks_workload:
        with watched_clocks(client, domains.values()) as skews_s:
            workload = kind.observe_workload(client, state, domains)
    return Observed(
        domains=domains,
        network=network,
        disks=existing_disks(state),
        readiness=workload.nodes,
        workload_trouble=workload.trouble,
        skews_s=skews_s,
        impostors=tuple(
            one.name
            for one in every
            if one.mark and one.mark.id == state.lineage and one.uuid not in uuids
        ),
    )


def _tell(other: DomainInfo | NetworkInfo) -> str:
    """Which one it is, and whose where its mark says so."""
    which, owner = f"its UUID is {other.uuid}", owner_of(other)
    return f"{which}\nit belongs to {describe_owner(owner)}" if owner else which


def learn_names(client: LibvirtClient, state: ClusterState) -> None:
    """Have errors name what is the cluster's, though it be not seen."""
    client.learn(state.network.uuid, state.network.name)
    for node in state.nodes:
        client.learn(node.uuid, node.domain_name)


def observe_wiring(seen: Observed, state: ClusterState, place: HypervisorHost) -> Wiring | None:
    """Look, from where the VMs run, whether they are on the network, and it is served.

    None where the network is down or only simulated, and where not all of this can be asked.
    """
    network = seen.network
    if network is None or not network.is_active or not place.has_network:
        return None
    networks = HostNetworks(tuple(place.enter([])))
    bridge = network.bridge or ""
    try:
        links = networks.links()
        trouble_of_bridge = find_bridge_trouble(
            links, bridge, read_network_facts(network.xml).address
        )
        is_served = networks.is_dns_served(state.network.gateway)
        wants_uplink = state.network.uplink
        trouble = networks.find_uplink_trouble(state.network.subnet) if wants_uplink else None
    except AiHowError:
        return None
    taps = _taps_of_nodes(seen, state, network)
    ports = find_ports(links, bridge)
    return Wiring(
        unplugged=frozenset(name for name, tap in taps if tap not in ports),
        dead_taps={name: tap for name, tap in taps if tap not in links},
        down_taps={name: tap for name, tap in taps if _is_down(links.get(tap))},
        bridge_trouble=trouble_of_bridge,
        dhcp_is_gone=not is_served,
        uplink_trouble=trouble,
        uplink_is_ours=networks.is_private,
        outside_trouble=place.uplink_trouble if wants_uplink else None,
    )


def _taps_of_nodes(
    seen: Observed, state: ClusterState, network: NetworkInfo
) -> tuple[tuple[str, str], ...]:
    """Of each node that runs, its name and the host's end of its interface."""
    return tuple(
        (node.name, tap)
        for node in state.nodes
        if (domain := seen.find_domain(node.uuid)) and domain.state.is_on
        for tap in find_taps(domain.xml, network)
    )


def _is_down(link: Link | None) -> bool:
    return link is not None and not link.is_up


def existing_disks(state: ClusterState) -> frozenset[str]:
    """The names of the nodes whose disk is there."""
    return frozenset(node.name for node in state.nodes if node.disk.exists())
