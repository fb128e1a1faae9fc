"""Checks that the disks fit the file system: thin, and in the worst case (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ai_how.errors import HostError

GIB = 1 << 30
# A first boot writes logs, journals, host keys and SLURM's spool to an empty overlay.
_FIRST_BOOT_BYTES = 128 << 20
# One 8-byte L2 entry and one 2-byte refcount for each cluster of 64 KiB, rounded up.
_CLUSTERS_PER_METADATA_BYTE = 4096
_LISTED = 8


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """The space that one file needs: `thin_bytes` at first, `worst_case_bytes` at most."""

    what: str
    thin_bytes: int
    worst_case_bytes: int


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """The sums. `warning` is set if guests could fill the file system."""

    thin_bytes: int
    worst_case_bytes: int
    free_bytes: int
    warning: str | None


def overlay_need(node: str, size_gib: int) -> DiskNeed:
    """The need of an overlay: almost empty at first, at most its virtual size and qcow2 tables."""
    size = size_gib * GIB
    return DiskNeed(
        f"disk of {node}",
        min(_FIRST_BOOT_BYTES, size),
        size + size // _CLUSTERS_PER_METADATA_BYTE,
    )


def check_space(needs: Sequence[DiskNeed], *, free_bytes: int, reserve_bytes: int) -> SpaceReport:
    """Check the sum of all needs. Raises HostError if even the thin sizes do not fit.

    `reserve_bytes` stays free for state and logs. A worst case that does not fit is only a warning:
    QEMU pauses a guest when the host's disk is full, and no data is lost.
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
            " QEMU would pause guests that fill their disks"
        )
    return SpaceReport(thin, worst, free_bytes, warning)


def _largest(needs: Sequence[DiskNeed]) -> list[str]:
    """One line for each of the largest needs, and one for the sum of the others."""
    by_size = sorted(needs, key=lambda need: -need.thin_bytes)
    shown, others = by_size[:_LISTED], by_size[_LISTED:]
    lines = [f"{need.what}: {_gib(need.thin_bytes)}" for need in shown]
    if others:
        rest = _gib(sum(need.thin_bytes for need in others))
        lines.append(f"{len(others)} others: {rest} together")
    return lines


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
