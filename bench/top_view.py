#!/usr/bin/env python3
"""How fast `hpc top` answers a key and takes an update: `bench/top_view.py 256 1000`.

The view runs on a pseudo-terminal of 120 x 40, on made-up nodes and jobs of which each update
changes all figures. The time of a key is that until the last byte of its answer. With `--start
CLUSTER` it measures the time from the start of `ai-how hpc top` to its first picture instead. Run
it with the project's Python.
"""

import argparse
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
ROWS, COLUMNS = 40, 120
UPDATE_S = 1.0
# An answer is over when nothing follows for so long.
QUIET_S = 0.02
KEYS = {"a row down": b"j", "a page down": b"\x06", "a page up": b"\x02", "sort": b">"}


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    given.add_argument("nodes", type=int, nargs="?", default=256)
    given.add_argument("jobs", type=int, nargs="?", default=1000)
    given.add_argument("--presses", type=int, default=200)
    given.add_argument("--start", metavar="CLUSTER")
    given.add_argument("--state-dir", default=None)
    given.add_argument("--child", metavar="LOG", help=argparse.SUPPRESS)
    asked = given.parse_args()
    if asked.child:
        show(asked.nodes, asked.jobs, Path(asked.child))
    elif asked.start:
        place = ["--state-dir", asked.state_dir] if asked.state_dir else []
        argv = [sys.executable, "-m", "ai_how", *place, "hpc", "top", "--cluster", asked.start]
        tell("first picture", [first_picture(argv) for _ in range(asked.presses // 10)])
    else:
        measure(asked.nodes, asked.jobs, asked.presses)


def measure(nodes: int, jobs: int, presses: int) -> None:
    """Press keys on the table of jobs, while updates come."""
    with tempfile.NamedTemporaryFile() as log:
        argv = [sys.executable, __file__, str(nodes), str(jobs), "--child", log.name]
        with on_terminal(argv) as master:
            answer_s(master, within_s=20.0)
            time.sleep(2 * UPDATE_S)
            answer_s(master, b"\t")
            for name, key in KEYS.items():
                tell(name, [answer_s(master, key) for _ in range(presses)])
            os.write(master, b"q")
            time.sleep(0.5)
        tell("an update", [float(line) for line in Path(log.name).read_text().split()])


def first_picture(argv: Sequence[str]) -> float:
    """From the start of the process to the words that it looks for an answer, in seconds."""
    begun = time.monotonic()
    with on_terminal(argv) as master:
        seen = b""
        while b"looking" not in seen:
            seen += os.read(master, 65536)
        took_s = time.monotonic() - begun
        os.write(master, b"q")
        time.sleep(1.0)
    return took_s


@contextmanager
def on_terminal(argv: Sequence[str]) -> Iterator[int]:
    """A program on a terminal of its own; our side of that."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = os.environ | {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
    words = ["setsid", "--ctty", *argv]
    child = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    try:
        yield master
    finally:
        child.terminate()
        os.close(master)
        child.wait()


def answer_s(master: int, key: bytes = b"", within_s: float = 2.0) -> float:
    """How long until the last byte of the answer to a key."""
    drain(master)
    begun = last = time.monotonic()
    if key:
        os.write(master, key)
    has_begun = False
    while time.monotonic() - begun < within_s:
        if select.select([master], [], [], QUIET_S)[0]:
            os.read(master, 65536)
            last, has_begun = time.monotonic(), True
        elif has_begun:
            break
    return last - begun


def drain(master: int) -> None:
    while select.select([master], [], [], QUIET_S)[0]:
        os.read(master, 65536)


def tell(name: str, took_s: Sequence[float]) -> None:
    """A line with the median and the worst but one of a hundred, in milliseconds."""
    if not took_s:
        return
    ordered = sorted(1000 * one for one in took_s)
    shown = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99)]
    print(f"{name:14} p50 {shown[0]:7.1f} ms  p99 {shown[1]:7.1f} ms  of {len(ordered)}")


def show(nodes: int, jobs: int, log: Path) -> None:
    """The view itself, with an update each second."""
    sys.path.insert(0, str(ROOT / "tests"))
    from ai_how.monitoring.model import Snapshot  # noqa: PLC0415  the child alone
    from ai_how.top.overview import Overview  # noqa: PLC0415
    from ai_how.top.run import show_top  # noqa: PLC0415
    from made_up_cluster import make_snapshot  # noqa: PLC0415
    from made_up_feed import Feed, MadeUpSource  # noqa: PLC0415

    plain, chance = make_snapshot(nodes=nodes, jobs=jobs, at=time.time()), Random(1)  # noqa: S311

    def changed() -> Snapshot:
        seen = tuple(
            replace(one, vm=one.vm and replace(one.vm, cpus_busy=4 * chance.random()))
            for one in plain.nodes
        )
        return replace(plain, at=time.time(), nodes=seen)

    feed = Feed(plain)

    def go_on() -> None:
        while True:
            time.sleep(UPDATE_S)
            feed.put(changed())

    drawn = Overview.show_picture

    def timed(self: Overview, picture: object) -> None:
        begun = time.monotonic()
        drawn(self, picture)  # type: ignore[arg-type]
        with log.open("a") as file:
            file.write(f"{time.monotonic() - begun}\n")

    Overview.show_picture = timed  # type: ignore[method-assign]
    threading.Thread(target=go_on, daemon=True).start()
    show_top(MadeUpSource(feed), "made-up", sys.stderr)


if __name__ == "__main__":
    main()
