"""Measures starts of a cluster with simulated GPUs beside the same without, by turns."""

from pathlib import Path

from figures import Results
from running import Bench, start_by_turns

FILE = """version: "1.0"
clusters:
  hpc:
    name: {name}
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    compute_nodes: {{count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10{gpu}}}
"""
KINDS = {
    "without GPUs": "",
    "with simulated GPUs": ", gpu: {simulated: {type: a100, count: 8}}",
}


def measure_gpus(bench: Bench, results: Results) -> None:
    """Cold and warm starts of 1 + 2. Both kinds are restored from the same saved VMs."""
    start_by_turns(bench, results, {kind: described(bench, kind) for kind in KINDS})


def described(bench: Bench, kind: str) -> Path:
    """The cluster file of one kind."""
    file = bench.work / f"{kind.replace(' ', '-')}.yaml"
    file.write_text(FILE.format(name=file.stem.lower(), gpu=KINDS[kind]))
    return file
