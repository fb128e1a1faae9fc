"""The figures of a snapshot that are kept over time, each by a name and a subject (pure)."""

from collections.abc import Iterator
from typing import NamedTuple

from ai_how.monitoring.model import (
    HostSample,
    NodeSample,
    SlurmSample,
    Snapshot,
    SourceState,
)

HOST = "host"
SLURM = "slurm"
DISKS = "disks"


class Point(NamedTuple):
    """One figure; None where it is not known now."""

    name: str
    subject: str
    value: float | None


def points_of(seen: Snapshot) -> Iterator[Point]:
    """What is kept of a snapshot; docs/monitoring.md has the names and units.

    A figure of a source that does not answer is None: what the snapshot has of it is old.
    """
    silent = {one.name for one in seen.sources if is_silent(one)}
    yield from _of_host(None if HOST in silent else seen.host)
    yield from _of_storage(None if DISKS in silent else seen.host)
    for node in seen.nodes:
        yield from _of_node(node, silent)
    yield from _of_slurm(None if SLURM in silent else seen.slurm)


def is_silent(source: SourceState) -> bool:
    """Whether what is shown of a source is old, or was never there."""
    return source.trouble is not None or source.at is None


def _of_host(seen: HostSample | None) -> Iterator[Point]:
    used = seen.memory_mib - seen.memory_available_mib if seen else None
    pressure = seen.pressure if seen else {}
    yield Point("cpu", HOST, seen.cpus_busy if seen else None)
    yield Point("memory_used_mib", HOST, used)
    for kind in ("cpu", "memory", "io"):
        yield Point(f"pressure_{kind}", HOST, pressure.get(kind))


def _of_storage(seen: HostSample | None) -> Iterator[Point]:
    storage = seen.storage if seen else None
    yield Point("storage_free_mib", HOST, storage.free_mib if storage else None)
    yield Point("storage_used_mib", HOST, storage.used_mib if storage else None)


def _of_node(node: NodeSample, silent: set[str]) -> Iterator[Point]:
    vm = None if "libvirt" in silent else node.vm
    disks = None if DISKS in silent else node.vm
    guest = None if f"guest/{node.name}" in silent else node.guest
    for name, value in (
        ("cpu", vm.cpus_busy if vm else None),
        ("steal", vm.cpus_waiting if vm else None),
        ("memory_used_mib", vm.guest_memory_used_mib if vm else None),
        ("qemu_memory_mib", vm.qemu_memory_mib if vm else None),
        ("disk_used_bytes", disks.disk_used_bytes if disks else None),
        ("disk_read_bytes_s", vm.disk_read_bytes_s if vm else None),
        ("disk_written_bytes_s", vm.disk_written_bytes_s if vm else None),
        ("net_received_bytes_s", vm.net_received_bytes_s if vm else None),
        ("net_sent_bytes_s", vm.net_sent_bytes_s if vm else None),
        ("load", guest.load[0] if guest and guest.load else None),
    ):
        yield Point(name, node.name, value)
    for gpu in guest.gpus if guest else ():
        yield Point("gpu_busy", f"{node.name}/{gpu.index}", gpu.busy_percent)


def _of_slurm(seen: SlurmSample | None) -> Iterator[Point]:
    states = [one.states[0] if one.states else "" for one in seen.nodes] if seen else []
    for name, value in (
        ("jobs_running", sum(one.is_running for one in seen.jobs) if seen else None),
        ("jobs_waiting", sum(one.is_waiting for one in seen.jobs) if seen else None),
        ("cpus_allotted", sum(one.cpus_allotted for one in seen.nodes) if seen else None),
        ("cpus", sum(one.cpus for one in seen.nodes) if seen else None),
        ("nodes_idle", states.count("idle") if seen else None),
        ("nodes_allocated", states.count("allocated") + states.count("mixed") if seen else None),
        ("nodes_down", states.count("down") if seen else None),
    ):
        yield Point(name, SLURM, value)
