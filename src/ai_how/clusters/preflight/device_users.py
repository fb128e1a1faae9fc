"""Devices of the host that another VM has: only one VM can run with each.

What libvirt shows counts. A start that has not ended yet is known by its journal, which is on disk
before the host-wide lock is released.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.other_clusters import read_notes
from ai_how.errors import HostError
from ai_how.host.checks import Check, Status
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.host_devices import PciAddress, devices_in
from ai_how.spec.nodes import Node
from ai_how.state.models import HPC
from ai_how.state.paths import Roots
from ai_how.vm_management.owners import caller_of, describe_owner, is_owned_by, owner_of


@dataclass(frozen=True, slots=True)
class DeviceUser:
    """Who has a device, and the command that frees it."""

    who: str
    hint: str | None
    own_node: str | None = None
    """Its name, if it is a node of the cluster that asks."""
    cluster: str | None = None
    """The cluster of the caller that has it, or will have it in a moment."""
    node: str | None = None
    """The node of that cluster, if its VM is on."""


def devices_of(nodes: Iterable[Node], chosen: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The node that asks for each device: a PCI address as of `lspci -D`, or an mdev's UUID.

    `chosen` are the functions of the cards of each node, and its vGPU, by its name.
    """
    found: dict[str, str] = {}
    for node in nodes:
        found |= dict.fromkeys(chosen.get(node.name, ()), node.name)
        for device in node.pcie_devices:
            found[str(PciAddress.parse(device.pci_address))] = node.name
        if node.vgpu_mdev_uuid:
            found[str(node.vgpu_mdev_uuid)] = node.name
    return found


def require_free_devices(
    desired: DesiredCluster, booted: Iterable[Node], client: LibvirtClient, roots: Roots
) -> None:
    """Raises HostError that names who has a device of these nodes, and how to free it."""
    wanted = devices_of(booted, desired.host_devices)
    if not wanted:
        return
    name, own = desired.section.name, desired.state.lineage
    users = find_device_users(client, roots, name=name, own=own)
    if checks := check_device_users(wanted, users):
        raise HostError(
            f"{checks[0].name} {checks[0].found}",
            details="\n".join(f"{check.name} {check.found}" for check in checks[1:]) or None,
            hint=checks[0].advice,
        )


def check_device_users(wanted: Mapping[str, str], users: Mapping[str, DeviceUser]) -> list[Check]:
    """A failure for each wanted device that another VM has, or will have in a moment."""
    return [
        Check(
            f"the device {device} of {node}",
            Status.FAILURE,
            f"is in use by {users[device].who}",
            users[device].hint,
        )
        for device, node in wanted.items()
        if device in users and users[device].own_node != node
    ]


def find_device_users(
    client: LibvirtClient,
    roots: Roots,
    *,
    name: str,
    own: UUID | None,
    every: Sequence[DomainInfo] | None = None,
) -> dict[str, DeviceUser]:
    """Who has each device of the host now, or will have it in a moment.

    `every` VM of the host is listed, if it is not given. `own` is the id of the cluster `name`,
    which asks; None if it is not known: no node is in its own way.
    """
    users = dict(_promised(roots, besides=name))
    for domain in client.list_domains() if every is None else every:
        if domain.state.is_on and (held := devices_in(domain.xml)):
            user = _user_of(domain, client, roots, own=own, own_name=name)
            users |= dict.fromkeys(held, user)
    return users


def _user_of(
    domain: DomainInfo, client: LibvirtClient, roots: Roots, *, own: UUID | None, own_name: str
) -> DeviceUser:
    mark = domain.mark
    if mark is None:
        return DeviceUser(f"the VM {domain.name}", client.virsh("shutdown", domain.name))
    who = f"{mark.node} of the cluster {mark.cluster}"
    owner = owner_of(domain)
    # Anybody can copy a mark: only a cluster that we have is named in a command.
    is_ours = mark.cluster in roots.cluster_names()
    if not is_ours or not is_owned_by(owner, caller_of(roots.cluster(mark.cluster))):
        told = f", of {describe_owner(owner)}" if owner else ""
        return DeviceUser(f"{who}{told}", None)
    kind = mark.kind or HPC
    if mark.id == own or (own is None and mark.cluster == own_name):
        stop = _stop_of(kind, mark.cluster, mark.node)
        who, own_node = f"{mark.node} of the same cluster", mark.node
        return DeviceUser(who, stop, own_node, cluster=mark.cluster, node=mark.node)
    stop = _stop_of(kind, mark.cluster)
    return DeviceUser(who, stop, cluster=mark.cluster, node=mark.node)


def _stop_of(kind: str, cluster: str, *nodes: str) -> str:
    return shlex.join(["ai-how", kind, "stop", "--cluster", cluster, *nodes])


def _promised(roots: Roots, *, besides: str) -> Iterator[tuple[str, DeviceUser]]:
    """The devices of starts that are under way, or were killed."""
    for name, note in read_notes(roots, besides=besides):
        user = DeviceUser(
            f"a start of the cluster {name} that has not ended, or was cut short",
            _stop_of(note.get("kind", HPC), name),
            cluster=name,
        )
        yield from ((device, user) for device in note.get("devices", ()))
