"""What a cluster will be remembered as, from what is asked and what it was before (pure)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.errors import SpecError
from ai_how.spec.identity import bridge_name, mac_address, object_uuid
from ai_how.spec.models import HpcSpec
from ai_how.spec.nodes import Node, assign_addresses, gateway_of, nodes_of, room_in
from ai_how.state.models import ClusterState, NetworkState, NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredCluster:
    """A cluster as it shall be: each asked node beside what will be remembered of it."""

    hpc: HpcSpec
    state: ClusterState
    nodes: tuple[tuple[Node, NodeState], ...]
    grown: tuple[str, ...]
    changed: tuple[str, ...]
    forgotten: tuple[str, ...]


def plan_desired_cluster(
    hpc: HpcSpec,
    former: ClusterState | None,
    *,
    cluster_id: UUID,
    host_uri: str,
    choose_subnet: Callable[[], IPv4Network],
    disk_of: Callable[[str], Path],
    digest_of: Callable[[Node], str],
    now: datetime,
) -> DesiredCluster:
    """Lay the cluster out. What it was before decides addresses, images and identity for ever.

    Raises SpecError for what cannot be changed in a cluster that is there, with both values.
    """
    network = former.network if former else _network(hpc, cluster_id, choose_subnet())
    if former:
        _check_kept(hpc, former)
    known = {node.name: node for node in former.nodes} if former else {}
    _check_addresses(hpc, known)
    asked = tuple(
        replace(node, ip=known[node.name].ip) if node.name in known else node
        for node in nodes_of(hpc)
    )
    addresses = assign_addresses(network.subnet, asked)
    nodes = [
        (node, _remembered(node, hpc, cluster_id, addresses[node.name], known, disk_of, digest_of))
        for node in asked
    ]
    forgotten = tuple(name for name in known if name not in addresses)
    _check_disks(nodes, known)
    state = ClusterState(
        serial=former.serial if former else 0,
        lineage=cluster_id,
        name=hpc.name,
        created_at=former.created_at if former else now,
        updated_at=now,
        host_uri=host_uri,
        user=hpc.access.user,
        home=hpc.storage.home,
        network=network,
        nodes=(*(one for _, one in nodes), *(known[name] for name in forgotten)),
    )
    return DesiredCluster(
        hpc=hpc,
        state=state,
        nodes=tuple(nodes),
        grown=tuple(
            one.name
            for _, one in nodes
            if (was := known.get(one.name)) and one.disk_gib > was.disk_gib
        ),
        changed=tuple(
            one.name
            for _, one in nodes
            if (was := known.get(one.name))
            and (one.cpu_cores, one.memory_mib) != (was.cpu_cores, was.memory_mib)
        ),
        forgotten=forgotten,
    )


def _remembered(
    node: Node,
    hpc: HpcSpec,
    cluster_id: UUID,
    ip: IPv4Address,
    known: Mapping[str, NodeState],
    disk_of: Callable[[str], Path],
    digest_of: Callable[[Node], str],
) -> NodeState:
    was = known.get(node.name)
    return NodeState(
        name=node.name,
        role=node.role,
        uuid=object_uuid(cluster_id, f"domain/{node.name}"),
        domain_name=node.domain_name(hpc.name),
        mac=mac_address(cluster_id, node.name),
        ip=ip,
        cpu_cores=node.cpu_cores,
        memory_mib=node.memory_mib,
        disk_gib=node.disk_gib,
        disk=was.disk if was else disk_of(node.name),
        image_digest=was.image_digest if was else digest_of(node),
        auto_start=node.auto_start,
        stages_s=was.stages_s if was else {},
    )


def _network(hpc: HpcSpec, cluster_id: UUID, subnet: IPv4Network) -> NetworkState:
    return NetworkState(
        uuid=object_uuid(cluster_id, "network"),
        name=hpc.name,
        bridge=hpc.network.bridge or bridge_name(cluster_id),
        subnet=subnet,
        gateway=gateway_of(subnet),
    )


def _check_kept(hpc: HpcSpec, former: ClusterState) -> None:
    """What the nodes' disks and the network are made for is as it was, where that is known."""
    for what, asked, there in (
        ("subnet", hpc.network.subnet, former.network.subnet),
        ("bridge", hpc.network.bridge, former.network.bridge),
        ("user", hpc.access.user, former.user),
        ("home", hpc.storage.home, former.home),
    ):
        if asked is not None and there and asked != there:
            raise SpecError(
                f"the {what} of a cluster cannot be changed",
                details=f"{hpc.name} has {there}, and {asked} is asked for",
                hint=f"ai-how hpc destroy  # then start it anew, or set {what} back",
            )

    count, subnet = len(nodes_of(hpc)), former.network.subnet
    if count > (room := room_in(subnet)):
        raise SpecError(
            f"{hpc.name} cannot have {count} nodes: its subnet {subnet} has room for {room}",
            hint="ai-how hpc destroy  # then start it anew",
        )


def _check_addresses(hpc: HpcSpec, known: Mapping[str, NodeState]) -> None:
    for node in nodes_of(hpc):
        was = known.get(node.name)
        if was and node.ip is not None and node.ip != was.ip:
            raise SpecError(
                f"the address of {node.name} cannot be changed",
                details=f"it has {was.ip}, and {node.ip} is asked for",
                hint="ai-how hpc destroy  # then start it anew, or set the address back",
            )


def _check_disks(nodes: list[tuple[Node, NodeState]], known: dict[str, NodeState]) -> None:
    for _, one in nodes:
        was = known.get(one.name)
        if was and one.disk_gib < was.disk_gib:
            raise SpecError(
                f"the disk of {one.name} would shrink",
                details=f"it has {was.disk_gib} GiB, and {one.disk_gib} GiB are asked for",
                hint=f"disk_gb: {was.disk_gib}",
            )
