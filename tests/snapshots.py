"""Made-up snapshots with one thing changed, for the rules of health."""

from dataclasses import replace
from typing import Any

from ai_how.hpc.kind import SLURM
from ai_how.monitoring.health import judge_of
from ai_how.monitoring.judging import Judge
from ai_how.monitoring.model import Finding, NodeSample, Snapshot, SourceState
from made_up_cluster import make_snapshot

ROUND_S = 5.0


def sound(*, nodes: int = 2) -> Snapshot:
    """A cluster without a fault, whose sources have all answered."""
    seen = make_snapshot(nodes=nodes)
    names = ("host", "libvirt", "disks", "faults", "slurm")
    every = (*names, *(f"guest/{one.name}" for one in seen.nodes))
    sources = tuple(SourceState(name=one, every_s=15, at=seen.at, took_s=0.1) for one in every)
    return replace(seen, sources=sources)


def with_vm(seen: Snapshot, node: str, **changes: Any) -> Snapshot:
    return _with(seen, node, lambda one: replace(one, vm=one.vm and replace(one.vm, **changes)))


def with_guest(seen: Snapshot, node: str, **changes: Any) -> Snapshot:
    return _with(
        seen, node, lambda one: replace(one, guest=one.guest and replace(one.guest, **changes))
    )


def with_slurm(seen: Snapshot, node: str, **changes: Any) -> Snapshot:
    """Another word of SLURM about a node."""
    assert seen.slurm
    nodes = tuple(replace(one, **changes) if one.name == node else one for one in seen.slurm.nodes)
    told = {one.name: one for one in nodes}
    own = tuple(replace(one, slurm=told.get(one.name)) for one in seen.nodes)
    return replace(seen, slurm=replace(seen.slurm, nodes=nodes), nodes=own)


def with_host(seen: Snapshot, **changes: Any) -> Snapshot:
    assert seen.host
    return replace(seen, host=replace(seen.host, **changes))


def silent(seen: Snapshot, *names: str, for_s: float = 300.0, trouble: str = "no answer"):
    """These sources have said nothing for so long."""
    sources = tuple(
        replace(one, at=seen.at - for_s, trouble=trouble) if one.name in names else one
        for one in seen.sources
    )
    return replace(seen, sources=sources)


def later(seen: Snapshot, seconds: float = ROUND_S) -> Snapshot:
    """The same, as if all sources had just been asked again, except for those in trouble."""
    sources = tuple(
        one if one.trouble or one.at is None else replace(one, at=one.at + seconds)
        for one in seen.sources
    )
    return replace(seen, at=seen.at + seconds, sources=sources)


def look_once(seen: Snapshot) -> tuple[Finding, ...]:
    """What one look finds, without a past."""
    return judge_of(SLURM, is_single=True).judge(seen)


def keep_looking(judge: Judge, seen: Snapshot, seconds: float) -> tuple[Snapshot, Any]:
    """Look again and again for so long; the last snapshot, and what was found in it."""
    found = judge.judge(seen)
    for _ in range(round(seconds / ROUND_S)):
        seen = later(seen)
        found = judge.judge(seen)
    return seen, found


def told(found: tuple[Finding, ...]) -> set[tuple[str, str]]:
    """Id and subject of each."""
    return {(one.id, one.subject) for one in found}


def _with(seen: Snapshot, node: str, change: Any) -> Snapshot:
    def one(each: NodeSample) -> NodeSample:
        return change(each) if each.name == node else each

    return replace(seen, nodes=tuple(map(one, seen.nodes)))
