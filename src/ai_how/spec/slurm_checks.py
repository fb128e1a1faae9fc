"""Checks between partitions and nodes."""

from collections.abc import Iterator

from ai_how.spec.models import HpcSpec
from ai_how.spec.node_specs import MAX_NODES
from ai_how.spec.nodes import compute_name, count_of
from ai_how.spec.problems import Finding, Loc, error_at, render_path, render_value

_LOC: Loc = ("clusters", "hpc", "slurm_config")
_PARTITIONS: Loc = (*_LOC, "partitions")


def check_slurm(hpc: HpcSpec) -> Iterator[Finding]:
    slurm = hpc.slurm_config
    names = [partition.name for partition in slurm.partitions]
    if not names:
        yield error_at("found an empty list; at least one partition is required", _PARTITIONS)
        return
    for index, name in enumerate(names):
        if name in names[:index]:
            first = (*_PARTITIONS, names.index(name))
            yield error_at(
                f"'{name}' is also {render_path(first)}", (*_PARTITIONS, index, "name"), first
            )
    asked_loc = (*_LOC, "default_partition")
    asked = slurm.default_partition
    if asked is not None and asked not in names:
        yield error_at(
            f"found {render_value(asked)}; the partitions are: {', '.join(names)}",
            asked_loc,
            _PARTITIONS,
        )
    yield from _check_default_marks(hpc)
    yield from _check_partition_nodes(hpc)


def _check_default_marks(hpc: HpcSpec) -> Iterator[Finding]:
    slurm = hpc.slurm_config
    chosen = slurm.default_name
    for index, partition in enumerate(slurm.partitions):
        if partition.default and partition.name != chosen:
            yield error_at(
                f"'{partition.name}' and '{chosen}' cannot both be the default",
                (*_PARTITIONS, index, "default"),
                (*_LOC, "default_partition"),
            )


def _check_partition_nodes(hpc: HpcSpec) -> Iterator[Finding]:
    count = min(sum(map(count_of, hpc.compute_nodes)), MAX_NODES)
    names = [compute_name(number) for number in range(1, count + 1)]
    some = " to ".join(dict.fromkeys([*names[:1], *names[-1:]]))
    allowed = f"ALL, or {some}"
    for index, partition in enumerate(hpc.slurm_config.partitions):
        loc = (*_PARTITIONS, index, "nodes")
        if partition.nodes == ():
            yield error_at("found an empty list; name nodes, or write ALL", loc)
        for name in partition.nodes or ():
            if name != "ALL" and name not in names:
                yield error_at(
                    f"found {render_value(name)}; allowed: {allowed}",
                    loc,
                    ("clusters", "hpc", "compute_nodes"),
                )
