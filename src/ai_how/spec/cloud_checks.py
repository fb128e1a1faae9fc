"""Checks of the Kubernetes cluster of a file. The host is not looked at."""

import re
from collections.abc import Iterator

from ai_how.spec.cloud_nodes import nodes_of_cloud
from ai_how.spec.expose_checks import check_expose
from ai_how.spec.models import CloudSpec
from ai_how.spec.node_specs import MAX_NODES
from ai_how.spec.nodes import count_of
from ai_how.spec.problems import Finding, Loc, error_at, render_value, warning_at

POD_PREFIX = 24
"""Each node has so many bits of the Pods' subnet."""
OWN_CNI = ("", "routed", "bridge")
SMALLEST_PLANE_MIB = 1024
_LOC: Loc = ("clusters", "cloud")
_NO_QUORUM = 2
_POOL = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_CLASS = re.compile(r"(?=.{1,63}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def check_cloud(cloud: CloudSpec) -> Iterator[Finding]:
    """Yield what cannot be, and what is used in place of what is asked for."""
    yield from _check_planes(cloud)
    pools = list(_check_pools(cloud))
    yield from pools
    yield from _check_subnets(cloud)
    yield from _check_add_ons(cloud)
    if not pools and _count(cloud) <= MAX_NODES:
        names = [node.name for node in nodes_of_cloud(cloud)]
        yield from check_expose(cloud.expose, names, "cloud")


def _count(cloud: CloudSpec) -> int:
    pools = cloud.worker_nodes
    lists = pools.values() if isinstance(pools, dict) else [pools]
    return sum(count_of(entry) for entries in lists for entry in entries)


def _check_planes(cloud: CloudSpec) -> Iterator[Finding]:
    loc = (*_LOC, "control_plane")
    if cloud.control_plane.count == _NO_QUORUM:
        yield error_at(
            "found 2: if one of two fails, etcd has no majority and stops; use 1 or 3",
            (*loc, "count"),
        )
    if cloud.control_plane.memory_mib < SMALLEST_PLANE_MIB:
        yield warning_at(
            f"found {cloud.control_plane.memory_mib} MiB; a control plane needs some 800 MiB "
            "before it does anything",
            (*loc, "memory_gb"),
        )


def _check_pools(cloud: CloudSpec) -> Iterator[Finding]:
    if isinstance(cloud.worker_nodes, dict):
        for pool in cloud.worker_nodes:
            if not _POOL.fullmatch(pool):
                yield error_at(
                    f"found {render_value(pool)}; the name of a pool is at most 32 of a-z, 0-9, -",
                    (*_LOC, "worker_nodes", pool),
                )


def _check_subnets(cloud: CloudSpec) -> Iterator[Finding]:
    config = cloud.kubernetes_config
    loc = (*_LOC, "kubernetes_config")
    subnets = [
        ((*loc, "pod_subnet"), config.pods),
        ((*loc, "service_subnet"), config.services),
    ]
    if cloud.network.subnet:
        subnets.append(((*_LOC, "network", "subnet"), cloud.network.subnet))
    for index, (place, subnet) in enumerate(subnets):
        for other, taken in subnets[:index]:
            if subnet.overlaps(taken):
                yield error_at(f"{subnet} overlaps {taken}, which is `{other[-1]}`", place, other)
    if config.pods.prefixlen > POD_PREFIX:
        yield error_at(
            f"{config.pods} is smaller than the /{POD_PREFIX} that each node has",
            (*loc, "pod_subnet"),
        )


def _check_add_ons(cloud: CloudSpec) -> Iterator[Finding]:
    config, loc = cloud.kubernetes_config, (*_LOC, "kubernetes_config")
    if config.cni.lower() not in OWN_CNI:
        yield warning_at(
            f"{config.cni} is not used: Pods are reached by routes between the nodes (CNI's bridge "
            "plugin), and a NetworkPolicy has no effect",
            (*loc, "cni"),
        )
    if config.ingress.lower() not in ("", "none"):
        yield warning_at(
            f"{config.ingress} is not installed: put its manifests into the bundle",
            (*loc, "ingress"),
        )
    if config.default_class and not _CLASS.fullmatch(config.default_class):
        yield error_at(
            f"found {render_value(config.storage_class)}; the name of a storage class is at most "
            "63 of a-z, 0-9, -, and . between them",
            (*loc, "storage_class"),
        )
