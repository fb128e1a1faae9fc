"""Restores a state that was lost or damaged, from a backup or from libvirt."""

import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from uuid import UUID
from xml.etree.ElementTree import Element

from ai_how.clusters.kind import ClusterKind
from ai_how.errors import HostError, ImageError, OwnershipError, StateError
from ai_how.host.place import HypervisorHost
from ai_how.images.qcow2_header import read_header
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo, Mark
from ai_how.libvirt_client.host_devices import passed_in
from ai_how.libvirt_client.network_xml import read_network_facts
from ai_how.libvirt_client.xml import read_xml
from ai_how.spec.identity import bridge_name, mac_address, object_uuid
from ai_how.spec.nodes import Role
from ai_how.state.cluster_state import backup_serials, read_state, restore_state, write_state
from ai_how.state.models import HPC, ClusterState, NetworkState, NodeState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.disks.space import GIB
from ai_how.vm_management.networks.definition import ForwardMode
from ai_how.vm_management.owners import (
    belongs_to_caller,
    caller_of,
    describe_owner,
    find_uid,
    owner_of,
)

Vms = Sequence[tuple[DomainInfo, Mark]]


def marked_vms(domains: Iterable[DomainInfo], cluster: str) -> tuple[tuple[DomainInfo, Mark], ...]:
    """The VMs that were created for a cluster of that name, with their marks.

    A mark can be copied, but the UUID that derives from it is unique, so both must match.
    """
    return tuple(
        (one, one.mark)
        for one in domains
        if one.mark
        and one.mark.cluster == cluster
        and one.uuid == object_uuid(one.mark.id, f"domain/{one.mark.node}")
    )


def refuse_lost(
    every: Iterable[DomainInfo], paths: ClusterPaths, place: HypervisorHost, *, kind: str
) -> None:
    """Refuse a cluster that exists in libvirt, among `every` VM of the host, and has no state.

    Raises StateError if it is the caller's and OwnershipError if it is another's. `kind` is the one
    that the caller asked for, for the hint.
    """
    mine, others = _by_owner(every, paths, place)
    if mine:
        raise StateError(
            f"the cluster {paths.name} exists, but its state is lost",
            details=_list_vms(mine),
            hint=f"ai-how {kind} recover --cluster {paths.name}",
        )
    if others:
        raise _not_callers(others, paths, place, kind=kind)


def recover_state(
    paths: ClusterPaths,
    place: HypervisorHost,
    client: LibvirtClient,
    *,
    kind: ClusterKind,
    user: str,
    from_user: str | None = None,
) -> tuple[ClusterState, str]:
    """Restore the state, and return it with the name of its source.

    The source is the newest sound backup, else libvirt. With `from_user`, a cluster of that user or
    of their other state directory is taken over. Raises HostError if the state is sound, StateError
    if nothing is found, and OwnershipError if only another user has a cluster of that name.
    """
    with suppress(StateError):
        if read_state(paths):
            raise HostError(
                f"there is nothing to recover: the state of {paths.name} is intact",
                hint=f"ai-how {kind.name} status --cluster {paths.name}",
            )
    for serial in reversed(backup_serials(paths)):
        with suppress(StateError):
            return restore_state(paths, serial, kind=kind.name), f"its backup with serial {serial}"
    mine, others = _by_owner(client.list_domains(), paths, place)
    if from_user is not None:
        uid = find_uid(from_user)
        mine = [pair for pair in others if _uid(pair[0]) in (None, uid)]
    if others and not mine:
        raise _not_callers(others, paths, place, kind=kind.name, is_to_recover=True)
    for _, mark in mine:
        if (there := mark.kind or HPC) != kind.name:
            raise StateError(
                f"{paths.name} is a cluster of the kind {there}, not {kind.name}",
                hint=f"ai-how {there} recover --cluster {paths.name}",
            )
    found = _rebuilt(paths.name, mine, place, client, kind=kind, user=user)
    if paths.state.exists():
        paths.state.rename(paths.state.with_name(f"{paths.state.name}.damaged"))
    return write_state(paths, found), "libvirt"


def _by_owner(
    every: Iterable[DomainInfo], paths: ClusterPaths, place: HypervisorHost
) -> tuple[Vms, Vms]:
    """The caller's VMs of a cluster of that name, and those of others."""
    caller = caller_of(paths)
    mine: list[tuple[DomainInfo, Mark]] = []
    others: list[tuple[DomainInfo, Mark]] = []
    for pair in marked_vms(every, paths.name):
        (mine if belongs_to_caller(pair[0], caller, place) else others).append(pair)
    return mine, others


def _not_callers(
    others: Vms,
    paths: ClusterPaths,
    place: HypervisorHost,
    *,
    kind: str,
    is_to_recover: bool = False,
) -> OwnershipError:
    """The error for a cluster of that name that belongs to another."""
    owners = [owner for seen, _ in others if (owner := owner_of(seen))]
    owner, name = owners[0], paths.name
    if is_to_recover:
        who = owner.uid if owner.uid is not None else "UID"
        hint = f"ai-how {kind} recover --cluster {name} --from-user {who}  # takes it over"
    elif owner.uid == os.geteuid():
        state = shlex.quote(str(owner.state))
        hint = f"ai-how --state-dir {state} {kind} status --cluster {name}"
    else:
        hint = f"ai-how --connect embedded {kind} start  # or give your cluster another name"
    return OwnershipError(
        f"the cluster {name} on {place.asked} is not yours: it belongs to {describe_owner(owner)}",
        details=_list_vms(others),
        hint=hint,
    )


