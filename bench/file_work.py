"""Runs in a guest: one large file and many small ones in a directory; prints the seconds as JSON.

The caches of the guest are dropped before anything is read, by `sudo`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LARGE_MIB, SMALL_FILES, SMALL_BYTES = 256, 2000, 1024
BLOCK = os.urandom(2**20)


def write_large(file: Path) -> None:
    with file.open("wb") as out:
        for _ in range(LARGE_MIB):
            out.write(BLOCK)
        out.flush()
        os.fsync(out.fileno())


def read_large(file: Path) -> None:
    with file.open("rb", buffering=0) as source:
        while source.read(2**20):
            pass


def timed(work: Callable[[], object]) -> float:
    subprocess.run(["sudo", "sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"], check=True)
    began = time.monotonic()
    work()
    return time.monotonic() - began


def main(parent: str) -> None:
    top = Path(parent) / "file-work"
    top.mkdir()
    large, small = top / "large", [top / f"small-{number}" for number in range(SMALL_FILES)]
    seconds = {
        f"write {LARGE_MIB} MiB": timed(lambda: write_large(large)),
        f"read {LARGE_MIB} MiB": timed(lambda: read_large(large)),
        f"create {SMALL_FILES}": timed(
            lambda: [file.write_bytes(BLOCK[:SMALL_BYTES]) for file in small]
        ),
        f"stat {SMALL_FILES}": timed(lambda: [file.stat() for file in small]),
        f"read {SMALL_FILES}": timed(lambda: [file.read_bytes() for file in small]),
    }
    shutil.rmtree(top)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1])
