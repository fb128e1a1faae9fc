"""Checks before a start that the host has enough memory, disk and devices."""

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.preflight.devices import check_devices
from ai_how.clusters.preflight.existing_cluster import check_resumable
from ai_how.clusters.preflight.vgpus import check_mdevs
from ai_how.errors import (
    ConnectionLostError,
    HostError,
    LibvirtError,
    SpecError,
)
from ai_how.host.capacity_checks import CapacityRequest, check_capacity
from ai_how.host.checks import Status, check_tun
from ai_how.host.facts import read_resources
from ai_how.host.place import HypervisorHost
from ai_how.images.manifest import Image
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.step import Plan
from ai_how.spec.hardware import HardwareSpec
from ai_how.spec.nodes import Node
from ai_how.state.models import ClusterState
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import GIB, DiskNeed, check_space, overlay_need
from ai_how.vm_management.nodes.device_hardware import PLAIN, DeviceHardware
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.vm_management.nodes.host_checks import check_shares
from ai_how.vm_management.nodes.node_domain import HUGEPAGE_KIB
from ai_how.vm_management.saved_machines.store import SavedMachines
from ai_how.vm_management.steps.disks import PlaceBase
from ai_how.vm_management.steps.domains import RestoreDomain, StartDomain

STATE_RESERVE_BYTES = 256 * 2**20
MACHINE, ARCHITECTURE = "q35", "x86_64"  # as in the template of every VM
Warn = Callable[[str], None]


def require_hypervisor(client: LibvirtClient, accel: Accel) -> None:
    """Raises HostError if libvirt has no working QEMU for our machine type."""
    try:
        client.domain_capabilities_xml(accel.domain_type, MACHINE, ARCHITECTURE)
    except ConnectionLostError:
        raise
    except LibvirtError as error:
        raise HostError(
            f"libvirt has no QEMU for {ARCHITECTURE} guests of machine type {MACHINE}",
            details=error.details,
            hint="qemu-system-x86_64 --version && ai-how doctor",
        ) from error


def check_host(
    desired: DesiredCluster,
    plan: Plan,
    seen: Observed,
    place: HypervisorHost,
    images: Mapping[str, Image],
    warn: Warn,
    *,
    machine: Path = Path("/"),
) -> None:
    """Raises HostError if the host lacks something that the plan needs; warns if it is scarce."""
    booted = {step.domain for step in plan.steps if isinstance(step, StartDomain)}
    off = [one for _, one in desired.nodes if one.domain_name in booted and not seen.is_on(one)]
    nodes = [node for node, _ in desired.nodes]
    facts = read_resources(directories=(place.storage.root,))
    started = {one.name for one in off}
    unstarted = [node.name for node in nodes if node.name not in started]
    checks = check_devices(nodes, desired.functions, facts, unstarted=unstarted, machine=machine)
    checks += check_mdevs(nodes, machine)
    checks += check_shares(nodes, place)
    cost = capacity_request(
        [node for node in nodes if node.name in started],
        desired.device_hardware,
        desired.section.hardware,
        place.storage.root,
    )
    if place.runs_guests:
        checks += check_capacity(cost, facts)
    if off and place.has_private_network:
        checks += check_tun(facts)
    failures = [check for check in checks if check.status is Status.FAILURE]
    if failures:
        first = failures[0]
        raise HostError(
            # Of a device, "it" is said.
            f"{first.name}: {first.found}" if first.name.startswith("pci ") else first.found,
            details="\n".join(f"{check.name}: {check.found}" for check in failures[1:]) or None,
            hint=first.advice,
        )
    for check in checks:
        if check.status is Status.WARNING:
            warn(f"{check.name}: {check.found}")
    _check_disks(desired, plan, seen, place, images, warn)


