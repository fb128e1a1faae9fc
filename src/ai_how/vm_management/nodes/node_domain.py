"""Converts a node of the cluster file and its placement to the definition of its VM (pure)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from ai_how.errors import HostError, SpecError
from ai_how.guest.base_identity import LOGIN_ID
from ai_how.host.share_server import SharedAs, script_of
from ai_how.libvirt_client.facts import Mark, Owner
from ai_how.libvirt_client.host_devices import PciAddress
from ai_how.spec.hardware import AccelerationSpec, PerformanceSpec, VirtioFsMount
from ai_how.spec.identity import mac_address, object_uuid
from ai_how.spec.models import HardwareSpec
from ai_how.spec.nodes import Node, cpu_topology_for, numa_topology_for
from ai_how.vm_management.nodes.device_hardware import PLAIN, DeviceHardware
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
    NumaBinding,
    NumaCell,
    VcpuPin,
    VirtioFsShare,
)
from ai_how.vm_management.vgpus import Vgpu

HUGEPAGE_KIB = {"2M": 2048, "1G": 1048576}

# AVX and five-level paging cost more to emulate than they save. Without them, a guest boots with
# 25 % less CPU time of the host (15 s instead of 20 s until the agent answers; QEMU 7.2, trixie).
EMULATED_MODEL = "Nehalem"

# `cpu_model` of the file, and the CPU mode with KVM; any other value is the name of a model.
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
    """The properties of a host that affect every VM on it."""

    accel: Accel
    virtualization: str | None  # the CPU feature: vmx or svm
    disk_cache: DiskCache = DiskCache.NONE
    maps_shares: bool = False
    """Whether our own program serves shares there, and the host's user is the login account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlacement:
    """The resources of a node on its host: its files, network and CPUs."""

    network: str
    disk: Path
    backing_chain: tuple[Path, ...]
    console_log: Path
    boot: DirectKernel | None  # None: the firmware boots its disk
    is_uefi: bool = False
    has_screen: bool = False
    pins: Pins = ()
    device_hardware: DeviceHardware = PLAIN
    cards: tuple[str, ...] = ()  # the addresses of all functions of its cards
    vgpu: Vgpu | None = None  # the one that is made for it
    login: str = ""
    owner: Owner | None = None
    kind: str | None = None
    """The kind of the cluster, as in its mark."""


def define_domain(
    node: Node,
    cluster: str,
    hardware: HardwareSpec,
    *,
    cluster_id: UUID,
    placement: NodePlacement,
    host: HostFeatures,
) -> DomainDefinition:
    """The definition of a node's VM. UUID, MAC address and genid derive from the cluster's id.

    Raises SpecError if the file contradicts itself, HostError if the host lacks a feature.
    """
    acceleration = hardware.acceleration
    accel = host.accel if acceleration.enable_kvm else Accel.TCG
    vgpu, chosen = placement.vgpu, placement.device_hardware
    where = chosen.placement
    return DomainDefinition(
        mark=Mark(cluster, cluster_id, node.name, placement.owner, placement.kind),
        name=node.domain_name(cluster),
        uuid=object_uuid(cluster_id, f"domain/{node.name}"),
        genid=object_uuid(cluster_id, f"genid/{node.name}"),
        title=f"{node.name} of the cluster {cluster}",
        memory_mib=node.memory_mib,
        vcpus=node.cpu_cores,
        accel=accel,
        cpu=_cpu(
            node, acceleration, accel, host.virtualization, is_roomy=chosen.window_gib is not None
        ),
        disk=placement.disk,
        backing_chain=placement.backing_chain,
        network=placement.network,
        mac=mac_address(cluster_id, node.name),
        console_log=placement.console_log,
        boot=placement.boot,
        is_uefi=placement.is_uefi,
        has_screen=placement.has_screen,
        disk_cache=host.disk_cache,
        memory_backing=_memory_backing(node, acceleration.performance, where.hugepage_kib),
        pins=placement.pins,
        shares=tuple(_shares(node, placement.login, maps_shares=host.maps_shares)),
        pci_devices=_addresses(
            (*placement.cards, *(device.pci_address for device in node.pcie_devices))
        ),
        vfs=(PciAddress.parse(vgpu.parent),) if vgpu and vgpu.uuid is None else (),
        mdevs=tuple(uuid for uuid in (node.vgpu_mdev_uuid, vgpu and vgpu.uuid) if uuid),
        numa=None if where.numa_node is None else NumaBinding(where.numa_node, where.is_strict),
        pci_window_gib=chosen.window_gib,
        has_balloon=node.hardware.balloon or not node.has_host_devices,
        hides_roms=not node.hardware.rom,
        rom_file=Path(node.hardware.rom_file) if node.hardware.rom_file else None,
        graphics=_addresses(chosen.graphics),
    )


def _addresses(texts: Iterable[str]) -> tuple[PciAddress, ...]:
    return tuple(PciAddress.parse(text) for text in texts)


def _shares(node: Node, login: str, *, maps_shares: bool) -> Iterator[VirtioFsShare]:
    for mount in node.virtio_fs_mounts:
        server = _server_of(mount, login) if maps_shares else None
        yield VirtioFsShare(Path(mount.host_path), mount.tag, server)


