"""The state that a start will leave, from the spec and the previous state (pure)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.clusters.kind import ClusterKind, ClusterSection
from ai_how.clusters.outside import Outside
from ai_how.errors import SpecError
from ai_how.images.manifest import Image
from ai_how.spec.identity import bridge_name, mac_address, object_uuid
from ai_how.spec.nodes import Node, assign_addresses, gateway_of, room_in
from ai_how.state.models import ClusterState, NetworkState, NodeState
from ai_how.vm_management.nodes.device_hardware import DeviceHardware
from ai_how.vm_management.vgpus import Vgpu


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredCluster:
    """The cluster that is asked for: each node of the spec beside its new state.

    `grown` nodes get a larger disk and `changed` ones other vCPUs or memory. `forgotten` ones are
    no longer in the spec.
    """

    section: ClusterSection
    state: ClusterState
    nodes: tuple[tuple[Node, NodeState], ...]
    grown: tuple[str, ...]
    changed: tuple[str, ...]
    forgotten: tuple[str, ...]
    outside: Outside = field(default_factory=Outside)
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The functions of the host's cards that each node gets, by its name."""
    vgpus: Mapping[str, Vgpu] = field(default_factory=dict)
    """The vGPU that is made for each node, by its name."""
    device_hardware: Mapping[str, DeviceHardware] = field(default_factory=dict)
    """What goes with the devices of the host that each node gets, by its name."""
    images: Mapping[str, Image] = field(default_factory=dict)
    """The images of its nodes, by digest; empty before they were looked up."""

    def pci_devices_of(self, node: Node) -> tuple[str, ...]:
        """The addresses of all PCI devices that the node's VM gets."""
        passed = (device.pci_address for device in node.pcie_devices)
        return (*self.functions.get(node.name, ()), *passed)

    @property
    def host_devices(self) -> dict[str, tuple[str, ...]]:
        """The functions of each node's cards, and its vGPU as VMs have it, by its name."""
        return host_devices_of(self.functions, self.vgpus)


