"""Does what is asked for fit the file system, now (thin) and when every disk is full? (pure)"""

from collections.abc import Sequence
from dataclasses import dataclass

from ai_how.errors import HostError

GIB = 1 << 30
# What a first boot writes into a fresh overlay: logs, journals, host keys, Slurm's spool.
_FIRST_BOOT_BYTES = 128 << 20
# One 8-byte L2 entry and one 2-byte refcount for each cluster of 64 KiB, rounded up.
_CLUSTERS_PER_METADATA_BYTE = 4096
_LISTED = 8


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """What one file will take: soon, and at the very most."""

    what: str
    thin_bytes: int
    worst_case_bytes: int


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """The sums; `warning` where the guests could fill the file system."""

    thin_bytes: int
    worst_case_bytes: int
    free_bytes: int
    warning: str | None


def overlay_need(node: str, size_gib: int) -> DiskNeed:
    """An overlay begins next to empty and can grow to its size and its own tables."""
    size = size_gib * GIB
    return DiskNeed(
        f"disk of {node}",
        min(_FIRST_BOOT_BYTES, size),
        size + size // _CLUSTERS_PER_METADATA_BYTE,
    )


def check_space(needs: Sequence[DiskNeed], *, free_bytes: int, reserve_bytes: int) -> SpaceReport:
    """Raises HostError, before anything was changed, where not even the thin sizes fit.

    `reserve_bytes` stays free for state and logs. A worst case that does not fit is a warning:
    a guest that meets a full host disk is paused, and nothing is lost.
    """
    thin = sum(need.thin_bytes for need in needs)
    worst = sum(need.worst_case_bytes for need in needs)
    if thin + reserve_bytes > free_bytes:
        raise HostError(
            f"the disks need {_gib(thin + reserve_bytes)}, and {_gib(free_bytes)} are free",
            details="\n".join([*_largest(needs), f"kept free: {_gib(reserve_bytes)}"]),
            hint="ai-how image list",
        )
    warning = None
    if worst + reserve_bytes > free_bytes:
        warning = (
            f"full disks would need {_gib(worst + reserve_bytes)}, and {_gib(free_bytes)} are free:"
            " guests that fill them would be paused"
        )
    return SpaceReport(thin, worst, free_bytes, warning)


def _largest(needs: Sequence[DiskNeed]) -> list[str]:
    """A line for each of the largest, and one for all the others."""
    by_size = sorted(needs, key=lambda need: -need.thin_bytes)
    shown, others = by_size[:_LISTED], by_size[_LISTED:]
    lines = [f"{need.what}: {_gib(need.thin_bytes)}" for need in shown]
    if others:
        rest = _gib(sum(need.thin_bytes for need in others))
        lines.append(f"{len(others)} others: {rest} together")
    return lines


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
