"""Whether this host has what a cluster needs of it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.checks import FIRST_BOOT_BYTES, GIB, QEMU_OVERHEAD_MIB, Check, Status
from ai_how.host.facts import HostFacts


@dataclass(frozen=True, slots=True)
class CapacityRequest:
    """What the next start needs in addition to what is running; disks at their full size."""

    vms: int
    vcpus: int
    memory_mib: int
    disk_bytes: int
    disk_directory: Path
    hugepage_kib: int | None = None  # the guests' memory comes from this pool, not from the rest
    plain_mib: int = 0  # memory of further guests, which comes from the rest in any case


def check_capacity(cost: CapacityRequest, facts: HostFacts) -> list[Check]:
    """What does not fit: too little memory is a failure; few CPUs or a small disk are warnings.

    There is no check for what fits.
    """
    return [
        *_check_hugepages(cost, facts),
        *_check_memory_cost(cost, facts),
        *_check_vcpu_cost(cost, facts),
        *_check_disk_cost(cost, facts),
    ]


def require_capacity(cost: CapacityRequest, facts: HostFacts, *, refused: str) -> None:
    """Raises HostError, which begins with `refused`, if something does not fit on the host."""
    for check in check_capacity(cost, facts):
        if check.status is Status.FAILURE:
            raise HostError(f"{refused}: {check.found}", hint=check.advice)


def _check_memory_cost(cost: CapacityRequest, facts: HostFacts) -> list[Check]:
    if facts.memory is None:
        return []
    from_pool = cost.hugepage_kib is not None
    overhead_mib = cost.vms * QEMU_OVERHEAD_MIB
    needed_mib = overhead_mib + cost.plain_mib + (0 if from_pool else cost.memory_mib)
    if needed_mib <= facts.memory.usable_mib:
        return []
    found = (
        f"{cost.vms} VMs need {needed_mib} MiB ({overhead_mib} MiB of it for QEMU itself), "
        f"{facts.memory.usable_mib} MiB are available"
    )
    return [Check("memory", Status.FAILURE, found, "free -m")]


def _check_hugepages(cost: CapacityRequest, facts: HostFacts) -> list[Check]:
    if cost.hugepage_kib is None:
        return []
    pool = next((pool for pool in facts.hugepages if pool.size_kib == cost.hugepage_kib), None)
    free = pool.free if pool else 0
    total = pool.total if pool else 0
    needed = -(-cost.memory_mib * 1024 // cost.hugepage_kib)
    if needed <= free:
        return []
    pages = f"/sys/kernel/mm/hugepages/hugepages-{cost.hugepage_kib}kB/nr_hugepages"
    return [
        Check(
            "hugepages",
            Status.FAILURE,
            f"{needed} pages of {cost.hugepage_kib} KiB are needed, {free} are free",
            f"echo {total + needed - free} | sudo tee {pages}",
        )
    ]


def _check_vcpu_cost(cost: CapacityRequest, facts: HostFacts) -> list[Check]:
    if facts.cpu is None or cost.vcpus <= facts.cpu.count:
        return []
    found = f"{cost.vcpus} vCPUs share {facts.cpu.count} CPUs: jobs will be slower"
    return [Check("processor", Status.WARNING, found)]


def _check_disk_cost(cost: CapacityRequest, facts: HostFacts) -> list[Check]:
    disk = next((disk for disk in facts.disks if disk.directory == cost.disk_directory), None)
    if disk is None or cost.disk_bytes <= disk.free_bytes:
        return []
    free = f"{disk.free_bytes / GIB:.1f} GiB are free in {disk.directory}"
    advice = f"df -h {shlex.quote(str(disk.directory))}"
    if disk.free_bytes < cost.vms * FIRST_BOOT_BYTES:
        found = f"{cost.vms} VMs cannot even boot: {free}"
        return [Check("disk", Status.FAILURE, found, advice)]
    found = f"the disks may grow to {cost.disk_bytes / GIB:.1f} GiB, {free}: a full disk pauses VMs"
    return [Check("disk", Status.WARNING, found, advice)]
