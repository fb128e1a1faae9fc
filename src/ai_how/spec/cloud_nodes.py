"""The nodes of a Kubernetes cluster: names, order and what each is asked for."""

import re
from collections.abc import Iterator

from ai_how.errors import SpecError
from ai_how.spec.models import CloudSpec, ClusterFile, WorkerNodeSpec
from ai_how.spec.node_hardware import NodeHardwareSpec
from ai_how.spec.nodes import Node, Role, count_of, devices_of

KUBERNETES_IMAGE = "kubernetes"
"""The image of the nodes, if the file names no other."""
_CONTROL_PLANE = re.compile(r"control-plane-[0-9]{2}")
_BY_ITSELF = NodeHardwareSpec()


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
    asked = cloud.control_plane
    image = cloud.base_image_path or KUBERNETES_IMAGE
    planes = (
        Node(
            name=control_plane_name(number),
            role=Role.CONTROLLER,
            cpu_cores=asked.cpu_cores,
            memory_mib=asked.memory_mib,
            disk_gib=asked.disk_gb,
            ip=asked.ip_address,
            auto_start=True,
            base_image=asked.base_image_path or image,
            virtio_fs_mounts=asked.virtio_fs_mounts,
            pcie_devices=(),
            vgpu_mdev_uuid=None,
        )
        for number in range(1, asked.count + 1)
    )
    workers = (
        Node(
            name=worker_name(pool, number),
            role=Role.COMPUTE,
            cpu_cores=spec.cpu_cores,
            memory_mib=spec.memory_mib,
            disk_gib=spec.disk_gb,
            ip=spec.ip,
            auto_start=spec.auto_start,
            base_image=spec.base_image_path or image,
            virtio_fs_mounts=spec.virtio_fs_mounts,
            pcie_devices=devices_of(spec),
            vgpu_mdev_uuid=spec.vgpu.mdev_uuid if spec.vgpu else None,
            cards=spec.gpu.cards if spec.gpu else None,
            vgpu=spec.gpu.vgpu if spec.gpu else None,
            hardware=spec.hardware or _BY_ITSELF,
        )
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
