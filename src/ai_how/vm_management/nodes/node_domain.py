"""From a node that was asked for, and its place on a host, to the VM that it becomes (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from uuid import UUID

from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.facts import Mark, Owner
from ai_how.spec.hardware import AccelerationSpec, PerformanceSpec
from ai_how.spec.identity import mac_address, object_uuid
from ai_how.spec.models import HardwareSpec
from ai_how.spec.nodes import Node, cpu_topology_for, numa_topology_for
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    CpuDefinition,
    CpuFeature,
    CpuMode,
    CpuTopology,
    DirectKernel,
    DiskCache,
    DomainDefinition,
    MemoryBacking,
    NumaCell,
    PciAddress,
    VcpuPin,
    VirtioFsShare,
)

HUGEPAGE_KIB = {"2M": 2048, "1G": 1048576}

# Without AVX and five-level paging, which cost more to emulate than they save, a guest boots with a
# quarter less of the host's CPU (15 s against 20 s to the agent; QEMU 7.2, trixie).
EMULATED_MODEL = "Nehalem"

# What the file calls a CPU, and what KVM makes of it; anything else is the name of a model.
_HOST_MODES = {
    None: CpuMode.HOST_PASSTHROUGH,
    "host": CpuMode.HOST_PASSTHROUGH,
    "host-passthrough": CpuMode.HOST_PASSTHROUGH,
    "host-model": CpuMode.HOST_MODEL,
    "maximum": CpuMode.MAXIMUM,
}

Pins = tuple[VcpuPin, ...]


@dataclass(frozen=True, slots=True)
class HostFeatures:
    """What a host gives to every VM on it."""

    accel: Accel
    virtualization: str | None  # the CPU flag: vmx or svm
    disk_cache: DiskCache = DiskCache.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlacement:
    """Where on its host a node is: its files, its network, its CPUs."""

    network: str
    disk: Path
    backing_chain: tuple[Path, ...]
    console_log: Path
    boot: DirectKernel | None  # None: by firmware
    pins: Pins = ()
    owner: Owner | None = None
    kind: str | None = None
    """Of the cluster, as its mark has it."""


def define_domain(
    node: Node,
    cluster: str,
    hardware: HardwareSpec,
    *,
    cluster_id: UUID,
    placement: NodePlacement,
    host: HostFeatures,
) -> DomainDefinition:
    """The VM of a node. UUID, MAC address and generation id follow from the cluster's id.

    Raises SpecError where what was asked for contradicts itself, HostError where the host has not
    got it.
    """
    asked = hardware.acceleration
    accel = host.accel if asked.enable_kvm else Accel.TCG
    return DomainDefinition(
        mark=Mark(cluster, cluster_id, node.name, placement.owner, placement.kind),
        name=node.domain_name(cluster),
        uuid=object_uuid(cluster_id, f"domain/{node.name}"),
        genid=object_uuid(cluster_id, f"genid/{node.name}"),
        title=f"{node.name} of the cluster {cluster}",
        memory_mib=node.memory_mib,
        vcpus=node.cpu_cores,
        accel=accel,
        cpu=_cpu(node, asked, accel, host.virtualization),
        disk=placement.disk,
        backing_chain=placement.backing_chain,
        network=placement.network,
        mac=mac_address(cluster_id, node.name),
        console_log=placement.console_log,
        boot=placement.boot,
        disk_cache=host.disk_cache,
        memory_backing=_memory_backing(asked.performance, is_shared=bool(node.virtio_fs_mounts)),
        pins=placement.pins,
        shares=tuple(
            VirtioFsShare(Path(mount.host_path), mount.tag) for mount in node.virtio_fs_mounts
        ),
        pci_devices=tuple(PciAddress.parse(device.pci_address) for device in node.pcie_devices),
        mdevs=(node.vgpu_mdev_uuid,) if node.vgpu_mdev_uuid else (),
    )


def pin_nodes(
    hardware: HardwareSpec, nodes: Iterable[Node], host_cpus: Sequence[int]
) -> dict[str, Pins]:
    """The pins of each node; none where the file does not ask for them."""
    if not hardware.acceleration.performance.cpu_pinning:
        return {node.name: () for node in nodes}
    return pin_cpus(host_cpus, {node.name: node.cpu_cores for node in nodes})


def pin_cpus(host_cpus: Sequence[int], demands: Mapping[str, int]) -> dict[str, Pins]:
    """One host CPU for each vCPU, none of them twice.

    The highest are taken, so that the first, on which a host likes to run its own work, stay free
    as long as they can. Raises HostError where there are too few.
    """
    needed = sum(demands.values())
    free = sorted(set(host_cpus))
    if needed > len(free):
        raise HostError(
            f"pinning takes {needed} CPUs, one for each vCPU, and this host has {len(free)} for it",
            details="\n".join(f"{name}: {vcpus} vCPUs" for name, vcpus in demands.items()),
            hint="set clusters.hpc.hardware.acceleration.performance.cpu_pinning to false",
        )
    supply = iter(free[len(free) - needed :])
    return {
        name: tuple(VcpuPin(vcpu, str(next(supply))) for vcpu in range(vcpus))
        for name, vcpus in demands.items()
    }


def _cpu(
    node: Node, asked: AccelerationSpec, accel: Accel, virtualization: str | None
) -> CpuDefinition:
    mode, model = _cpu_mode(asked.cpu_model, accel)
    topology = cpu_topology_for(asked.cpu_topology, node.cpu_cores)
    return CpuDefinition(
        mode=mode,
        model=model,
        topology=(
            CpuTopology(topology.sockets, topology.cores, topology.threads)
            if topology
            else CpuTopology(1, node.cpu_cores, 1)
        ),
        features=_cpu_features(asked, accel, virtualization),
        numa=_numa_cells(node, asked),
    )


def _cpu_mode(asked: str | None, accel: Accel) -> tuple[CpuMode, str | None]:
    if asked not in _HOST_MODES:
        return CpuMode.CUSTOM, asked
    if accel is Accel.KVM:
        return _HOST_MODES[asked], None
    if asked is None:
        return CpuMode.CUSTOM, EMULATED_MODEL
    # An emulated CPU has nothing of the host's: the most that QEMU can emulate is the like of it.
    return CpuMode.MAXIMUM, None


def _cpu_features(
    asked: AccelerationSpec, accel: Accel, virtualization: str | None
) -> tuple[CpuFeature, ...]:
    words = list(asked.cpu_features)
    if asked.enable_nested:
        if accel is not Accel.KVM or virtualization is None:
            raise HostError(
                "guests cannot run virtual machines themselves on this host",
                details="enable_nested needs KVM, and a CPU with vmx or svm",
                hint="set clusters.hpc.hardware.acceleration.enable_nested to false",
            )
        words.append(f"+{virtualization}")
    features: dict[str, CpuFeature] = {}
    for word in words:
        feature = CpuFeature(word.lstrip("+-"), is_required=not word.startswith("-"))
        if features.setdefault(feature.name, feature) != feature:
            raise SpecError(f"the CPU feature {feature.name} is both required and taken away")
    return tuple(features.values())


def _numa_cells(node: Node, asked: AccelerationSpec) -> tuple[NumaCell, ...]:
    """Memory and CPUs split evenly; the first cells get the CPUs that are left over."""
    numa = numa_topology_for(asked.numa_topology, node.cpu_cores, node.memory_mib)
    if numa is None:
        return ()
    each, left_over = divmod(node.cpu_cores, numa.nodes)
    starts = [number * each + min(number, left_over) for number in range(numa.nodes + 1)]
    return tuple(
        NumaCell(_cpu_range(first, last - 1), node.memory_mib // numa.nodes)
        for first, last in pairwise(starts)
    )


def _cpu_range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _memory_backing(asked: PerformanceSpec, *, is_shared: bool) -> MemoryBacking:
    return MemoryBacking(
        hugepage_kib=HUGEPAGE_KIB[asked.hugepage_size] if asked.wants_hugepages else None,
        is_memfd=is_shared or asked.memory_backing == "memfd",
        is_shared=is_shared,
    )
