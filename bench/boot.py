"""Takes the boot of nodes apart: what had happened in a guest, and how long after its QEMU began.

The guest's own words for it (kernel log, systemd, journal) all count from the start of its kernel;
when that was, is known by the wall clock.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from figures import BenchError
from qemus import qemu_started_at
from running import Bench

# Units, by what they are to a node, in the order in which a boot comes to them.
UNITS = {
    "agent": "qemu-guest-agent.service",
    "munge": "munge.service",
    "slurmctld": "slurmctld.service",
    "NFS": "nfs-server.service",
    "/home": "home.mount",
    "slurmd": "slurmd.service",
}
# One more line than systemd has: what SLURM says when the job that proves the cluster is done.
JOB_DONE = "_job_complete: JobId=1 done"
JOURNAL = "sudo journalctl --boot --output short-monotonic --unit slurmctld --no-pager"
ASK = f"""\
echo "now $(date +%s.%N) $(cut -d ' ' -f 1 /proc/uptime)"
sudo dmesg | sed -n 's/^\\[ *\\([0-9.]*\\)] Run .init as init process/init \\1/p'
systemctl show --property UserspaceTimestampMonotonic
systemctl show --property Id,ActiveEnterTimestampMonotonic {" ".join(UNITS.values())}
{JOURNAL} --grep '{JOB_DONE}' || true
"""


def take_boot_apart(
    bench: Bench, cluster: str, nodes: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Seconds from the start of a node's QEMU until each mark was passed, by node."""
    config = bench.state / cluster / "ssh" / "config"
    return {node: dict(read_marks(config, cluster, node)) for node in nodes}


def read_marks(config: Path, cluster: str, node: str) -> Iterator[tuple[str, float]]:
    argv = ["ssh", "-F", str(config), "-o", "ControlMaster=no", node, ASK]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    marks = parse_marks(done.stdout)
    if done.returncode != 0 or "firmware" not in marks:
        raise BenchError(f"ssh {node}: {done.stderr.strip()}")
    kernel_s = marks.pop("firmware") - qemu_started_at(f"{cluster}-{node}")
    yield "firmware", kernel_s
    for name, seconds in marks.items():
        yield name, kernel_s + seconds


def parse_marks(said: str) -> dict[str, float]:
    """What a node answered to ASK, in seconds since its kernel began.

    `firmware` is when that was, by the wall clock. A unit that never became active has no mark.
    """
    marks: dict[str, float] = {}
    if found := re.search(r"^now (\S+) (\S+)$", said, re.MULTILINE):
        marks["firmware"] = float(found[1]) - float(found[2])
    if found := re.search(r"^init (\S+)$", said, re.MULTILINE):
        marks["kernel"] = float(found[1])
    if found := re.search(r"^UserspaceTimestampMonotonic=(\d+)$", said, re.MULTILINE):
        marks["initrd"] = int(found[1]) / 1e6
    shown = dict(re.findall(r"^Id=(.+)\nActiveEnterTimestampMonotonic=(\d+)$", said, re.MULTILINE))
    for name, unit in UNITS.items():
        if at := int(shown.get(unit, 0)):
            marks[name] = at / 1e6
    if found := re.search(rf"^\[ *([\d.]+)\].*{JOB_DONE}", said, re.MULTILINE):
        marks["job"] = float(found[1])
    return marks
