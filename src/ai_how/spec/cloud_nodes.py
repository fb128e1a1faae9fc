"""The nodes of a Kubernetes cluster: names, order and what each is asked for."""

import re
from collections.abc import Iterator

from ai_how.errors import SpecError
from ai_how.spec.kubernetes import IMAGE
from ai_how.spec.models import CloudSpec, ClusterFile, WorkerNodeSpec
from ai_how.spec.nodes import Node, compute_node, controller_node, count_of

_CONTROL_PLANE = re.compile(r"control-plane-[0-9]{2}")


def get_cloud(spec: ClusterFile) -> CloudSpec:
    """Raises SpecError where the file has no Kubernetes cluster."""
    if spec.clusters.cloud is None:
        raise SpecError(
            "the file has no clusters.cloud",
            hint="ai-how schema  # the fields of a Kubernetes cluster are under clusters.cloud",
        )
    return spec.clusters.cloud


def control_plane_name(number: int) -> str:
    """Numbers count from 1."""
    return f"control-plane-{number:02d}"


def worker_name(pool: str, number: int) -> str:
    """`worker-01`, or `gpu-worker-01` in the pool gpu. Numbers count from 1 in each pool."""
    return f"{pool}-worker-{number:02d}" if pool else f"worker-{number:02d}"


def is_control_plane(name: str) -> bool:
    """Whether a node of this name runs the control plane."""
    return _CONTROL_PLANE.fullmatch(name) is not None


def pool_of(name: str) -> str:
    """The pool of a worker; empty if it is in none."""
    return name.rpartition("worker-")[0].removesuffix("-")


def nodes_of_cloud(cloud: CloudSpec) -> tuple[Node, ...]:
    """Control planes first, then the workers in the order of the file."""
    image = cloud.base_image_path or IMAGE
    planes = (
        controller_node(control_plane_name(number), cloud.control_plane, image)
        for number in range(1, cloud.control_plane.count + 1)
    )
    workers = (
        compute_node(worker_name(pool, number), spec, image)
        for pool, number, spec in _written_out(cloud)
    )
    return (*planes, *workers)


def _written_out(cloud: CloudSpec) -> Iterator[tuple[str, int, WorkerNodeSpec]]:
    """Each worker with its pool and its number there."""
    pools = cloud.worker_nodes
    for pool, entries in pools.items() if isinstance(pools, dict) else [("", pools)]:
        one_by_one = (entry for entry in entries for _ in range(count_of(entry)))
        for number, entry in enumerate(one_by_one, start=1):
            yield pool, number, entry