def _list_vms(vms: Vms) -> str:
    return "\n".join(f"VM {one.name}: {one.state}" for one, _ in vms)


def _uid(seen: DomainInfo) -> int | None:
    owner = owner_of(seen)
    return owner.uid if owner else None


def _rebuilt(
    name: str,
    vms: Vms,
    place: HypervisorHost,
    client: LibvirtClient,
    *,
    kind: ClusterKind,
    user: str,
) -> ClusterState:
    ids = {mark.id for _, mark in vms}
    if len(ids) != 1:
        many = ", ".join(map(str, sorted(ids)))
        raise StateError(
            f"libvirt has no VM of a cluster {name}"
            if not ids
            else f"libvirt has VMs of several clusters named {name}",
            details=f"their ids are {many}" if ids else None,
            hint=f"ai-how {kind.name} start"
            if not ids
            else client.virsh("list", "--all", "--title"),
        )
    [cluster_id] = ids
    network, addresses = _network(client, cluster_id, name)
    now = datetime.now(UTC)
    return ClusterState(
        lineage=cluster_id,
        kind=kind.name,
        name=name,
        created_at=now,
        updated_at=now,
        host_uri=place.asked,
        user=user,
        network=network,
        nodes=_nodes(client, vms, addresses, kind),
    )


def _network(
    client: LibvirtClient, cluster_id: UUID, name: str
) -> tuple[NetworkState, dict[str, IPv4Address]]:
    """The state of the cluster's network, and the addresses of the nodes by MAC address."""
    seen = client.find_network(object_uuid(cluster_id, "network"))
    root = read_xml(seen.xml) if seen else None
    ip = root.find("./ip") if root is not None else None
    if seen is None or root is None or ip is None:
        raise StateError(
            f"the network of {name} is gone, and with it the addresses of its nodes",
            hint=f"{client.virsh('list', '--all')}  # destroy and undefine its VMs, then start it",
        )
    gateway = IPv4Interface(f"{ip.get('address')}/{ip.get('prefix') or ip.get('netmask')}")
    network = NetworkState(
        uuid=seen.uuid,
        name=seen.name,
        bridge=seen.bridge or bridge_name(cluster_id),
        subnet=gateway.network,
        gateway=gateway.ip,
        uplink=read_network_facts(seen.xml).mode != ForwardMode.ISOLATED,
    )
    hosts = root.iterfind("./ip/dhcp/host")
    return network, {str(one.get("mac")): IPv4Address(one.get("ip", "")) for one in hosts}


def _nodes(
    client: LibvirtClient, vms: Vms, addresses: dict[str, IPv4Address], kind: ClusterKind
) -> tuple[NodeState, ...]:
    """The states of the nodes: the controller first, then by name."""
    stats = client.stats([seen.uuid for seen, _ in vms])
    sizes = {uuid: one.disk_capacity_bytes for uuid, one in stats.items()}
    nodes = [_node(client, seen, mark, addresses, sizes.get(seen.uuid), kind) for seen, mark in vms]
    return tuple(sorted(nodes, key=lambda one: (one.role is not Role.CONTROLLER, one.name)))


def _node(
    client: LibvirtClient,
    seen: DomainInfo,
    mark: Mark,
    addresses: dict[str, IPv4Address],
    capacity: int | None,
    kind: ClusterKind,
) -> NodeState:
    mac = mac_address(mark.id, mark.node)
    if mac not in addresses:
        raise StateError(
            f"the address of {seen.name} is no longer in its network",
            hint=f"{client.virsh('undefine', str(seen.uuid))}  # then start it again",
        )
    disk, size, base = _look_at_disk(seen, capacity)
    return NodeState(
        name=mark.node,
        role=kind.role_of(mark.node),
        uuid=seen.uuid,
        domain_name=seen.name,
        mac=mac,
        ip=addresses[mac],
        cpu_cores=seen.vcpus,
        memory_mib=seen.memory_mib,
        disk_gib=size // GIB,
        disk=disk,
        image_digest=Path(base or "").stem,
        auto_start=True,
        cards=tuple(sorted(passed_in(seen.xml))) or None,
    )


def _look_at_disk(seen: DomainInfo, capacity: int | None) -> tuple[Path, int, str | None]:
    """The path, size in bytes and base of a node's disk, from its header or from libvirt.

    On the system's libvirt, the disk of a running VM belongs to QEMU's user and cannot be read.
    """
    root = read_xml(seen.xml)
    disk = Path(_file_of(root.find("./devices/disk/source")))
    try:
        header = read_header(disk, allow_backing=True)
    except ImageError as error:
        if not isinstance(error.__cause__, PermissionError) or capacity is None:
            raise StateError(
                f"the disk of {seen.name} cannot be read", details=str(error)
            ) from error
        return disk, capacity, _file_of(root.find("./devices/disk/backingStore/source"))
    return disk, header.virtual_size_bytes, header.backing_file


def _file_of(source: Element | None) -> str:
    return source.get("file", "") if source is not None else ""
