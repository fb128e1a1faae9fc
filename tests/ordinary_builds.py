"""What an ordinary user does with an image of their own: builds it, and again after a kill."""

import os
import subprocess  # noqa: TID251  killed while it runs
import sys
from pathlib import Path

from ai_how.process import run

FILE = """\
version: "1.0"
images:
  mine: {run: [COMMAND]}
clusters:
  hpc:
    name: hpc
    base_image_path: mine
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""
OWNED = "'install -d -o man -m 0700 /opt/other && touch /opt/other/x && getcap /usr/bin/ping'"
PATH = Path.home() / ".cache" / "cluster.yaml"
IMAGES = Path.home() / ".local" / "share" / "ai-how" / "images"
BUILD = [sys.executable, "-m", "ai_how", "-c", str(PATH), "image", "build", "mine"]


def describe(command: str) -> None:
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(FILE.replace("COMMAND", command))


describe(f"{OWNED}, sleep 600")
with subprocess.Popen(  # noqa: S603  a program of ours
    BUILD, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
) as child:
    for line in child.stdout or ():
        if "sleep 600" in line:
            break
    child.kill()
assert len(list(IMAGES.glob(".part-*"))) == 1
describe(OWNED)
run(BUILD)
assert not list(IMAGES.glob(".part-*"))
sys.stdout.write("killed, built again\n")