def _server_of(mount: VirtioFsMount, login: str) -> Path:
    owner = mount.owner_for(login)
    if owner in (None, login, str(LOGIN_ID)):
        shared_as = SharedAs.LOGIN
    else:
        shared_as = SharedAs.ROOT if owner in ("root", "0") else SharedAs.OTHER
    return script_of(shared_as, is_read_only=mount.is_read_only)


def pin_nodes(
    hardware: HardwareSpec,
    nodes: Iterable[Node],
    host_cpus: Sequence[int],
    placed: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> dict[str, Pins]:
    """The pins of each node; none unless the file sets `cpu_pinning`, or it is `placed` on CPUs."""
    fixed = {
        name: tuple(VcpuPin(vcpu, str(cpu)) for vcpu, cpu in enumerate(cpus))
        for name, cpus in placed.items()
        if cpus
    }
    others = {node.name: node.cpu_cores for node in nodes if node.name not in fixed}
    if not hardware.acceleration.performance.cpu_pinning:
        return fixed | dict.fromkeys(others, ())
    taken = {cpu for cpus in placed.values() for cpu in cpus}
    return fixed | pin_cpus([cpu for cpu in host_cpus if cpu not in taken], others)


def pin_cpus(host_cpus: Sequence[int], demands: Mapping[str, int]) -> dict[str, Pins]:
    """Assign one host CPU to each vCPU, none twice.

    The highest CPUs are assigned first: hosts tend to run their own work on the first ones. Raises
    HostError if there are too few.
    """
    needed = sum(demands.values())
    free = sorted(set(host_cpus))
    if needed > len(free):
        raise HostError(
            f"pinning needs {needed} CPUs, one for each vCPU, and this host has {len(free)} for it",
            details="\n".join(f"{name}: {vcpus} vCPUs" for name, vcpus in demands.items()),
            hint="set hardware.acceleration.performance.cpu_pinning to false",
        )
    supply = iter(free[len(free) - needed :])
    return {
        name: tuple(VcpuPin(vcpu, str(next(supply))) for vcpu in range(vcpus))
        for name, vcpus in demands.items()
    }


def _cpu(
    node: Node,
    acceleration: AccelerationSpec,
    accel: Accel,
    virtualization: str | None,
    *,
    is_roomy: bool,
) -> CpuDefinition:
    """`is_roomy`: large devices need more addresses than QEMU gives to a CPU by its model."""
    mode, model = choose_cpu_mode(acceleration.cpu_model, accel)
    topology = cpu_topology_for(acceleration.cpu_topology, node.cpu_cores)
    return CpuDefinition(
        mode=mode,
        model=model,
        topology=(
            CpuTopology(topology.sockets, topology.cores, topology.threads)
            if topology
            else CpuTopology(1, node.cpu_cores, 1)
        ),
        features=_cpu_features(acceleration, accel, virtualization),
        numa=_numa_cells(node, acceleration),
        has_host_address_bits=is_roomy
        and accel is Accel.KVM
        and mode in (CpuMode.HOST_MODEL, CpuMode.CUSTOM),
    )


def choose_cpu_mode(cpu_model: str | None, accel: Accel) -> tuple[CpuMode, str | None]:
    """libvirt's mode and model for the `cpu_model` of a file; None is the best there is."""
    if cpu_model not in _HOST_MODES:
        return CpuMode.CUSTOM, cpu_model
    if accel is Accel.KVM:
        return _HOST_MODES[cpu_model], None
    if cpu_model is None:
        return CpuMode.CUSTOM, EMULATED_MODEL
    # An emulated CPU cannot be the host's: the nearest is the maximum that QEMU can emulate.
    return CpuMode.MAXIMUM, None


def _cpu_features(
    acceleration: AccelerationSpec, accel: Accel, virtualization: str | None
) -> tuple[CpuFeature, ...]:
    words = list(acceleration.cpu_features)
    if acceleration.enable_nested:
        if accel is not Accel.KVM or virtualization is None:
            raise HostError(
                "this host does not support nested virtualization",
                details="enable_nested needs KVM, and a CPU with vmx or svm",
                hint="set hardware.acceleration.enable_nested to false",
            )
        words.append(f"+{virtualization}")
    features: dict[str, CpuFeature] = {}
    for word in words:
        feature = CpuFeature(word.lstrip("+-"), is_required=not word.startswith("-"))
        if features.setdefault(feature.name, feature) != feature:
            raise SpecError(f"the CPU feature {feature.name} is both required and disabled")
    return tuple(features.values())


def _numa_cells(node: Node, acceleration: AccelerationSpec) -> tuple[NumaCell, ...]:
    """Memory and CPUs split evenly; the first cells get the remaining CPUs."""
    numa = numa_topology_for(acceleration.numa_topology, node.cpu_cores, node.memory_mib)
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


def _memory_backing(
    node: Node, performance: PerformanceSpec, chosen_kib: int | None
) -> MemoryBacking:
    """`chosen_kib` is the size of the huge pages that were chosen for this node, if any were."""
    from_cluster = performance.wants_hugepages and node.hardware.hugepages is not False
    is_shared = bool(node.virtio_fs_mounts)
    return MemoryBacking(
        hugepage_kib=chosen_kib
        or (HUGEPAGE_KIB[performance.hugepage_size] if from_cluster else None),
        is_memfd=is_shared or performance.memory_backing == "memfd",
        is_shared=is_shared,
    )
