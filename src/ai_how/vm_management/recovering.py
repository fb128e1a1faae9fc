"""A cluster whose state was lost or damaged: remembered again from a backup, or from libvirt."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from uuid import UUID
from xml.etree.ElementTree import Element

from ai_how.errors import HostError, ImageError, StateError
from ai_how.host.place import HostPlace
from ai_how.images.qcow2_header import read_header
from ai_how.spec.identity import bridge_name, mac_address, object_uuid
from ai_how.spec.nodes import Role
from ai_how.state.cluster_state import backup_serials, read_state, restore_state, write_state
from ai_how.state.models import ClusterState, NetworkState, NodeState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.disk_space import GIB
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.seen import DomainSeen, Mark
from ai_how.vm_management.xml_text import read_xml


def marked_vms(domains: Iterable[DomainSeen], cluster: str) -> tuple[tuple[DomainSeen, Mark], ...]:
    """The VMs that were made for a cluster of that name.

    A mark can be copied, a UUID that derives from it cannot be had twice: both must agree.
    """
    return tuple(
        (one, one.mark)
        for one in domains
        if one.mark
        and one.mark.cluster == cluster
        and one.uuid == object_uuid(one.mark.id, f"domain/{one.mark.node}")
    )


def refuse_lost(client: LibvirtClient, cluster: str) -> None:
    """Raises StateError where libvirt has VMs of a cluster of which nothing is remembered."""
    if vms := marked_vms(client.list_domains(), cluster):
        raise StateError(
            f"the cluster {cluster} is there, but what was remembered of it is lost",
            details="\n".join(f"VM {one.name}: {one.state}" for one, _ in vms),
            hint=f"ai-how hpc recover --cluster {cluster}",
        )


def recover_state(
    paths: ClusterPaths, place: HostPlace, client: LibvirtClient, *, user: str
) -> tuple[ClusterState, str]:
    """Remember the cluster again, and say from where: the newest sound backup, else libvirt.

    Raises StateError where it is remembered well, or nothing of it is found.
    """
    with suppress(StateError):
        if read_state(paths):
            raise HostError(f"what is remembered of {paths.name} is sound: nothing to recover")
    for serial in reversed(backup_serials(paths)):
        with suppress(StateError):
            return restore_state(paths, serial), f"its backup of serial {serial}"
    found = _rebuilt(paths.name, place, client, user=user)
    if paths.state.exists():
        paths.state.rename(paths.state.with_name(f"{paths.state.name}.damaged"))
    return write_state(paths, found), "what libvirt has of it"


def _rebuilt(name: str, place: HostPlace, client: LibvirtClient, *, user: str) -> ClusterState:
    vms = marked_vms(client.list_domains(), name)
    ids = {mark.id for _, mark in vms}
    if len(ids) != 1:
        many = ", ".join(map(str, sorted(ids)))
        raise StateError(
            f"libvirt has nothing of a cluster {name}"
            if not ids
            else f"libvirt has VMs of several clusters {name}",
            details=f"their ids are {many}" if ids else None,
            hint="ai-how hpc start" if not ids else "virsh undefine what is not wanted",
        )
    [cluster_id] = ids
    network, addresses = _network(client, cluster_id, name)
    now = datetime.now(UTC)
    return ClusterState(
        lineage=cluster_id,
        name=name,
        created_at=now,
        updated_at=now,
        host_uri=place.asked,
        user=user,
        network=network,
        nodes=_nodes(vms, addresses),
    )


def _network(
    client: LibvirtClient, cluster_id: UUID, name: str
) -> tuple[NetworkState, dict[str, IPv4Address]]:
    """The cluster's network, and the nodes' addresses by MAC."""
    seen = client.find_network(object_uuid(cluster_id, "network"))
    root = read_xml(seen.xml) if seen else None
    ip = root.find("./ip") if root is not None else None
    if seen is None or root is None or ip is None:
        raise StateError(
            f"the network of {name} is gone, and with it the addresses of its nodes",
            hint="ai-how hpc start  # after virsh destroy and virsh undefine of its VMs",
        )
    gateway = IPv4Interface(f"{ip.get('address')}/{ip.get('prefix') or ip.get('netmask')}")
    network = NetworkState(
        uuid=seen.uuid,
        name=seen.name,
        bridge=seen.bridge or bridge_name(cluster_id),
        subnet=gateway.network,
        gateway=gateway.ip,
    )
    hosts = root.iterfind("./ip/dhcp/host")
    return network, {str(one.get("mac")): IPv4Address(one.get("ip", "")) for one in hosts}


def _nodes(
    vms: Sequence[tuple[DomainSeen, Mark]], addresses: dict[str, IPv4Address]
) -> tuple[NodeState, ...]:
    """The controller first, then by name."""
    nodes = [_node(seen, mark, addresses) for seen, mark in vms]
    return tuple(sorted(nodes, key=lambda one: (one.role is not Role.CONTROLLER, one.name)))


def _node(seen: DomainSeen, mark: Mark, addresses: dict[str, IPv4Address]) -> NodeState:
    mac = mac_address(mark.id, mark.node)
    if mac not in addresses:
        raise StateError(
            f"the address of {seen.name} is not in its network any more",
            hint=f"virsh undefine {seen.uuid}  # then start it, which makes the node anew",
        )
    disk = _disk_of(read_xml(seen.xml))
    try:
        header = read_header(disk, allow_backing=True)
    except ImageError as error:
        raise StateError(f"the disk of {seen.name} cannot be read", details=str(error)) from error
    return NodeState(
        name=mark.node,
        role=Role.CONTROLLER if mark.node == Role.CONTROLLER else Role.COMPUTE,
        uuid=seen.uuid,
        domain_name=seen.name,
        mac=mac,
        ip=addresses[mac],
        cpu_cores=seen.vcpus,
        memory_mib=seen.memory_mib,
        disk_gib=header.virtual_size_bytes // GIB,
        disk=disk,
        image_digest=Path(header.backing_file or "").stem,
        auto_start=True,
    )


def _disk_of(root: Element) -> Path:
    source = root.find("./devices/disk/source")
    return Path(source.get("file", "") if source is not None else "")
