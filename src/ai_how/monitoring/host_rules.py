"""Rules about the host of the VMs and about what is asked at all (pure)."""

from collections.abc import Iterator

from ai_how.clusters.diagnosis.catalogue import HostCause
from ai_how.monitoring.judging import Look, Rule, Sign, size_text, time_text
from ai_how.monitoring.model import Fault, FileSystemUse

HOST = "host"
NO_ROOM_MIB = 256
FILLING, LESS_FILLING = 0.95, 0.93
SOON_S, SOON = 7200.0, 0.70
MEMORY, MEMORY_MIB = 0.05, 512
MORE = 1.5
"""What is over must be over by so much."""
SWAP = 0.5
PRESSURE, LESS_PRESSURE, PRESSURE_S = 20.0, 10.0, 60.0
MIB = 2**20


def find_storage(look: Look) -> Iterator[Sign]:
    """The file system with the disks of the VMs: full, or full soon."""
    one = look.now.host.storage if look.now.host else None
    if one is None or not look.is_fresh("disks"):
        return
    key = (HOST, "storage")
    look.past.note(key, look.now.at, one.used_mib)
    words = {"path": one.mount_point}
    share = one.used_mib / max(1, one.used_mib + one.free_mib)
    was_full = look.was_found(HostCause.HOST_DISK_FULL, HOST)
    if one.free_mib < NO_ROOM_MIB * (MORE if was_full else 1):
        text = f"the file system of the VMs' disks is full: {one.mount_point}"
        evidence = (_figures(one),)
        yield Sign(
            id=HostCause.HOST_DISK_FULL, subject=HOST, text=text, evidence=evidence, words=words
        )
        return
    was = look.was_found(HostCause.HOST_DISK_FILLING, HOST)
    rate = look.past.rate(key)
    left_s = one.free_mib / rate if rate and rate > 0 else None
    is_soon = left_s is not None and left_s < SOON_S and share >= SOON
    if not (is_soon or share >= (LESS_FILLING if was else FILLING)):
        return
    text = f"the file system of the VMs' disks is {100 * share:.0f} % full: {one.mount_point}"
    figures: tuple[str, ...] = (_figures(one),)
    if rate and left_s is not None:
        figures += (f"it grew by {rate * 60:.0f} MiB a minute: full in {time_text(left_s)}",)
    yield Sign(
        id=HostCause.HOST_DISK_FILLING, subject=HOST, text=text, evidence=figures, words=words
    )


def find_promised(look: Look) -> Iterator[Sign]:
    """Thin disks that could grow beyond what the host has."""
    one = look.now.host.storage if look.now.host else None
    if one is None or not look.is_fresh("disks"):
        return
    left = 0
    for node in look.now.nodes:
        if node.vm and node.vm.disk_capacity_bytes and node.vm.disk_used_bytes is not None:
            left += max(0, node.vm.disk_capacity_bytes - node.vm.disk_used_bytes)
    if left // MIB > one.free_mib:
        could, free = size_text(left / MIB), size_text(one.free_mib)
        text = f"the disks of the nodes could grow by {could}, and {free} are free"
        words = {"path": one.mount_point}
        evidence = (_figures(one),)
        yield Sign(
            id=HostCause.HOST_DISK_PROMISED, subject=HOST, text=text, evidence=evidence, words=words
        )


def find_memory(look: Look) -> Iterator[Sign]:
    """A host without memory, or that swaps what it needs."""
    host = look.now.host
    if host is None or not look.is_fresh("host"):
        return
    least = max(MEMORY * host.memory_mib, min(MEMORY_MIB, host.memory_mib / 4))
    was = look.was_found(HostCause.HOST_MEMORY_SHORT, HOST)
    evidence = (
        f"{size_text(host.memory_available_mib)} of {size_text(host.memory_mib)} are available",
        f"{size_text(host.swap_used_mib)} of {size_text(host.swap_mib)} of swap are used",
    )
    if host.memory_available_mib < least * (MORE if was else 1):
        text = f"the host has only {size_text(host.memory_available_mib)} of memory left"
        yield Sign(id=HostCause.HOST_MEMORY_SHORT, subject=HOST, text=text, evidence=evidence)
    pressure = host.pressure.get("memory")
    if pressure is None:
        return
    was = look.was_found(HostCause.HOST_MEMORY_PRESSURE, HOST)
    is_high = pressure >= (LESS_PRESSURE if was else PRESSURE)
    is_swapping = host.swap_mib > 0 and host.swap_used_mib >= SWAP * host.swap_mib
    is_high = is_high or (is_swapping and pressure >= LESS_PRESSURE)
    since_s = look.past.true_for_s((HOST, "pressure"), look.now.at, is_true=is_high)
    if is_high and since_s >= PRESSURE_S:
        text = f"programs of the host wait for memory {pressure:.0f} % of the time"
        yield Sign(id=HostCause.HOST_MEMORY_PRESSURE, subject=HOST, text=text, evidence=evidence)


def find_silent(look: Look) -> Iterator[Sign]:
    """Sources that say nothing. A guest has a rule of its own, and SLURM that of its kind."""
    if not look.now.is_up:
        return
    for one in look.now.sources:
        if one.trouble is None or look.is_fresh(one.name) or one.name.startswith("guest/"):
            continue
        if one.name == "slurm":
            continue
        asked = "it has never answered"
        if one.at is not None:
            asked = f"its last answer is {time_text(look.now.at - one.at)} old"
        evidence = (one.trouble, asked)
        if one.name == "libvirt":
            text = "libvirt does not answer"
            yield Sign(id=HostCause.LIBVIRT_SILENT, subject=HOST, text=text, evidence=evidence)
        else:
            text = f"nothing is known of {one.name}: it does not answer"
            yield Sign(id=HostCause.SOURCE_SILENT, subject=one.name, text=text, evidence=evidence)


def find_faults(look: Look) -> Iterator[Sign]:
    """What a look at the host showed, one sign for all faults of one id and subject."""
    if not look.is_fresh("faults"):
        return
    found: dict[tuple[str, str], list[Fault]] = {}
    for one in look.now.faults:
        found.setdefault((one.id, one.subject), []).append(one)
    for (name, subject), faults in found.items():
        first, more = faults[0], tuple(one.text for one in faults[1:])
        yield Sign(
            id=name,
            subject=subject,
            text=first.text if subject == HOST else f"{subject}: {first.text}",
            evidence=more,
            remedy=first.remedy or None,
        )


def _figures(one: FileSystemUse) -> str:
    free = size_text(one.free_mib)
    return f"{one.mount_point}: {free} of {size_text(one.size_mib)} are free"


RULES = (
    Rule(find=find_storage, reads="disks"),
    Rule(
        find=find_promised,
        reads="disks",
        after_s=60.0,
        unless=frozenset({HostCause.HOST_DISK_FULL, HostCause.HOST_DISK_FILLING}),
    ),
    Rule(find=find_memory, reads="host", after_s=30.0),
    Rule(find=find_silent, reads="host", after_s=20.0),
    Rule(find=find_faults, reads="faults"),
)
