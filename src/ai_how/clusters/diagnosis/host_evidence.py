"""What the host of a cluster shows of it: its disk, its memory, its network, who works on it."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.observation import Observed, observe, with_host_faults
from ai_how.errors import AiHowError, OwnershipError
from ai_how.host.memory_facts import Memory, read_memory
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.state.lock import Holder, find_holder
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.disks.manager import DiskManager


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEvidence:
    """The evidence of a host; None for what could not be read, or was not asked."""

    is_up: bool
    is_embedded: bool
    disk_directory: Path | None = None
    disk_free_bytes: int | None = None
    memory: Memory | None = None
    holder: Holder | None = None
    """The run that works on the cluster now."""
    has_journal: bool = False
    """Whether a run has not ended, or was cut short."""
    libvirt_trouble: str | None = None
    """Why libvirt was not asked for all."""
    observed: Observed | None = None
    """None if libvirt did not answer."""
    disk_problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By node."""


def look_at_host(
    state: ClusterState,
    place: HypervisorHost,
    paths: ClusterPaths,
    kind: ClusterKind,
    client: LibvirtClient | None,
) -> HostEvidence:
    """Look at the host; at libvirt through `client`, unless that is None. Changes nothing.

    Raises OwnershipError if something else is in the place of one of the cluster's objects.
    """
    disks = DiskManager(place.storage)
    directory = place.storage.disks if place.storage.disks.is_dir() else None
    trouble: str | None = None
    observed: Observed | None = None
    if client is not None:
        try:
            observed = observe(client, state, kind, asks_workload=False)
            observed = with_host_faults(observed, state, place, paths)
        except OwnershipError:
            raise
        except AiHowError as error:
            trouble = error.brief
    free: int | None = None
    with suppress(OSError):
        free = shutil.disk_usage(directory).free if directory else None
    return HostEvidence(
        is_up=place.is_up,
        is_embedded=place.embedded is not None,
        disk_directory=directory,
        disk_free_bytes=free,
        memory=read_memory(Path("/")) if place.runs_guests else None,
        holder=find_holder(paths.lock),
        has_journal=paths.journal.exists(),
        libvirt_trouble=trouble,
        observed=observed,
        disk_problems={
            node.name: found
            for node in state.nodes
            if (found := disks.find_problems(node.disk, disks.storage.base(node.image_digest)))
        },
    )
