"""The command line of script/bench: what to measure, and where its figures go."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from figures import BenchError, Results, render
from gpus import measure_gpus
from images import measure_disk, measure_images
from ours import measure_cli, measure_cluster, measure_many
from peers import measure_peers
from plot import render_svg
from running import AI_HOW, ROOT, Bench, prepared
from shares import measure_shares
from use import measure_use
from watching import measure_watched

RESULTS = ROOT / "bench" / "results.json"
PICTURE = ROOT / "bench" / "stages.svg"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench", description="Measure ai-how on this machine, and what else there is."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"instead of {RESULTS.name}")
    parser.add_argument("--svg", type=Path, metavar="FILE", help=f"instead of {PICTURE.name}")
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="an empty one (default: a temporary one)"
    )
    parser.add_argument(
        "--many", type=int, metavar="N", help="also a cluster of 1 + N nodes of 0.5 GiB"
    )
    parser.add_argument("--no-cluster", action="store_true", help="only the CLI's own cost")
    parser.add_argument(
        "--disk", type=Path, metavar="FILE", help="also a cloud image: its first and later starts"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--no-peers", action="store_true", help="without other tools")
    choice.add_argument(
        "--only-shares", action="store_true", help="nothing but virtiofs against NFS"
    )
    choice.add_argument(
        "--only-images", action="store_true", help="nothing but builds of images, and their starts"
    )
    choice.add_argument(
        "--only-gpus", action="store_true", help="nothing but starts with simulated GPUs"
    )
    choice.add_argument(
        "--only-use", action="store_true", help="nothing but a cluster in use, against by hand"
    )
    choice.add_argument(
        "--only-monitoring", action="store_true", help="nothing but what the monitoring costs"
    )
    choice.add_argument("--only-peers", action="store_true", help="nothing but other tools")
    options = parser.parse_args()
    if options.state_dir and options.state_dir.exists() and any(options.state_dir.iterdir()):
        parser.error(f"{options.state_dir} is not empty: it might hold clusters of yours")
    return options


def measure(options: argparse.Namespace) -> Results:
    """All that was asked for, ours first. Raises BenchError where one of our verbs fails."""
    results = Results(read_machine())
    if not options.only_peers:
        with prepared(options.state_dir) as bench:
            if not options.only_use:
                measure_cli(bench, results)
            if not options.no_cluster:
                try:
                    measure_ours(bench, results, options)
                finally:
                    bench.clean_up()
    if not (options.no_peers or options.no_cluster or has_one_part(options)):
        results.peers = measure_peers()
    return results


def has_one_part(options: argparse.Namespace) -> bool:
    """Whether it is a run of one part, which is not what results.json has."""
    parts = ("shares", "images", "gpus", "use", "monitoring")
    return any(getattr(options, f"only_{part}") for part in parts)


def measure_ours(bench: Bench, results: Results, options: argparse.Namespace) -> None:
    """What boots guests of ours."""
    if options.only_gpus:
        measure_gpus(bench, results)
        return
    if options.only_monitoring:
        measure_watched(bench, results)
        return
    if not has_one_part(options):
        measure_cluster(bench, results)
    if options.only_use or not has_one_part(options):
        measure_use(bench, results)
    if options.only_shares or not has_one_part(options):
        measure_shares(bench, results)
    if options.only_images or not has_one_part(options):
        measure_images(bench, results)
    if options.disk:
        measure_disk(bench, results, options.disk)
    if options.many:
        measure_many(bench, results, options.many)


def read_machine() -> dict[str, str]:
    """Where these figures are from: without it they compare with nothing."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "cores": f"{os.cpu_count()} ({cpu[1] if cpu else platform.machine()})",
        "memory": f"{memory_gib:.1f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "kernel": platform.release(),
        "QEMU": first_line("qemu-system-x86_64", "--version"),
        "libvirt": first_line("libvirtd", "--version"),
        "Python": first_line(str(AI_HOW.with_name("python")), "--version"),
    }


def first_line(*argv: str) -> str:
    """What a program says first; `-` where it is not there or fails."""
    tool = shutil.which(argv[0], path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if tool is None:
        return "-"
    done = subprocess.run([tool, *argv[1:]], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["-"])[0]


def main() -> int:
    options = read_options()
    # Whoever ends us with SIGTERM would else leave guests behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = [] if options.no_cluster else ["--image"]
    subprocess.run([ROOT / "script" / "setup", *wanted], check=True)
    try:
        results = measure(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(render(results))
    if options.only_use:
        write_use(results, options.json or RESULTS)
    elif options.json or not (options.no_cluster or has_one_part(options)):
        write(results, options.json or RESULTS, options.svg or PICTURE)
    return 0


def write_use(results: Results, file: Path) -> None:
    """The figures of a cluster in use, among those of another run."""
    content = json.loads(file.read_text()) if file.exists() else {}
    new = asdict(results)
    content |= {"use": new["use"], "use_machine": new["use_machine"]}
    file.write_text(json.dumps(content, indent=2) + "\n")
    print(file, file=sys.stderr)


def write(results: Results, file: Path, picture: Path) -> None:
    """The figures, and the picture of them."""
    content = asdict(results)
    file.write_text(json.dumps(content, indent=2) + "\n")
    picture.write_text(render_svg(content))
    print(f"{file}, {picture}", file=sys.stderr)
