"""The lines above the tables: is it ready, the host, the jobs, and who is silent (pure)."""

from collections import Counter
from dataclasses import dataclass

from ai_how.monitoring.judging import OFF, RUNNING
from ai_how.monitoring.model import HostSample, NodeSample, Snapshot
from ai_how.top.columns import Tone
from ai_how.top.plain import UNKNOWN, age, figure, mib, part, plain
from ai_how.top.rows import Picture, Silence

LOOKING = "looking…"
_MOST_SILENCES = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line."""

    text: str
    tone: Tone | None = None
    is_bold: bool = False


Line = tuple[Piece, ...]


def first_lines(name: str) -> tuple[Line, ...]:
    """Before anything has answered."""
    return ((Piece(plain(name), is_bold=True), Piece(f" {LOOKING}")), (), ())


def head_lines(picture: Picture, now: float) -> tuple[Line, ...]:
    """Three lines, and one for each source that is silent."""
    snapshot = picture.snapshot
    old_host = any(one.source == "host" for one in picture.silences)
    return (
        _cluster(snapshot, picture),
        _host(snapshot.host, is_old=old_host),
        _work(picture, now),
        *_silences(picture.silences),
    )


def trouble_of(node: NodeSample, *, has_slurm: bool) -> str | None:
    """Why the cluster is not ready because of this node; None if it is not why."""
    if not node.auto_start and (node.vm is None or node.vm.state in OFF):
        return None
    if node.vm is not None and node.vm.state not in RUNNING:
        return f"{node.name} is {node.vm.state}"
    if has_slurm and node.role != "controller":
        if node.slurm is None:
            return f"{node.name} is not in SLURM"
        if not node.slurm.is_working:
            return f"{node.name} is {node.slurm.states[0] if node.slurm.states else 'unknown'}" + (
                ", drained" if node.slurm.is_drained else ""
            )
    return None


def _cluster(snapshot: Snapshot, picture: Picture) -> Line:
    name = Piece(plain(snapshot.cluster, 64), is_bold=True)
    troubles = [
        found
        for one in snapshot.nodes
        if (found := trouble_of(one, has_slurm=snapshot.slurm is not None))
    ]
    if not snapshot.is_up:
        state = Piece(" off: its host is down", Tone.WARN)
    elif troubles:
        more = f" and {len(troubles) - 1} more" if troubles[1:] else ""
        state = Piece(f" not ready: {plain(troubles[0], 60)}{more}", Tone.WARN)
    elif snapshot.slurm is None or all(one.vm is None for one in snapshot.nodes):
        state = Piece(f" {LOOKING}")
    elif any(one.source in {"libvirt", "slurm"} for one in picture.silences):
        state = Piece(" was ready", Tone.OLD)
    else:
        state = Piece(" ready", Tone.GOOD)
    on = sum(one.vm is not None and one.vm.state in RUNNING for one in snapshot.nodes)
    is_known = any(one.vm is not None for one in snapshot.nodes)
    nodes = f"  {on if is_known else UNKNOWN}/{len(snapshot.nodes)} nodes on"
    version = snapshot.slurm.version if snapshot.slurm else None
    slurm = f"  SLURM {plain(version, 20)}" if version else ""
    return (name, state, Piece(nodes), Piece(slurm), _findings(snapshot))


def _findings(snapshot: Snapshot) -> Piece:
    counts = Counter(one.severity for one in snapshot.findings)
    if not counts:
        return Piece("  no findings")
    words = [f"{counts[word]} {word}" for word in ("critical", "warning", "notice") if counts[word]]
    total = sum(counts.values())
    tone = Tone.BAD if counts["critical"] else Tone.WARN if counts["warning"] else None
    of = "finding" if total == 1 else "findings"
    return Piece(f"  {total} {of} ({', '.join(words)})", tone)


def _host(host: HostSample | None, *, is_old: bool) -> Line:
    if host is None:
        return (Piece("host", is_bold=True), Piece(f" {UNKNOWN}", Tone.DIM))
    used = host.memory_mib - host.memory_available_mib
    parts = [
        f"cpu {part(figure(host.cpus_busy), str(host.cpus))}",
        f"mem {mib(used)}/{mib(host.memory_mib)}",
    ]
    if host.swap_mib:
        parts.append(f"swap {mib(host.swap_used_mib)}")
    if host.pressure:
        words = " ".join(f"{name} {figure(value)}%" for name, value in host.pressure.items())
        parts.append(f"psi {plain(words.replace('memory', 'mem'), 60)}")
    if host.storage:
        parts.append(f"{mib(host.storage.free_mib)} free")
    if host.is_kvm is False:
        parts.append("no KVM")
    text = f" {'  '.join(parts)}{'?' if is_old else ''}"
    return (Piece("host", is_bold=True), Piece(text, Tone.OLD if is_old else None))


def _work(picture: Picture, now: float) -> Line:
    slurm = picture.snapshot.slurm
    if slurm is None:
        return (Piece("jobs", is_bold=True), Piece(f" {UNKNOWN}", Tone.DIM))
    running = sum(one.is_running for one in slurm.jobs)
    waiting = sum(one.is_waiting for one in slurm.jobs)
    given = sum(one.cpus_allotted for one in slurm.nodes)
    cpus = sum(one.cpus for one in slurm.nodes)
    memory = sum(one.memory_allotted_mib for one in slurm.nodes)
    there = sum(one.memory_mib for one in slurm.nodes)
    is_old = any(one.source == "slurm" for one in picture.silences)
    text = f" {running} running, {waiting} waiting"
    text += f"  allotted cpus {given}/{cpus} mem {mib(memory)}/{mib(there)}{'?' if is_old else ''}"
    source = picture.snapshot.find_source("slurm")
    asked = Piece(f"  {age(now - source.at)} ago" if source and source.at else "", Tone.DIM)
    return (Piece("jobs", is_bold=True), Piece(text, Tone.OLD if is_old else None), asked)


def _silences(silences: tuple[Silence, ...]) -> tuple[Line, ...]:
    """A line for each, the last one for all that do not fit."""
    lines = [(Piece(silence_words(one), Tone.BAD),) for one in silences[:_MOST_SILENCES]]
    if more := silences[_MOST_SILENCES:]:
        names = ", ".join(plain(one.source, 40) for one in more)
        lines.append((Piece(f"silent as well: {names}", Tone.BAD),))
    return tuple(lines)


def silence_words(one: Silence) -> str:
    """`libvirt silent for 40 s: it does not answer`."""
    since = "has not answered yet" if one.seconds is None else f"silent for {age(one.seconds)}"
    return f"{plain(one.source, 40)} {since}" + (f": {plain(one.why, 200)}" if one.why else "")
