"""What an ordinary user does with a cluster, from nothing to nothing, by the program."""

import sys
from pathlib import Path

from ai_how.process import Completed, run

FILE = """\
version: "1.0"
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 0.75, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 0.75, disk_gb: 5}
"""
VERB_S = 1200


def call(*words: str, is_well: bool = True) -> Completed:
    argv = [sys.executable, "-m", "ai_how", "-c", str(FILE_PATH), *words]
    done = run(argv, check=False, timeout_s=VERB_S)
    sys.stdout.write(done.stdout + done.stderr)
    if is_well and done.returncode != 0:
        raise SystemExit(f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


FILE_PATH = Path.home() / ".cache" / "cluster.yaml"
FILE_PATH.parent.mkdir(exist_ok=True)
FILE_PATH.write_text(FILE)
call("image", "warm")
call("hpc", "start")
call("hpc", "ssh", "controller", "--", "srun hostname")
call("hpc", "destroy", "--force")
call("host", "down")
call("hpc", "status", is_well=False)
