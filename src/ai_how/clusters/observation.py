"""The cluster as libvirt, the disks and its nodes show it now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.workload import NodeReadiness
from ai_how.errors import AiHowError, OwnershipError
from ai_how.host.place import HypervisorHost
from ai_how.host.ports import ServedPorts
from ai_how.host.ports import find_ports as find_open_ports
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo, NetworkInfo
from ai_how.libvirt_client.host_devices import devices_in
from ai_how.libvirt_client.network_xml import find_taps, read_network_facts
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.networks.links import Link, find_bridge_problem, find_ports
from ai_how.vm_management.nodes.clocks import polled_clocks
from ai_how.vm_management.nodes.share_faults import ShareFault, find_share_faults
from ai_how.vm_management.owners import describe_owner, owner_of


@dataclass(frozen=True, slots=True)
class Wiring:
    """Faults in the cluster's network and in its VMs' interfaces, on the host.

    The default has none.
    """

    unplugged: frozenset[str] = frozenset()
    """Nodes whose VM is running but is not a port of the network's bridge."""
    dead_taps: Mapping[str, str] = field(default_factory=dict)
    """By node: the tap of a running VM, if it was deleted."""
    down_taps: Mapping[str, str] = field(default_factory=dict)
    """By node: the tap of a running VM, if it is down."""
    bridge_trouble: str | None = None
    """The fault of the bridge, if libvirt reports the network as active."""
    dhcp_is_gone: bool = False
    """Whether the network is active but its DHCP and DNS server is not running."""
    uplink_trouble: str | None = None
    """Why guests cannot reach other networks, if known."""
    uplink_is_ours: bool = False
    """Whether we may change that host's settings."""
    outside_trouble: str | None = None
    """Why the embedded host itself has no uplink, if it has none."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One observation of a cluster."""

    domains: Mapping[UUID, DomainInfo] = field(default_factory=dict)
    network: NetworkInfo | None = None
    disks: frozenset[str] = frozenset()
    has_disk_directory: bool = False
    readiness: Mapping[str, NodeReadiness] | None = None
    """What the cluster's software reports of its nodes, by name; None if it was not asked."""
    workload_trouble: str | None = None
    """Why that software could not be asked, if it should have been."""
    skews_s: Mapping[UUID, float] = field(default_factory=dict)
    """By VM: seconds that the guest's clock is at least ahead of ours, if it answered in time."""
    host_is_down: bool = False
    wiring: Wiring | None = None
    """The result of `observe_wiring`; None if it was not called, or could not tell."""
    share_faults: Mapping[str, tuple[ShareFault, ...]] = field(default_factory=dict)
    """By node: the shares that it has lost; empty if `observe_shares` was not called."""
    ports: ServedPorts | None = None
    """The ports of the host that are open for the cluster; None if none is, or nobody looked."""
    impostors: tuple[str, ...] = ()
    """VMs with this cluster's mark that are not its nodes: anybody can copy a mark."""

    @property
    def known_faults(self) -> Wiring:
        """The known faults; none if nobody looked."""
        return self.wiring or Wiring()

    def find_domain(self, uuid: UUID) -> DomainInfo | None:
        return self.domains.get(uuid)

    def is_on(self, node: NodeState) -> bool:
        """Whether the node's VM exists and is not off."""
        domain = self.find_domain(node.uuid)
        return domain is not None and domain.state.is_on

    def has_devices(self, uuid: UUID) -> bool:
        """Whether a VM is on with a PCI device or a mediated device of the host."""
        domain = self.find_domain(uuid)
        return domain is not None and domain.state.is_on and bool(devices_in(domain.xml))

    def has_managed_save(self, node: NodeState) -> bool:
        """Whether the node's VM is off and its memory is saved."""
        domain = self.find_domain(node.uuid)
        return domain is not None and domain.has_managed_save


