"""A common view of both kinds of cluster, with the place of each part in the file."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from ai_how.spec.cluster_specs import ClusterSpec
from ai_how.spec.models import ClusterFile, ComputeNodeSpec, HpcSpec
from ai_how.spec.node_specs import NodeResources
from ai_how.spec.nodes import count_of
from ai_how.spec.problems import Loc


@dataclass(frozen=True)
class LocatedNode:
    """A node, or a group of equal nodes."""

    loc: Loc
    spec: NodeResources
    ip: IPv4Address | None
    ip_loc: Loc
    count: int = 1


@dataclass(frozen=True)
class LocatedCluster:
    loc: Loc
    spec: ClusterSpec
    nodes: tuple[LocatedNode, ...]

    @property
    def vm_count(self) -> int:
        return sum(node.count for node in self.nodes)

    @property
    def entries_loc(self) -> Loc:
        return (*self.loc, "compute_nodes" if isinstance(self.spec, HpcSpec) else "worker_nodes")


def clusters_of(file: ClusterFile) -> list[LocatedCluster]:
    clusters = []
    if hpc := file.clusters.hpc:
        loc: Loc = ("clusters", "hpc")
        head = (*loc, "controller")
        first = LocatedNode(head, hpc.controller, hpc.controller.ip_address, (*head, "ip_address"))
        rest = _placed((*loc, "compute_nodes"), hpc.compute_nodes)
        clusters.append(LocatedCluster(loc, hpc, (first, *rest)))
    if cloud := file.clusters.cloud:
        loc = ("clusters", "cloud")
        head = (*loc, "control_plane")
        plane = cloud.control_plane
        first = LocatedNode(head, plane, plane.ip_address, (*head, "ip_address"), count=plane.count)
        workers: list[LocatedNode] = []
        if isinstance(cloud.worker_nodes, dict):
            for pool, entries in cloud.worker_nodes.items():
                workers += _placed((*loc, "worker_nodes", pool), entries)
        else:
            workers += _placed((*loc, "worker_nodes"), cloud.worker_nodes)
        clusters.append(LocatedCluster(loc, cloud, (first, *workers)))
    return clusters


def _placed(loc: Loc, entries: tuple[ComputeNodeSpec, ...]) -> Iterator[LocatedNode]:
    for index, entry in enumerate(entries):
        here = (*loc, index)
        yield LocatedNode(here, entry, entry.ip, (*here, "ip"), count_of(entry))
