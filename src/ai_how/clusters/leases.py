"""Leases whose VM does not run: after a crash, a kill or a reboot, the devices are put right."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from ai_how.errors import AiHowError, StateError
from ai_how.host.checks import Check, Status
from ai_how.host.place import SYSTEM, resolve_host
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.journal import Journal
from ai_how.state.cluster_state import read_state
from ai_how.state.leases import (
    Lease,
    NodeLease,
    VgpuLease,
    find_damaged,
    read_leases,
    read_vgpu_leases,
)
from ai_how.state.paths import Roots
from ai_how.vm_management.lending import (
    Lender,
    describe_lost,
    is_there,
    read_boot,
    read_driver,
    rebind_command,
)
from ai_how.vm_management.vgpus import VgpuMaker, describe_left, is_left, removal_command, vgpu_of


def settle_leases(lender: Lender, maker: VgpuMaker, roots: Roots, own: UUID | None) -> None:
    """Give back what no VM runs with, of the cluster `own` and of clusters that are gone.

    Their vGPUs are removed. What VMs of another libvirt may run with is left to commands there. Of
    a cluster that is gone it is tried once: later commands do not wait for it.

    The caller holds the lock of its cluster, and no run of it is under way.
    """
    in_use, here = lender.in_use(), lender.client.uri
    for lease in read_leases(lender.leases):
        if lease.host != here or lease.device in in_use:
            continue
        if lease.owner == own or (not lease.is_left and _is_gone(roots, lease)):
            lender.give_back(lease)
        elif lease.is_left:
            lender.forget(lease)
    for vgpu in read_vgpu_leases(maker.leases):
        if vgpu.host != here or vgpu.device in in_use:
            continue
        if vgpu.owner == own or _is_gone(roots, vgpu):
            maker.remove(vgpu)


def _is_gone(roots: Roots, lease: NodeLease) -> bool:
    """Whether the cluster of a lease is no longer there; a first start has only a journal."""
    paths = roots.cluster(lease.cluster)
    try:
        note = Journal.read_note(paths.journal)
        if note and note.get("cluster_id") == str(lease.owner):
            return False
        state = read_state(paths)
    except StateError:
        return False
    return state is None or state.lineage != lease.owner


def check_leases(roots: Roots, machine: Path = Path("/")) -> Iterator[Check]:
    """A warning for each leased device that no VM runs with and that is not back, and what helps.

    So for each vGPU that is left. A host that cannot be asked for its VMs is left out.
    """
    for path in find_damaged(roots.leases):
        advice = f"rm {shlex.quote(str(path))}"
        yield Check("lease", Status.WARNING, f"{path} cannot be read", advice)
    boot, used = read_boot(machine), dict[str, frozenset[str] | None]()

    def is_unused(lease: Lease | VgpuLease) -> bool:
        uri = _uri_of(lease)
        if uri not in used:
            used[uri] = _devices_in_use(uri, roots)
        in_use = used[uri]
        return in_use is not None and lease.device not in in_use

    for lease in read_leases(roots.leases):
        now = read_driver(machine, lease.device)
        if lease.boot != boot or now == lease.driver or not is_there(machine, lease.device):
            continue
        if is_unused(lease):
            advice = rebind_command(lease, now)
            yield Check("lease", Status.WARNING, describe_lost(lease, now), advice)
    for vgpu in read_vgpu_leases(roots.leases):
        if is_left(vgpu, machine) and is_unused(vgpu):
            advice = removal_command(vgpu_of(vgpu))
            yield Check("vgpu", Status.WARNING, describe_left(vgpu), advice)


def _uri_of(lease: NodeLease) -> str:
    """The host that has the VM of a lease, as it is asked for."""
    known = lease.host == SYSTEM or lease.host.startswith("test:")
    return lease.host if known else "embedded"


def _devices_in_use(uri: str, roots: Roots) -> frozenset[str] | None:
    """The devices of all VMs that are on at a host; None if it cannot be asked."""
    try:
        place = resolve_host(uri, roots)
        if not place.is_up:
            return frozenset()
        with LibvirtClient(place.uri) as client:
            return Lender(leases=roots.leases, client=client).in_use()
    except AiHowError:
        return None