def observe(
    client: LibvirtClient,
    state: ClusterState,
    kind: ClusterKind,
    *,
    asks_workload: bool = True,
    every: Sequence[DomainInfo] | None = None,
) -> Observed:
    """Observe all objects of the cluster. `every` VM of the host is listed, if it is not given.

    Raises OwnershipError if a VM or network has the name of one of them, but not its UUID and mark.
    """
    seen = observe_objects(client, state, every=every)
    if not asks_workload:
        return seen
    with polled_clocks(client, seen.domains.values()) as skews_s:
        workload = kind.observe_workload(client, state, seen.domains)
    return replace(
        seen, readiness=workload.nodes, workload_trouble=workload.trouble, skews_s=skews_s
    )


def observe_objects(
    client: LibvirtClient, state: ClusterState, *, every: Sequence[DomainInfo] | None = None
) -> Observed:
    """Like `observe`, without a question to any guest."""
    learn_names(client, state)
    every = client.list_domains() if every is None else every
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
    return Observed(
        domains=domains,
        network=network,
        disks=existing_disks(state),
        impostors=tuple(
            one.name
            for one in every
            if one.mark and one.mark.id == state.lineage and one.uuid not in uuids
        ),
    )


def _tell(other: DomainInfo | NetworkInfo) -> str:
    """The UUID of another's object, and its owner if the mark says so."""
    which, owner = f"its UUID is {other.uuid}", owner_of(other)
    return f"{which}\nit belongs to {describe_owner(owner)}" if owner else which


def learn_names(client: LibvirtClient, state: ClusterState) -> None:
    """Tell the client the names of the cluster's objects, for its error messages."""
    client.learn(state.network.uuid, state.network.name)
    for node in state.nodes:
        client.learn(node.uuid, node.domain_name)


def with_host_faults(
    seen: Observed, state: ClusterState, place: HypervisorHost, paths: ClusterPaths
) -> Observed:
    """The observation with what only the host itself shows."""
    return replace(
        seen,
        wiring=observe_wiring(seen, state, place),
        share_faults=observe_shares(seen, state, place),
        ports=find_open_ports(paths),
    )


def observe_wiring(seen: Observed, state: ClusterState, place: HypervisorHost) -> Wiring | None:
    """Check on the host whether the running VMs are on the network, and DHCP and DNS are served.

    None if the network is down or simulated, or if one of the checks is impossible.
    """
    network = seen.network
    if network is None or not network.is_active or not place.has_network:
        return None
    networks = HostNetworks(tuple(place.enter([])))
    bridge = network.bridge or ""
    try:
        links = networks.links()
        trouble_of_bridge = find_bridge_problem(
            links, bridge, read_network_facts(network.xml).address
        )
        is_served = networks.is_dns_served(state.network.gateway)
        wants_uplink = state.network.uplink
        trouble = networks.find_uplink_problem(state.network.subnet) if wants_uplink else None
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


def observe_shares(
    seen: Observed, state: ClusterState, place: HypervisorHost
) -> Mapping[str, tuple[ShareFault, ...]]:
    """The faults of the running nodes' shares, for nodes that have any; none if nobody can know."""
    root = place.root
    if root is None:
        return {}
    return {
        node.name: faults
        for node in state.nodes
        if (domain := seen.find_domain(node.uuid)) and domain.state.is_on
        if (faults := find_share_faults(domain, root))
    }


def _taps_of_nodes(
    seen: Observed, state: ClusterState, network: NetworkInfo
) -> tuple[tuple[str, str], ...]:
    """For each running node, its name and its tap."""
    return tuple(
        (node.name, tap)
        for node in state.nodes
        if (domain := seen.find_domain(node.uuid)) and domain.state.is_on
        for tap in find_taps(domain.xml, network)
    )


def _is_down(link: Link | None) -> bool:
    return link is not None and not link.is_up


def existing_disks(state: ClusterState) -> frozenset[str]:
    """The names of the nodes whose disk exists."""
    return frozenset(node.name for node in state.nodes if node.disk.exists())
