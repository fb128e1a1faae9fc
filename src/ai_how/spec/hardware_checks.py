"""Checks between a cluster's hardware, its nodes and their devices."""

from collections.abc import Iterator

from ai_how.spec.hardware import AccelerationSpec
from ai_how.spec.models import ComputeNodeSpec, HpcSpec
from ai_how.spec.nodes import cpu_topology_for, devices_of, numa_topology_for
from ai_how.spec.problems import Finding, Loc, error_at, render_path, warning_at
from ai_how.spec.view import LocatedCluster, LocatedNode

_MIB_PER_HUGEPAGE = {"2M": 2, "1G": 1024}
_MODELS_OF_KVM = ("host", "host-passthrough", "host-model")


def check_hardware(cluster: LocatedCluster) -> Iterator[Finding]:
    loc = (*cluster.loc, "hardware", "acceleration")
    asked = cluster.spec.hardware.acceleration
    yield from _check_kvm(asked, loc)
    yield from _check_topologies(cluster, asked, loc)
    yield from _check_hugepages(cluster, asked, (*loc, "performance"))
    features: dict[str, int] = {}
    for index, feature in enumerate(asked.cpu_features):
        here = (*loc, "cpu_features", index)
        name = feature.lstrip("+-")
        if (first := features.setdefault(name, index)) != index:
            text = f"'{name}' is also {render_path((*here[:-1], first))}"
            yield error_at(text, here)


def _check_kvm(asked: AccelerationSpec, loc: Loc) -> Iterator[Finding]:
    kvm = (*loc, "enable_kvm")
    if asked.enable_kvm:
        return
    if asked.enable_nested:
        yield error_at("needs KVM, which `enable_kvm: false` forbids", (*loc, "enable_nested"), kvm)
    if asked.cpu_model in _MODELS_OF_KVM:
        yield error_at(
            f"'{asked.cpu_model}' needs KVM, which `enable_kvm: false` forbids; use maximum",
            (*loc, "cpu_model"),
            kvm,
        )


def _check_topologies(
    cluster: LocatedCluster, asked: AccelerationSpec, loc: Loc
) -> Iterator[Finding]:
    """Hardware is set for the cluster: an error if it fits no node, a warning if it fits some."""
    if cpu := asked.cpu_topology:
        fitting = [bool(cpu_topology_for(cpu, n.spec.cpu_cores)) for n in cluster.nodes]
        text = f"{cpu.sockets} x {cpu.cores} x {cpu.threads} is {cpu.cpus} vCPUs, not the cpu_cores"
        yield from _misfits(cluster, fitting, text, (*loc, "cpu_topology"))
    if numa := asked.numa_topology:
        fitting = [
            bool(numa_topology_for(numa, n.spec.cpu_cores, n.spec.memory_mib))
            for n in cluster.nodes
        ]
        text = f"{numa.nodes} NUMA nodes do not divide the cpu_cores and memory_gb"
        yield from _misfits(cluster, fitting, text, (*loc, "numa_topology"))


def _misfits(
    cluster: LocatedCluster, fitting: list[bool], text: str, loc: Loc
) -> Iterator[Finding]:
    misfits = [node.loc for node, fits in zip(cluster.nodes, fitting, strict=True) if not fits]
    if len(misfits) == len(fitting):
        yield error_at(f"{text} of any node", loc, *misfits)
    elif misfits:
        names = ", ".join(render_path(misfit[2:]) for misfit in misfits)
        yield warning_at(f"{text} of {names}; the default is used there", loc, *misfits)


def _check_hugepages(
    cluster: LocatedCluster, asked: AccelerationSpec, loc: Loc
) -> Iterator[Finding]:
    performance = asked.performance
    size_loc = (*loc, "hugepage_size")
    if not performance.wants_hugepages:
        if performance.hugepage_size != "2M":
            yield warning_at("has no effect unless enable_hugepages is true", size_loc)
        return
    if "enable_hugepages" in performance.model_fields_set and not performance.enable_hugepages:
        yield error_at(
            "found hugepages, but enable_hugepages is false",
            (*loc, "memory_backing"),
            (*loc, "enable_hugepages"),
        )
    page_mib = _MIB_PER_HUGEPAGE[performance.hugepage_size]
    for node in cluster.nodes:
        own = node.spec.hardware if isinstance(node.spec, ComputeNodeSpec) else None
        if own and own.hugepages is False:
            continue
        if node.spec.memory_mib % page_mib:
            yield error_at(
                f"found {node.spec.memory_mib} MiB; "
                f"huge pages of {performance.hugepage_size} need a multiple of {page_mib} MiB",
                (*node.loc, "memory_gb"),
                loc,
            )


