"""Checks of an existing cluster before a start: what changed, and what was lost."""

import shlex
from collections.abc import Iterator
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.errors import HostError, ImageError, SpecError
from ai_how.images.catalogue import ImageCatalogue
from ai_how.state.models import ClusterState
from ai_how.state.owned_directory import is_same_file
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.networks.definition import define_network
from ai_how.vm_management.networks.drift import find_drift

MIB = 1 << 20
RESUMABLE_BYTES = 64 * MIB  # enough for a guest to continue for a while


def find_disk_directory(
    storage: StoragePaths, cluster: str, cluster_id: UUID, previous: ClusterState | None
) -> bool:
    """Whether the cluster has its disk directory, in a storage that is safe to use.

    Raises HostError if a cluster that was up lost it: its file system may not be mounted.
    """
    disks = DiskManager(storage)
    disks.check_storage()
    is_there = disks.is_claimed(cluster, cluster_id)
    if previous and not is_there and previous.was_up:
        raise HostError(
            f"the disks of {cluster} are gone",
            details=f"{storage.cluster(cluster)} does not exist. Is its file system mounted?",
            hint=f"findmnt -T {shlex.quote(str(storage.root))}"
            f"  # or, if lost: ai-how {previous.kind} destroy",
        )
    return is_there


def refuse_moved(state: ClusterState, storage: StoragePaths) -> None:
    """Raises HostError if the disks were moved or copied here from the path in the state.

    Overlays and VMs contain absolute paths, so the old path must lead here.
    """
    for node in state.nodes:
        here = storage.disk(state.name, node.name)
        if not here.exists() or is_same_file(node.disk, here):
            continue
        old, new = node.disk, here
        while old.name == new.name and old.name:
            old, new = old.parent, new.parent
        if node.disk.exists():
            raise HostError(
                f"{new} is a copy of {old}, which still has the cluster {state.name}",
                details="Two clusters cannot have the same disks, addresses and keys.",
                hint=f"ls -ld {shlex.quote(str(old))} {shlex.quote(str(new))}",
            )
        make = "" if old.parent.is_dir() else f"mkdir -p {shlex.quote(str(old.parent))} && "
        raise HostError(
            f"{state.name} was moved from {old} to {new}",
            details="Its disks and VMs refer to files in the old directory.",
            hint=f"{make}ln -s {shlex.quote(str(new))} {shlex.quote(str(old))}",
        )


def check_images(
    desired: DesiredCluster, previous: ClusterState | None, catalogue: ImageCatalogue
) -> Iterator[str]:
    """Warnings for nodes on an older image of the requested name, one for each image.

    Raises SpecError if the file asks for another image for an existing node.
    """
    known = {one.name for one in previous.nodes} if previous else set[str]()
    kept: dict[tuple[str, str], list[str]] = {}
    newest: dict[str | None, str | None] = {}
    for node, one in desired.nodes:
        if one.name not in known:
            continue
        asked, there = catalogue.stored_name(node.base_image), catalogue.store.get(one.image_digest)
        if node.base_image not in newest:
            try:
                found = catalogue.find(node.base_image)
                newest[node.base_image] = found.digest if found else None
            except ImageError:  # files that decide it are gone; the node has its image all the same
                newest[node.base_image] = there.digest
        if newest[node.base_image] == there.digest:
            continue
        if asked != there.name:
            raise SpecError(
                f"the image of {one.name} cannot be changed",
                details=f"its disk is based on {there.name}; the file asks for {asked}",
                hint=f"ai-how {desired.state.kind} destroy"
                "  # then start it again, or set base_image_path back",
            )
        kept.setdefault((asked, there.digest), []).append(one.name)
    for (name, digest), nodes in kept.items():
        names = ", ".join(nodes)
        yield f"{names}: on the image {name} {digest[:12]}, which is not the newest"


def check_resumable(state: ClusterState, seen: Observed, disks: DiskManager) -> None:
    """Raises HostError if VMs are paused on a full disk, and would pause again at once."""
    stuck = [
        one.name
        for one in state.nodes
        if (domain := seen.find_domain(one.uuid)) and domain.waits_for_disk
    ]
    needed, free = len(stuck) * RESUMABLE_BYTES, disks.free_bytes()
    if free < needed:
        raise HostError(
            f"{', '.join(stuck)}: paused because the file system of the disks is full",
            details=f"{needed / MIB:.0f} MiB needed, {free / MIB:.1f} MiB free",
            hint=f"df -h {shlex.quote(str(disks.storage.root))}",
        )


def find_losses(
    desired: DesiredCluster, previous: ClusterState | None, seen: Observed
) -> Iterator[str]:
    """Warnings for what differs from the last start."""
    for name in desired.forgotten:
        yield f"{name} is no longer in the file; it is kept until the cluster is destroyed"
    for one in previous.nodes if previous else ():
        if one.stages_s and one.name not in seen.disks and one.name not in desired.forgotten:
            yield f"the disk of {one.name} is gone with all its data: a new one is created"
    if previous and seen.network:
        drift, faults = find_drift(define_network(previous), seen.network), seen.known_faults
        for difference in drift.messages:
            yield f"the network {previous.network.name} was changed: {difference}"
        if faults.bridge_trouble:
            yield f"the network {previous.network.name}: {faults.bridge_trouble}"
        if faults.uplink_trouble and not drift.live:
            yield f"the network {previous.network.name}: {faults.uplink_trouble}"
