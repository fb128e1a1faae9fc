"""Rules about what guests tell of themselves (pure): file systems, memory, units.

Guests are untrusted: names of theirs are cut to one line, and never part of a command.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ai_how.clusters.diagnosis.catalogue import MachineCause, Severity
from ai_how.guest.serial_log import one_line
from ai_how.monitoring.judging import Look, Rule, Sign, size_text, time_text
from ai_how.monitoring.model import FileSystemUse, NodeSample

FULL, NO_ROOM_MIB = 0.98, 32
FILLING, LESS_FILLING = 0.90, 0.87
SOON_S, SOON = 3600.0, 0.70
"""A file system that will be full within this time is filling, if it is as full as that."""
SMALLEST_MIB = 64
"""Smaller file systems are those of firmware and the like."""
MEMORY, LESS_MEMORY, MEMORY_S = 0.97, 0.92, 120.0
KILLS_S = 600.0
"""A process that was killed is a finding for so long."""
MOST_NAMES = 8
ROOT, HOME = "/", "/home"


def find_full(look: Look) -> Iterator[Sign]:
    """File systems without room."""
    for node, one in _file_systems(look):
        found = {ROOT: MachineCause.ROOT_FULL, HOME: MachineCause.HOME_FULL}.get(
            one.mount_point, MachineCause.FILE_SYSTEM_FULL
        )
        if _is_full(one):
            where = one_line(one.mount_point)[:80]
            text = f"{node.name}: {where} is full"
            yield Sign(id=found, subject=node.name, text=text, evidence=(_figures(one),))


def find_filling(look: Look) -> Iterator[Sign]:
    """File systems that are nearly full, or will be soon. The worst of a node."""
    worst: dict[str, tuple[float, Sign]] = {}
    for node, one in _file_systems(look):
        key = (node.name, "file-system", one.mount_point)
        look.past.note(key, _told_at(look, node), one.used_mib)
        was = look.was_found(MachineCause.FILE_SYSTEM_FILLING, node.name)
        share, rate = _share(one), look.past.rate(key)
        left_s = one.free_mib / rate if rate and rate > 0 else None
        is_soon = left_s is not None and left_s < SOON_S and share >= SOON
        if _is_full(one) or not (is_soon or share >= (LESS_FILLING if was else FILLING)):
            continue
        where = one_line(one.mount_point)[:80]
        text = f"{node.name}: {where} is {100 * share:.0f} % full"
        evidence = [_figures(one)]
        if rate and left_s is not None and left_s < 24 * SOON_S:
            text += f", and full in {time_text(left_s)}" if is_soon else ""
            grows = f"it grew by {rate * 60:.0f} MiB a minute lately"
            evidence.append(f"{grows}: full in {time_text(left_s)}")
        sign = Sign(
            id=MachineCause.FILE_SYSTEM_FILLING,
            subject=node.name,
            text=text,
            evidence=tuple(evidence),
        )
        worst[node.name] = max(worst.get(node.name, (0.0, sign)), (share, sign), key=_first)
    yield from (sign for _, sign in worst.values())


def find_kills(look: Look) -> Iterator[Sign]:
    """Processes that the kernel killed as the guest had no memory left; not those of jobs alone."""
    for node in look.guests():
        kills = count_kills(look, node)
        if kills is None or kills.total == 0:
            continue
        is_new = kills.new > 0 and not kills.jobs
        text = f"{node.name}: the kernel killed {_processes(kills.total)} since the boot"
        if is_new:
            text = f"{node.name}: out of memory: the kernel killed {_processes(kills.new)}"
        yield Sign(
            id=MachineCause.OUT_OF_MEMORY,
            subject=node.name,
            text=text,
            evidence=(f"{kills.total} killed for want of memory since the boot",),
            severity=None if is_new else Severity.NOTICE,
        )


@dataclass(frozen=True, slots=True)
class Kills:
    """Processes of one node that were killed for want of memory."""

    total: int
    """Since its boot."""
    new: int
    """Lately."""
    jobs: tuple[str, ...]
    """The jobs, as squeue shows them, to which the new ones belong; they had a limit of theirs."""


def count_kills(look: Look, node: NodeSample) -> Kills | None:
    """What was killed on a node; None if it is not known."""
    guest = node.guest
    if guest is None or guest.oom_kills is None:
        return None
    new = _grown(look, node, (node.name, "kills"), guest.oom_kills)
    if not new:
        return Kills(guest.oom_kills, 0, ())
    every = look.now.slurm.jobs if look.now.slurm else ()
    names = {one.id: one.shown_id for one in every}
    running = [one.job for one in guest.jobs if one.oom_kills]
    ended = [
        one.id
        for one in every
        if one.state == "out_of_memory"
        and node.name in one.nodes
        and one.ended_at is not None
        and look.now.at - one.ended_at < KILLS_S
    ]
    jobs = tuple(names.get(one, one) for one in dict.fromkeys([*running, *ended]))
    return Kills(guest.oom_kills, new, jobs)


def find_memory(look: Look) -> Iterator[Sign]:
    """Guests that have used up their memory for minutes."""
    for node in look.running():
        vm = node.vm
        if vm is None or not vm.guest_memory_mib or vm.guest_memory_used_mib is None:
            continue
        share = vm.guest_memory_used_mib / vm.guest_memory_mib
        was = look.was_found(MachineCause.MEMORY_FULL, node.name)
        is_high = share >= (LESS_MEMORY if was else MEMORY)
        since_s = look.past.true_for_s((node.name, "memory"), look.now.at, is_true=is_high)
        if is_high and since_s >= MEMORY_S:
            used, every = size_text(vm.guest_memory_used_mib), size_text(vm.guest_memory_mib)
            text = f"{node.name}: it uses {used} of its {every} of memory"
            evidence = (f"{100 * share:.0f} % without caches, for {time_text(since_s)}",)
            yield Sign(id=MachineCause.MEMORY_FULL, subject=node.name, text=text, evidence=evidence)


def find_units(look: Look) -> Iterator[Sign]:
    """Units that failed, except services that have a rule of their own."""
    for node in look.guests():
        if node.guest is None:
            continue
        known = {_unit(name) for name in node.guest.services}
        names = [one_line(one)[:80] for one in node.guest.failed_units if _unit(one) not in known]
        if names:
            shown = ", ".join(names[:MOST_NAMES])
            more = f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else ""
            text = f"{node.name}: failed: {shown}{more}"
            yield Sign(id=MachineCause.UNIT_FAILED, subject=node.name, text=text)


def _file_systems(look: Look) -> Iterator[tuple[NodeSample, FileSystemUse]]:
    """Of all nodes. /home is the controller's, which has the figures as well."""
    for node in look.guests():
        for one in node.guest.file_systems if node.guest else ():
            is_others = one.mount_point == HOME and node.role != "controller"
            if one.size_mib >= SMALLEST_MIB and not is_others:
                yield node, one


