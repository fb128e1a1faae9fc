"""Programs that use the Python API, for use.py; each prints the seconds that it took as JSON.

api_use.py calls STATE FILE COUNT    commands by the API and by ssh, alternated
api_use.py first STATE               a cluster of its own, until the first result
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

BEGUN = time.monotonic()

import ai_how  # noqa: E402  its import is a part of what is measured

CONNECT = "embedded"


def calls(state: str, file: str, count: str) -> dict[str, list[float]]:
    """`true` on the controller: the first by the API, which logs in, and the others."""
    one = ai_how.Cluster.from_file(file, state_dir=state, connect=CONNECT)
    config = Path(state, one.name, "ssh", "config")
    by_hand = ["ssh", "-F", str(config), "controller", shlex.join(["true"])]
    found: dict[str, list[float]] = {"ours": [], "by hand": []}
    for _ in range(int(count) + 1):
        began = time.monotonic()
        one.run(["true"], check=True)
        found["ours"].append(time.monotonic() - began)
        began = time.monotonic()
        subprocess.run(by_hand, check=True, capture_output=True)
        found["by hand"].append(time.monotonic() - began)
    return found


def first(state: str) -> float:
    """From the start of this program until a job of a new cluster has answered."""
    with ai_how.cluster(state_dir=state, connect=CONNECT) as one:
        said = one.run(["srun", "-N2", "hostname"], check=True).stdout.split()
        took_s = time.monotonic() - BEGUN
    assert sorted(said) == ["compute-01", "compute-02"], said  # noqa: S101  else it measured nothing
    return took_s


if __name__ == "__main__":
    _, what, *words = sys.argv
    print(json.dumps(calls(*words) if what == "calls" else first(*words)))
