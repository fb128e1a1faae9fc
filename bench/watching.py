"""Measures what the monitoring costs: starts with and without it, and the collector as it runs."""

import json
import os
import time
from pathlib import Path

from figures import BenchError, Results, Watched
from qemus import cpu_s, find_qemus, memory_mib
from running import Bench, say, start_by_turns

SIZES = (1, 2, 7)
"""Compute nodes, beside a controller."""
WATCH_S = 300.0
SETTLE_S = 60.0
FILE = """version: "1.0"
clusters:
  hpc:
    name: {name}
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    compute_nodes: {{count: {count}, cpu_cores: 1, memory_gb: 0.5, disk_gb: 10}}
    monitoring: {{enabled: {enabled}}}
"""


def measure_watched(bench: Bench, results: Results) -> None:
    """Starts by turns, then clusters of several sizes as they idle."""
    files = {
        "without monitoring": described(bench, 2, is_watched=False),
        "with monitoring": described(bench, 2, is_watched=True),
    }
    start_by_turns(bench, results, files)
    for count in SIZES:
        results.watched[f"1 + {count}"] = measure_idle(bench, count)


def measure_idle(bench: Bench, count: int) -> Watched:
    """A cluster that idles, first without a collector, then with one."""
    say(f"... an idle cluster of 1 + {count}")
    file = described(bench, count, is_watched=False)
    bench.run(f"hpc start {file}")
    try:
        time.sleep(SETTLE_S)
        without = guests_cpu(file.stem)
        bench.run(f"hpc monitor start {file}")
        time.sleep(SETTLE_S)
        collector = collector_of(bench, file)
        before, used_s = size_of_database(bench, file), cpu_s(collector)
        began = time.monotonic()
        with_it = guests_cpu(file.stem)
        took_s = time.monotonic() - began
        collector_s = cpu_s(collector) - used_s
        rss_mib, pss_mib = memory_mib(collector)
        grown = size_of_database(bench, file) - before
        bench.run(f"hpc monitor stop {file}")
    finally:
        bench.run(f"hpc destroy --force {file}")
    return Watched(
        collector_percent=100 * collector_s / took_s,
        rss_mib=rss_mib,
        pss_mib=pss_mib,
        database_mib_a_day=grown / 2**20 * 86400 / took_s,
        guests_percent_without=100 * without,
        guests_percent_with=100 * with_it,
        load=os.getloadavg()[0],
    )


def described(bench: Bench, count: int, *, is_watched: bool) -> Path:
    """The cluster file of a size."""
    file = bench.work / f"{'watched' if is_watched else 'alone'}-{count}.yaml"
    file.write_text(FILE.format(name=file.stem, count=count, enabled=str(is_watched).lower()))
    return file


def guests_cpu(cluster: str) -> float:
    """The processors that all QEMUs of a cluster keep busy, over WATCH_S."""
    before = {one: cpu_s(one) for one in find_qemus(f"{cluster}-")}
    began = time.monotonic()
    time.sleep(WATCH_S)
    took_s = time.monotonic() - began
    if not before:
        raise BenchError(f"no QEMU of {cluster} runs")
    return sum(cpu_s(one) - used_s for one, used_s in before.items()) / took_s


def collector_of(bench: Bench, file: Path) -> Path:
    """Its directory in /proc."""
    _, printed = bench.run(f"hpc monitor status --json {file}")
    return Path("/proc", str(json.loads(printed)["pid"]))


def size_of_database(bench: Bench, file: Path) -> int:
    """All files of it, in bytes."""
    found = (bench.state / file.stem).glob("history.sqlite*")
    return sum(one.stat().st_size for one in found)
