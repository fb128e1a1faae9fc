"""The QEMU processes of our guests, as /proc has them."""

import os
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from figures import BenchError


def qemu_started_at(guest: str) -> float:
    """When the QEMU of a guest began, by the wall clock. Raises BenchError where there is none."""
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for process in find_qemus(f"{guest},"):
        return booted_at + int(_after_name(process)[19]) / os.sysconf("SC_CLK_TCK")
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
    return statistics.mean(memory_mib(one)[1] for one in find_qemus(f"{cluster}-"))


def cpu_s(process: Path) -> float:
    """What a process has used, without its children."""
    fields = _after_name(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process: Path) -> tuple[float, float]:
    """RSS and PSS: with what it shares with others, and with its part of that."""
    text = (process / "smaps_rollup").read_text()
    rss, pss = (re.search(rf"^{name}: +([0-9]+)", text, re.MULTILINE) for name in ("Rss", "Pss"))
    if rss is None or pss is None:
        raise BenchError(f"the memory of {process} cannot be read")
    return int(rss[1]) / 1024, int(pss[1]) / 1024


def _after_name(process: Path) -> list[str]:
    """The fields of its `stat` after its name, which may hold spaces."""
    return (process / "stat").read_text().rpartition(")")[2].split()