def capacity_request(
    nodes: Sequence[Node],
    device_hardware: Mapping[str, DeviceHardware],
    hardware: HardwareSpec,
    directory: Path,
    *,
    disk_bytes: int = 0,
) -> CapacityRequest:
    """What these nodes need; huge pages that were chosen for a node were counted then."""
    asked = hardware.acceleration.performance
    others = [
        node for node in nodes if not device_hardware.get(node.name, PLAIN).placement.hugepage_kib
    ]
    plain = [node for node in others if asked.wants_hugepages and node.hardware.hugepages is False]
    return CapacityRequest(
        vms=len(nodes),
        vcpus=sum(node.cpu_cores for node in nodes),
        memory_mib=sum(node.memory_mib for node in others if node not in plain),
        plain_mib=sum(node.memory_mib for node in plain),
        disk_bytes=disk_bytes,
        disk_directory=directory,
        hugepage_kib=HUGEPAGE_KIB[asked.hugepage_size] if asked.wants_hugepages else None,
    )


def _memory_needs(plan: Plan, machines: SavedMachines) -> list[DiskNeed]:
    """The copies of saved memory; each exists while its node is restored."""
    return [
        DiskNeed(f"memory of {step.node}", size, size)
        for step in plan.steps
        if isinstance(step, RestoreDomain) and (one := machines.find(step.saved.key))
        for size in (one.manifest.memory_bytes,)
    ]


def _check_disks(
    desired: DesiredCluster,
    plan: Plan,
    seen: Observed,
    place: HypervisorHost,
    images: Mapping[str, Image],
    warn: Warn,
) -> None:
    """Raises HostError if there is no room for new disks, or for paused guests to continue."""
    disks = DiskManager(place.storage)
    check_resumable(desired.state, seen, disks)
    booted = {step.domain for step in plan.steps if isinstance(step, StartDomain)}
    for one in desired.state.nodes:
        if one.domain_name in booted and one.name in seen.disks and not seen.is_on(one):
            disks.check_disk(one.disk, place.storage.base(one.image_digest))
    new = [one for _, one in desired.nodes if one.name not in seen.disks]
    for one in new:
        smallest_gib = -(-images[one.image_digest].manifest.virtual_size_bytes // GIB)
        if one.disk_gib < smallest_gib:
            raise SpecError(
                f"a disk of {one.disk_gib} GiB is too small for {one.name}",
                details=f"its image has {smallest_gib} GiB",
                hint=f"disk_gb: {smallest_gib}",
            )
    needs = [overlay_need(one.name, one.disk_gib) for one in new]
    needs += [
        disks.base_need(images[step.digest]) for step in plan.steps if isinstance(step, PlaceBase)
    ]
    needs += _memory_needs(plan, SavedMachines(place.storage))
    if any(need.thin_bytes for need in needs):
        found = check_space(needs, free_bytes=disks.free_bytes(), reserve_bytes=STATE_RESERVE_BYTES)
        if found.warning:
            warn(found.warning)


def check_memory_fits(
    place: HypervisorHost, state: ClusterState, seen: Observed, client: LibvirtClient
) -> None:
    """Raises HostError if the file system has no room for the memory of all running nodes.

    libvirt saves at most what each QEMU uses now.
    """
    on = {one.uuid: one for one in state.nodes if seen.is_on(one)}
    stats = client.stats(on)
    sizes = {
        one.name: (stats[uuid].memory_rss_mib if uuid in stats else None) or one.memory_mib
        for uuid, one in on.items()
    }
    there = place.saved_memory
    free_mib = shutil.disk_usage(there).free // 2**20
    needed_mib = sum(sizes.values())
    if needed_mib + RESERVE_MIB > free_mib:
        raise HostError(
            f"the memory of {state.name} needs {needed_mib} MiB; {free_mib} MiB are free",
            details="\n".join(f"{name}: {mib} MiB" for name, mib in sizes.items()),
            hint=f"df -h {shlex.quote(str(there))}",
        )


# Kept free for state, logs and the guests' last writes.
RESERVE_MIB = 256