def host_devices_of(
    functions: Mapping[str, tuple[str, ...]], vgpus: Mapping[str, Vgpu]
) -> dict[str, tuple[str, ...]]:
    """The functions of each node's cards, and its vGPU as VMs have it, by its name."""
    return {**functions, **{name: (one.device,) for name, one in vgpus.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChoices:
    """Values that depend on the host, for a new cluster or node. Each is asked for when needed."""

    subnet: Callable[[], IPv4Network]
    disk_of: Callable[[str], Path]
    digest_of: Callable[[Node], str]
    """The digest of the node's image."""
    cards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The cards that were chosen for each node, or the VF for its vGPU, by its name."""


def plan_desired_cluster(
    section: ClusterSection,
    previous: ClusterState | None,
    *,
    kind: ClusterKind,
    cluster_id: UUID,
    host_uri: str,
    choices: HostChoices,
    now: datetime,
) -> DesiredCluster:
    """Compute the state that a start will leave.

    Addresses, images and identity of an existing cluster are taken from its `previous` state.
    Raises SpecError with both values if the spec changes what cannot change.
    """
    nodes, home = kind.nodes_of(section), kind.home_of(section)
    network = _network(section, cluster_id, choices, previous)
    if previous:
        _check_kept(section, home, len(nodes), previous)
    known = {node.name: node for node in previous.nodes} if previous else {}
    _check_addresses(nodes, known, kind.name)
    asked = tuple(
        replace(node, ip=known[node.name].ip) if node.name in known else node for node in nodes
    )
    addresses = assign_addresses(network.subnet, asked)
    pairs = [
        (node, _remembered(node, section.name, cluster_id, addresses[node.name], known, choices))
        for node in asked
    ]
    forgotten = tuple(name for name in known if name not in addresses)
    _check_disks(pairs, known)
    state = ClusterState(
        serial=previous.serial if previous else 0,
        lineage=cluster_id,
        kind=kind.name,
        name=section.name,
        created_at=previous.created_at if previous else now,
        updated_at=now,
        host_uri=host_uri,
        user=section.access.user,
        home=home,
        network=network,
        nodes=(*(one for _, one in pairs), *(known[name] for name in forgotten)),
        provisioned=previous.provisioned if previous else None,
    )
    known_pairs = [(one, known[one.name]) for _, one in pairs if one.name in known]
    return DesiredCluster(
        section=section,
        state=state,
        nodes=tuple(pairs),
        grown=tuple(one.name for one, was in known_pairs if one.disk_gib > was.disk_gib),
        changed=tuple(
            one.name
            for one, was in known_pairs
            if (one.cpu_cores, one.memory_mib) != (was.cpu_cores, was.memory_mib)
        ),
        forgotten=forgotten,
    )


def _remembered(
    node: Node,
    cluster: str,
    cluster_id: UUID,
    ip: IPv4Address,
    known: Mapping[str, NodeState],
    choices: HostChoices,
) -> NodeState:
    was = known.get(node.name)
    return NodeState(
        name=node.name,
        role=node.role,
        uuid=object_uuid(cluster_id, f"domain/{node.name}"),
        domain_name=node.domain_name(cluster),
        mac=mac_address(cluster_id, node.name),
        ip=ip,
        cpu_cores=node.cpu_cores,
        memory_mib=node.memory_mib,
        disk_gib=node.disk_gib,
        disk=was.disk if was else choices.disk_of(node.name),
        image_digest=was.image_digest if was else choices.digest_of(node),
        auto_start=node.auto_start,
        stages_s=was.stages_s if was else {},
        gpus=_gpus(node, was),
        cards=_cards(node, choices),
        is_untold=was is not None and was.is_untold,
    )


def _gpus(node: Node, was: NodeState | None) -> dict[str, int] | None:
    """Empty, not None, where a node has no more GPUs: what it was given is to be taken away."""
    if node.gpus:
        return node.gpus.gres_counts
    return None if was is None or was.gpus is None else {}


def _cards(node: Node, choices: HostChoices) -> tuple[str, ...] | None:
    if node.vgpu is None and (node.cards is None or not node.cards.count):
        return None
    return choices.cards.get(node.name) or None


def _network(
    section: ClusterSection, cluster_id: UUID, choices: HostChoices, previous: ClusterState | None
) -> NetworkState:
    """A new network, or the previous one, of which only the uplink may change."""
    if previous:
        return previous.network.model_copy(update={"uplink": section.network.uplink})
    subnet = choices.subnet()
    return NetworkState(
        uuid=object_uuid(cluster_id, "network"),
        name=section.name,
        bridge=section.network.bridge or bridge_name(cluster_id),
        subnet=subnet,
        gateway=gateway_of(subnet),
        uplink=section.network.uplink,
    )


def _check_kept(section: ClusterSection, home: str, count: int, previous: ClusterState) -> None:
    """Raises SpecError if a fixed property of the cluster changes, as far as it is known."""
    for what, asked, there in (
        ("subnet", section.network.subnet, previous.network.subnet),
        ("bridge", section.network.bridge, previous.network.bridge),
        ("user", section.access.user, previous.user),
        ("home", home, previous.home),
    ):
        if asked is not None and there and asked != there:
            raise SpecError(
                f"the {what} of a cluster cannot be changed",
                details=f"{section.name} has {there}; the file asks for {asked}",
                hint=f"ai-how {previous.kind} destroy  # then start it again, or set {what} back",
            )

    subnet = previous.network.subnet
    if count > (room := room_in(subnet)):
        raise SpecError(
            f"{section.name} cannot have {count} nodes: its subnet {subnet} has room for {room}",
            hint=f"ai-how {previous.kind} destroy  # then start it again",
        )


def _check_addresses(nodes: Iterable[Node], known: Mapping[str, NodeState], kind: str) -> None:
    for node in nodes:
        was = known.get(node.name)
        if was and node.ip is not None and node.ip != was.ip:
            raise SpecError(
                f"the address of {node.name} cannot be changed",
                details=f"it has {was.ip}; the file asks for {node.ip}",
                hint=f"ai-how {kind} destroy  # then start it again, or set the address back",
            )


def _check_disks(nodes: list[tuple[Node, NodeState]], known: dict[str, NodeState]) -> None:
    for _, one in nodes:
        was = known.get(one.name)
        if was and one.disk_gib < was.disk_gib:
            raise SpecError(
                f"the disk of {one.name} would shrink",
                details=f"it has {was.disk_gib} GiB; the file asks for {one.disk_gib} GiB",
                hint=f"disk_gb: {was.disk_gib}",
            )
