"""Run where guests can be reached: waits until ssh runs `true` on every address, and says when.

await_ssh.py USER KEY SECONDS ADDRESS… prints a JSON object of address → CLOCK_MONOTONIC, which is
one clock for all processes, and exits with 1 where an address did not answer in time.
"""

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "GlobalKnownHostsFile=/dev/null",
    "IdentitiesOnly=yes",
    "LogLevel=ERROR",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
)


def is_open(address: str) -> bool:
    """Whether something that speaks ssh listens; asks cheaply, as guests share our processors."""
    try:
        with socket.create_connection((address, 22), timeout=2) as line:
            line.settimeout(10)
            return line.recv(4) == b"SSH-"
    except OSError:
        return False


def runs_true(user: str, key: str, address: str) -> bool:
    options = [word for option in OPTIONS for word in ("-o", option)]
    argv = ["ssh", "-F", "none", *options, "-i", key, f"{user}@{address}", "true"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def wait_for(user: str, key: str, address: str, give_up: float) -> float | None:
    while time.monotonic() < give_up:
        if is_open(address) and runs_true(user, key, address):
            return time.monotonic()
        time.sleep(0.25)
    return None


def main(user: str, key: str, patience_s: str, *addresses: str) -> int:
    give_up = time.monotonic() + float(patience_s)
    with ThreadPoolExecutor(len(addresses)) as pool:
        found = list(pool.map(lambda one: wait_for(user, key, one, give_up), addresses))
    sys.stdout.write(json.dumps(dict(zip(addresses, found, strict=True))) + "\n")
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
