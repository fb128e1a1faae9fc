"""Compares where a node's files can be: a share of the host, the shared home, its own disk."""

import json
import shutil
from pathlib import Path

from figures import Results
from running import Bench, say

SHARING = "sharing"
MOUNTED = "/srv/share"
FILE = """version: "1.0"
clusters:
  hpc:
    name: {name}
    controller: {{cpu_cores: 1, memory_gb: 0.75, disk_gb: 10}}
    compute_nodes:
      - cpu_cores: 1
        memory_gb: 0.75
        disk_gb: 10
        virtio_fs_mounts: [{{tag: share, host_path: "{share}", mount_point: {point}}}]
"""
PLACES = {"virtiofs": MOUNTED, "NFS": "/home/hpc", "the node's disk": "/var/tmp"}  # noqa: S108
WORK = Path(__file__).with_name("file_work.py")


def measure_shares(bench: Bench, results: Results) -> None:
    """The same work in each place, by the user, one after the other."""
    say("... virtiofs and NFS")
    share = bench.work / "share"
    share.mkdir()
    shutil.copy(WORK, share)
    file = bench.work / f"{SHARING}.yaml"
    file.write_text(FILE.format(name=SHARING, share=share, point=MOUNTED))
    bench.run(f"hpc start {file}")
    try:
        for title, place in PLACES.items():
            words = (
                f"hpc ssh --cluster {SHARING} compute-01 -- python3 {MOUNTED}/{WORK.name} {place}"
            )
            _, printed = bench.run(words)
            results.files_s[title] = json.loads(printed)
    finally:
        bench.run(f"hpc destroy --force --cluster {SHARING}")
