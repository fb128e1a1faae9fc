"""The NUMA nodes of the host: their CPUs, their free huge pages, and which devices are at each.

Sources: the kernel's Documentation/ABI/stable/sysfs-devices-node and Documentation/admin-guide/mm/
hugetlbpage.rst.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ai_how.host.reading import entries, read_number, read_text

NODES = "sys/devices/system/node"


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A NUMA node of the host; `free_hugepages` has the number of free pages by their KiB."""

    number: int
    cpus: frozenset[int]
    free_hugepages: Mapping[int, int] = field(default_factory=dict)


def read_numa_nodes(root: Path) -> dict[int, NumaNode]:
    """Those that are online, by number; empty where the kernel shows none."""
    found = {}
    for directory in entries(root / NODES):
        if match := re.fullmatch(r"node(\d+)", directory.name):
            number = int(match[1])
            cpus = parse_list(read_text(directory / "cpulist") or "")
            found[number] = NumaNode(number, cpus, _read_free_hugepages(directory))
    return dict(sorted(found.items()))


def read_usable_cpus(root: Path) -> frozenset[int] | None:
    """The CPUs that this process may use, by its affinity and cpuset; None if that is not known."""
    status = read_text(root / "proc/self/status") or ""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
    return parse_list(found[1]) if found else None


def read_numa_node(directory: Path) -> int | None:
    """The NUMA node of a device by its directory; None if the firmware tells none (-1)."""
    return read_number(directory / "numa_node")


def read_address_bits(root: Path) -> int | None:
    """The number of bits of the physical addresses of the host's CPUs."""
    text = read_text(root / "proc/cpuinfo") or ""
    found = re.search(r"^address sizes\s*: (\d+) bits physical", text, re.MULTILINE)
    return int(found[1]) if found else None


def parse_list(text: str) -> frozenset[int]:
    """`0-3,8` as the kernel writes sets of CPUs."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _read_free_hugepages(directory: Path) -> dict[int, int]:
    pools = {}
    for pool in entries(directory / "hugepages"):
        size = pool.name.removeprefix("hugepages-").removesuffix("kB")
        free = read_number(pool / "free_hugepages")
        if size.isdecimal() and free is not None:
            pools[int(size)] = free
    return pools