def _share(one: FileSystemUse) -> float:
    """How full it is for ordinary users: what is kept for root is not theirs."""
    return one.used_mib / max(1, one.used_mib + one.free_mib)


def _is_full(one: FileSystemUse) -> bool:
    return one.free_mib < NO_ROOM_MIB or _share(one) >= FULL


def _figures(one: FileSystemUse) -> str:
    used, size = size_text(one.used_mib), size_text(one.size_mib)
    return (
        f"{one_line(one.mount_point)[:80]}: {used} of {size} used, {size_text(one.free_mib)} free"
    )


def _told_at(look: Look, node: NodeSample) -> float:
    source = look.now.find_source(f"guest/{node.name}")
    return source.at if source and source.at is not None else look.now.at


def _grown(look: Look, node: NodeSample, key: tuple[str, str], count: int) -> int:
    """By how much a count of the guest's has grown lately; a boot begins it again."""
    if (look.past.last(key) or 0) > count:
        look.past.restart(key)
    look.past.note(key, _told_at(look, node), count)
    return round(look.past.growth(key, KILLS_S) or 0)


def _processes(count: int) -> str:
    return "a process" if count == 1 else f"{count} processes"


def _unit(name: str) -> str:
    return name.removesuffix(".service")


def _first(pair: tuple[float, Sign]) -> float:
    return pair[0]


RULES = (
    Rule(find=find_full, reads="guest"),
    Rule(
        find=find_filling,
        reads="guest",
        unless=frozenset({MachineCause.ROOT_FULL, MachineCause.HOME_FULL}),
    ),
    Rule(find=find_kills, reads="guest"),
    Rule(find=find_memory, reads="libvirt"),
    Rule(find=find_units, reads="guest", after_s=30.0),
)
