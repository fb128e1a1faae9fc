"""Checks between the fields of a cluster file. The host is not looked at."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ai_how.spec.cloud_checks import check_cloud
from ai_how.spec.expose_checks import check_expose
from ai_how.spec.fields import SHORTEST_PREFIX
from ai_how.spec.gpu_checks import check_gpus
from ai_how.spec.hardware_checks import (
    check_devices,
    check_hardware,
    check_mounts,
    check_node_hardware,
)
from ai_how.spec.image_checks import check_images
from ai_how.spec.models import ClusterFile, HpcSpec
from ai_how.spec.node_specs import MAX_NODES
from ai_how.spec.nodes import Role, compute_name, count_of, gateway_of, longest_prefix_for, room_in
from ai_how.spec.problems import Finding, Loc, error_at, render_path, warning_at
from ai_how.spec.slurm_checks import check_slurm
from ai_how.spec.view import LocatedCluster, clusters_of

if TYPE_CHECKING:
    from ipaddress import IPv4Address


def check_file(file: ClusterFile) -> Iterator[Finding]:
    """Yield every contradiction, and every field that has no effect."""
    clusters = clusters_of(file)
    if not clusters:
        yield error_at("at least one of `hpc` and `cloud` is required", ("clusters",))
    for cluster in clusters:
        yield from check_size(cluster)
        yield from check_addresses(cluster)
        yield from check_hardware(cluster)
        yield from check_devices(cluster)
        yield from check_node_hardware(cluster)
        yield from check_gpus(cluster)
        yield from check_mounts(cluster)
    if file.clusters.hpc:
        yield from check_slurm(file.clusters.hpc)
        yield from check_storage(file.clusters.hpc)
        yield from check_expose(file.clusters.hpc.expose, _hpc_names(file.clusters.hpc), "hpc")
    yield from check_images(file)
    if file.clusters.cloud:
        yield from check_cloud(file.clusters.cloud)
    if file.global_:
        yield warning_at("has no effect; it is kept as a note", ("global",))
    if len(clusters) > 1:
        yield from check_neighbours(*clusters)


def _hpc_names(hpc: HpcSpec) -> list[str]:
    count = min(sum(map(count_of, hpc.compute_nodes)), MAX_NODES)
    return [Role.CONTROLLER.value, *(compute_name(number) for number in range(1, count + 1))]


def check_size(cluster: LocatedCluster) -> Iterator[Finding]:
    loc = cluster.entries_loc
    if isinstance(cluster.spec, HpcSpec) and cluster.vm_count == 1:
        yield error_at("at least one compute node is required", loc)
    if cluster.vm_count - 1 > MAX_NODES:
        yield error_at(f"found {cluster.vm_count - 1} nodes; the maximum is {MAX_NODES}", loc)


def check_addresses(cluster: LocatedCluster) -> Iterator[Finding]:
    subnet = cluster.spec.network.subnet
    subnet_loc = (*cluster.loc, "network", "subnet")
    if subnet:
        room, prefix = room_in(subnet), longest_prefix_for(cluster.vm_count)
        if cluster.vm_count > room:
            larger = (
                f"; use {subnet.supernet(new_prefix=prefix)}" if prefix >= SHORTEST_PREFIX else ""
            )
            yield error_at(
                f"{subnet} has room for {room} nodes, not for {cluster.vm_count}{larger}",
                subnet_loc,
                cluster.entries_loc,
            )
    owners: dict[IPv4Address, Loc] = {}
    for node in cluster.nodes:
        if node.ip is None:
            continue
        about = (node.ip_loc, subnet_loc)
        if node.count > 1:
            yield error_at(f"{node.count} nodes cannot all have {node.ip}; use DHCP", node.ip_loc)
        if first := owners.get(node.ip):
            yield error_at(f"{node.ip} is also {render_path(first)}", node.ip_loc, first)
        owners.setdefault(node.ip, node.ip_loc)
        if subnet is None:
            yield error_at(f"{node.ip} needs a fixed network.subnet, not auto", *about)
        elif node.ip not in subnet:
            yield error_at(f"{node.ip} is not in the subnet {subnet}", *about)
        elif node.ip in (subnet.network_address, subnet.broadcast_address):
            yield error_at(f"{node.ip} is the network or broadcast address of {subnet}", *about)
        elif node.ip == gateway_of(subnet):
            yield error_at(f"{node.ip} is the gateway of {subnet}", *about)


def check_storage(hpc: HpcSpec) -> Iterator[Finding]:
    loc: Loc = ("clusters", "hpc", "storage")
    if not hpc.storage.beegfs.enabled:
        return
    beegfs = (*loc, "beegfs", "enabled")
    if hpc.storage.home == "nfs":
        yield warning_at("BeeGFS is not available; the shared /home is NFS instead", beegfs)
    else:
        yield error_at(
            "BeeGFS is not available, and with `home: none` nothing would be shared; "
            "use `home: nfs`",
            beegfs,
            (*loc, "home"),
        )


def check_neighbours(one: LocatedCluster, other: LocatedCluster) -> Iterator[Finding]:
    """The clusters of one file may run at the same time."""
    if one.spec.name == other.spec.name:
        names = ((*other.loc, "name"), (*one.loc, "name"))
        yield error_at(f"'{one.spec.name}' is also {render_path(names[1])}", *names)
    first, second = one.spec.network, other.spec.network
    networks = ((*other.loc, "network"), (*one.loc, "network"))
    if first.subnet and second.subnet and first.subnet.overlaps(second.subnet):
        subnets = [(*loc, "subnet") for loc in networks]
        yield error_at(f"overlaps {render_path(subnets[1])} {first.subnet}", *subnets)
    if first.bridge and first.bridge == second.bridge:
        bridges = [(*loc, "bridge") for loc in networks]
        yield error_at(f"'{first.bridge}' is also {render_path(bridges[1])}", *bridges)
