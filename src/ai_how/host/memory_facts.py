"""The memory that the host can still give: the kernel's estimate, limited by our cgroups."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_how.host.reading import read_number, read_text

MIB = 1024 * 1024
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63


@dataclass(frozen=True, slots=True)
class Memory:
    """`available_mib` is MemAvailable: free without swapping, including reclaimable cache.

    `cgroup_headroom_mib` is what the tightest cgroup above us still allows; None: no limit.
    """

    total_mib: int
    available_mib: int
    cgroup_headroom_mib: int | None = None

    @property
    def usable_mib(self) -> int:
        """What new guests can use in total."""
        if self.cgroup_headroom_mib is None:
            return self.available_mib
        return min(self.available_mib, self.cgroup_headroom_mib)


@dataclass(frozen=True, slots=True)
class Hugepages:
    """One pool of reserved pages; MemAvailable does not include it."""

    size_kib: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Ksm:
    """Kernel samepage merging: the kernel keeps one copy of identical pages."""

    is_on: bool
    saved_mib: int


def read_memory(root: Path) -> Memory | None:
    """The memory of the host, or None if /proc does not have it."""
    fields = _meminfo_kib(read_text(root / "proc/meminfo") or "")
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None
    return Memory(
        total_mib=fields["MemTotal"] // 1024,
        available_mib=fields["MemAvailable"] // 1024,
        cgroup_headroom_mib=_cgroup_headroom_mib(root),
    )


def read_hugepages(root: Path) -> tuple[Hugepages, ...]:
    """Every pool of the kernel, smallest pages first."""
    pools = []
    for directory in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        size = directory.name.removeprefix("hugepages-").removesuffix("kB")
        total = read_number(directory / "nr_hugepages")
        free = read_number(directory / "free_hugepages")
        if size.isdecimal() and total is not None and free is not None:
            pools.append(Hugepages(int(size), total, free))
    return tuple(sorted(pools, key=lambda pool: pool.size_kib))


def read_hugepage_mounts(root: Path) -> frozenset[int]:
    """The page sizes in KiB of each hugetlbfs that is mounted; libvirt can use those."""
    sizes = set()
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        _, _, rest = line.partition(" - ")
        kind, _, options = rest.partition(" ")
        if kind == "hugetlbfs" and (found := re.search(r"\bpagesize=(\d+)([KMG])", options)):
            sizes.add(int(found[1]) << {"K": 0, "M": 10, "G": 20}[found[2]])
    return frozenset(sizes)


def read_ksm(root: Path) -> Ksm | None:
    """Whether identical pages are shared, or None if the kernel has no KSM."""
    directory = root / "sys/kernel/mm/ksm"
    mode = read_number(directory / "run")
    if mode is None:
        return None
    # 1 merges; 0 only stops merging; 2 also unmerges all pages.
    pages = read_number(directory / "pages_sharing") or 0
    return Ksm(mode == 1, pages * os.sysconf("SC_PAGE_SIZE") // MIB)


def _meminfo_kib(text: str) -> dict[str, int]:
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdecimal():
            fields[name] = int(number[0])
    return fields


def _cgroup_headroom_mib(root: Path) -> int | None:
    """The smallest headroom of our cgroup and those above it; None without a limit."""
    rooms = [room for group in _own_cgroups(root) if (room := _headroom_bytes(group)) is not None]
    return min(rooms) // MIB if rooms else None


def _own_cgroups(root: Path) -> Iterator[Path]:
    """Directories of our memory cgroup and its ancestors, version 2 or 1."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = base / path.strip("/")
        yield group
        yield from (above for above in group.parents if above.is_relative_to(base))


def _headroom_bytes(group: Path) -> int | None:
    """What a cgroup can still use; page cache that is not in use can be reclaimed."""
    limit = read_number(group / "memory.max") or read_number(group / "memory.limit_in_bytes")
    if not limit or limit >= NO_LIMIT:
        return None
    used = read_number(group / "memory.current") or read_number(group / "memory.usage_in_bytes")
    cache = 0
    for line in (read_text(group / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            cache = max(cache, int(value))
    return max(0, limit - max(0, (used or 0) - cache))
