"""The host of the VMs: processors, memory, pressure, and the space for the disks.

Only files that everybody can read are read, so an ordinary user sees what root sees.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.host.memory_facts import read_ksm, read_memory
from ai_how.host.reading import read_text
from ai_how.monitoring.figures import real, whole
from ai_how.monitoring.model import FileSystemUse, HostSample
from ai_how.state.models import ClusterState

_IDLE, _IOWAIT, _GUEST = 3, 4, 8
MIB = 2**20


class HostSource:
    """Looks at the host; what it is busy with is a mean since the look before."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` contains /proc and /sys."""
        self._root = root
        self._before: tuple[int, int] | None = None

    def look(self) -> HostSample:
        """The host now. Raises OSError if it has no /proc."""
        allowed = os.sched_getaffinity(0)
        memory = read_memory(self._root)
        if memory is None:
            raise OSError(f"{self._root / 'proc/meminfo'} tells no memory")
        ksm, swap = read_ksm(self._root), self._swap_mib()
        return HostSample(
            cpus=len(allowed),
            cpus_busy=self._busy(allowed),
            load=self._load(),
            memory_mib=memory.total_mib,
            memory_available_mib=memory.usable_mib,
            swap_mib=swap[0],
            swap_used_mib=swap[0] - swap[1],
            pressure=read_pressure(self._root / "proc/pressure"),
            ksm_saved_mib=ksm.saved_mib if ksm else None,
        )

    def _busy(self, allowed: set[int]) -> float | None:
        """How many of our processors were busy since the last look.

        In a container /proc/stat has all processors of the machine, also those that are not for us.
        """
        busy = total = 0
        for line in (read_text(self._root / "proc/stat") or "").splitlines():
            name, *words = line.split()
            number = whole(name.removeprefix("cpu"))
            if number not in allowed or not name.startswith("cpu"):
                continue
            ticks = [whole(word) or 0 for word in words[:_GUEST]]  # guests are in `user` already
            total += sum(ticks)
            busy += sum(ticks) - sum(ticks[_IDLE : _IOWAIT + 1])
        before, self._before = self._before, (busy, total)
        if before is None or total <= before[1] or busy < before[0]:
            return None
        share = (busy - before[0]) / (total - before[1])
        return round(min(1.0, share) * len(allowed), 3)

    def _load(self) -> tuple[float, float, float] | None:
        return read_load(read_text(self._root / "proc/loadavg") or "")

    def _swap_mib(self) -> tuple[int, int]:
        """In all, and free."""
        fields = {"SwapTotal": 0, "SwapFree": 0}
        for line in (read_text(self._root / "proc/meminfo") or "").splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                fields[name] = (whole(value.removesuffix("kB")) or 0) // 1024
        return fields["SwapTotal"], min(fields["SwapFree"], fields["SwapTotal"])


def read_load(text: str) -> tuple[float, float, float] | None:
    """The three figures of /proc/loadavg."""
    words = [real(word, most=1e6) for word in text.split()[:3]]
    if len(words) < 3 or None in words:  # noqa: PLR2004  of 1, 5 and 15 minutes
        return None
    one, five, fifteen = (word or 0.0 for word in words)
    return one, five, fifteen


def read_pressure(directory: Path) -> Mapping[str, float]:
    """The pressure of the last 10 s, in percent; empty if the kernel does not measure it."""
    found = {name: find_avg10(read_text(directory / name) or "") for name in PRESSURES}
    return {name: share for name, share in found.items() if share is not None}


PRESSURES = ("cpu", "memory", "io")


def find_avg10(text: str) -> float | None:
    """`some avg10=1.50 …` of a file in /proc/pressure."""
    for line in text.splitlines():
        kind, *words = line.split()
        if kind == "some" and words and words[0].startswith("avg10="):
            return real(words[0].removeprefix("avg10="), most=100)
    return None


@dataclass(frozen=True, slots=True)
class DiskSample:
    """The space for the disks of the VMs, and what each takes of it, by node."""

    storage: FileSystemUse | None
    used_bytes: Mapping[str, int]


def look_at_disks(state: ClusterState) -> DiskSample:
    """Look at the disks of a cluster. May hang with the file system that they are on."""
    used = {}
    for node in state.nodes:
        try:
            used[node.name] = node.disk.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return DiskSample(_storage_of(state), used)


def _storage_of(state: ClusterState) -> FileSystemUse | None:
    if not state.nodes:
        return None
    directory = state.nodes[0].disk.parent
    try:
        seen, device = os.statvfs(directory), directory.stat().st_dev
    except FileNotFoundError:
        return None
    return FileSystemUse(
        mount_point=str(_mount_point(directory, device)),
        size_mib=seen.f_blocks * seen.f_frsize // MIB,
        used_mib=(seen.f_blocks - seen.f_bfree) * seen.f_frsize // MIB,
        free_mib=seen.f_bavail * seen.f_frsize // MIB,
    )


def _mount_point(directory: Path, device: int) -> Path:
    """The highest directory above that is on the same file system."""
    top = directory.resolve()
    for above in top.parents:
        if above.stat().st_dev != device:
            break
        top = above
    return top
