"""The QEMU processes of our guests, as /proc has them."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from figures import BenchError


def qemu_started_at(guest: str) -> float:
    """When the QEMU of a guest began, by the wall clock. Raises BenchError where there is none."""
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for process in find_qemus(f"{guest},"):
        # Its name may hold spaces; what follows it may not. The 20th of those is the start.
        after_name = (process / "stat").read_text().rpartition(")")[2].split()
        return booted_at + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    raise BenchError(f"no QEMU of {guest} runs")


def find_qemus(guests: str) -> Iterator[Path]:
    """The directories in /proc of the QEMUs whose guests are called so, or begin so."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"qemu-system" in argv.partition(b"\0")[0] and f"guest={guests}".encode() in argv:
            yield process


def mean_memory_mib(cluster: str) -> float:
    """What the QEMU of each node takes of the host, on average: its share of what is shared."""
    found = [
        re.search(r"^Pss: +([0-9]+)", (one / "smaps_rollup").read_text(), re.MULTILINE)
        for one in find_qemus(f"{cluster}-")
    ]
    sizes_kib = [int(one[1]) for one in found if one]
    return sum(sizes_kib) / len(sizes_kib) / 1024