def check_devices(cluster: LocatedCluster) -> Iterator[Finding]:
    """A device belongs to one node; a device that is listed but not passed through is reported."""
    owners: dict[str, Loc] = {}
    for node in cluster.nodes:
        if not isinstance(node.spec, ComputeNodeSpec):
            continue
        yield from _check_passthrough(node.spec, (*node.loc, "pcie_passthrough"))
        used = [
            (f"the PCI device {device.pci_address}", (*_devices(node), index, "pci_address"))
            for index, device in enumerate(devices_of(node.spec))
        ]
        if node.spec.vgpu:
            used.append((f"the vGPU {node.spec.vgpu.mdev_uuid}", (*node.loc, "vgpu", "mdev_uuid")))
        for what, loc in used:
            if node.count > 1:
                yield error_at(f"{node.count} nodes cannot all have {what}", loc)
            if first := owners.get(what):
                yield error_at(f"{what} is also {render_path(first)}", loc, first)
            owners.setdefault(what, loc)


def _devices(node: LocatedNode) -> Loc:
    return (*node.loc, "pcie_passthrough", "devices")


def _check_passthrough(spec: ComputeNodeSpec, loc: Loc) -> Iterator[Finding]:
    asked = spec.pcie_passthrough
    if asked is None:
        return
    if asked.enabled and not asked.devices:
        yield error_at("is true, but `devices` lists none", (*loc, "enabled"), (*loc, "devices"))
    if asked.devices and not asked.enabled:
        yield warning_at(
            "are not passed through: `enabled` is not true", (*loc, "devices"), (*loc, "enabled")
        )


def check_node_hardware(cluster: LocatedCluster) -> Iterator[Finding]:
    """What goes with devices of the host, on nodes that have some; and what excludes what."""
    for node in cluster.nodes:
        if not isinstance(node.spec, ComputeNodeSpec) or node.spec.hardware is None:
            continue
        asked, loc = node.spec.hardware, (*node.loc, "hardware")
        gpu = node.spec.gpu
        has_pci = bool(devices_of(node.spec) or (gpu and gpu.cards))
        if not has_pci and not node.spec.vgpu and not (gpu and gpu.vgpu):
            yield warning_at("has no effect: the node has no device of the host", loc)
        elif not has_pci:
            for key in ("rom", "rom_file"):
                if key in asked.model_fields_set:
                    yield warning_at("has no effect: a vGPU has no ROM", (*loc, key))
        if not asked.rom and asked.rom_file:
            yield error_at(
                "a ROM that the guest does not see needs no file; remove one of them",
                (*loc, "rom_file"),
                (*loc, "rom"),
            )
        if asked.hugepages and node.spec.memory_mib % _MIB_PER_HUGEPAGE["2M"]:
            yield error_at(
                f"found {node.spec.memory_mib} MiB; huge pages need a multiple of 2 MiB",
                (*node.loc, "memory_gb"),
                (*loc, "hugepages"),
            )


def check_mounts(cluster: LocatedCluster) -> Iterator[Finding]:
    mounting = [node for node in cluster.nodes if node.spec.virtio_fs_mounts]
    for node in mounting:
        for key in ("tag", "mount_point"):
            yield from _check_unique(node, key)
        yield from _check_read_only(node)
    if isinstance(cluster.spec, HpcSpec):
        yield from _check_sharing(cluster.spec, cluster.loc, mounting)


def _check_unique(node: LocatedNode, key: str) -> Iterator[Finding]:
    seen: dict[str, Loc] = {}
    for index, mount in enumerate(node.spec.virtio_fs_mounts):
        loc = (*node.loc, "virtio_fs_mounts", index, key)
        value = getattr(mount, key)
        if (first := seen.setdefault(value, loc)) != loc:
            yield error_at(f"'{value}' is also {render_path(first)}", loc, first)


def _check_read_only(node: LocatedNode) -> Iterator[Finding]:
    for index, mount in enumerate(node.spec.virtio_fs_mounts):
        for key in ("owner", "group", "mode"):
            if mount.is_read_only and getattr(mount, key) is not None:
                yield warning_at(
                    "has no effect, because the share is read-only; set it on the host",
                    (*node.loc, "virtio_fs_mounts", index, key),
                )


def _check_sharing(hpc: HpcSpec, loc: Loc, mounting: list[LocatedNode]) -> Iterator[Finding]:
    enabled_loc = (*loc, "storage", "virtio_fs", "enabled")
    enabled = hpc.storage.virtio_fs.enabled
    if enabled and not mounting:
        yield warning_at("is true, but no node has virtio_fs_mounts", enabled_loc)
    if enabled is False and mounting:
        names = ", ".join(render_path(node.loc[2:]) for node in mounting)
        yield warning_at(f"is false: the virtio_fs_mounts of {names} are ignored", enabled_loc)
    if hpc.storage.home != "nfs" or enabled is False:
        return
    for node in mounting:
        for index, mount in enumerate(node.spec.virtio_fs_mounts):
            if mount.mount_point == "/home":
                yield error_at(
                    "/home is the shared home; use another mount point, or `home: none`",
                    (*node.loc, "virtio_fs_mounts", index, "mount_point"),
                    (*loc, "storage", "home"),
                )
