"""Measures starts of a cluster with simulated GPUs beside the same without, by turns."""

from pathlib import Path

from figures import Results
from running import Bench, say

STARTS = 4
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
    files = {kind: described(bench, kind) for kind in KINDS}
    for how, option in (("cold", "--no-warm"), ("warm", "")):
        if how == "warm":
            bench.run(f"image warm {next(iter(files.values()))}")
        for _ in range(STARTS):
            for kind, file in files.items():
                title = f"hpc start, {how}, 1 + 2, {kind}"
                say(f"... {title}")
                run, _ = bench.run(f"hpc start {option} {file}")
                results.runs.setdefault(title, []).append(run)
                bench.run(f"hpc destroy --force {file}")


def described(bench: Bench, kind: str) -> Path:
    """The cluster file of one kind."""
    file = bench.work / f"{kind.replace(' ', '-')}.yaml"
    file.write_text(FILE.format(name=file.stem.lower(), gpu=KINDS[kind]))
    return file
