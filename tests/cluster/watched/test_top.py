"""`hpc top` on a real cluster: what it shows, and what it does to jobs and nodes."""

import re
import time
from pathlib import Path

import pytest

from own_terminal import Terminal
from real_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

DOCS = Path(__file__).resolve().parents[3] / "docs"
SEEN_S = 180
SCRIPT = "#!/bin/sh\nfor line in 1 2 3 4 5 6 7 8 9; do echo said $line; sleep 1; done\nsleep 600\n"


MEMORY = re.compile(r"\d+M/[\d.]+[MG]")


@pytest.fixture
def top(watched: Cluster):
    """It runs in a terminal of 80 x 24."""
    terminal = Terminal([*watched.argv, "hpc", "top", "--cluster", "hpc"])
    try:
        yield terminal
    finally:
        terminal.close()
        watched.execute(
            "controller",
            "scancel --name=of-top; scontrol update nodename=ALL "
            "state=resume 2>/dev/null; rm -f /tmp/of-top.sh /home/*/of-top.out",
        )


def row_of(terminal: Terminal, start: str) -> list[str]:
    return next((line.split() for line in terminal.screen() if line.startswith(start)), [])


def test_nodes_and_jobs_are_shown_and_changed_from_the_view(watched: Cluster, top: Terminal):
    show_nodes(top)
    number = show_job(watched, top)
    show_output(top, number)
    cancel(watched, top, number)
    drain_and_resume(watched, top)
    top.press("q")
    assert top.end() == 0
    top.assert_restored()


def show_nodes(top: Terminal) -> None:
    """libvirt's and SLURM's figures of each node, under the headings that the docs have."""
    names = ("controller", "compute-01", "compute-02")
    top.wait_to_show(" ready  3/3 nodes on", SEEN_S)
    # An emulated guest tells of its memory minutes after its boot.
    top.wait_until(
        lambda _screen: all(MEMORY.fullmatch(row_of(top, name)[4]) for name in names),
        "the memory of all guests",
        SEEN_S,
    )
    for name in names:
        row = row_of(top, name)
        assert row[1] == "running"
        assert re.fullmatch(r"\d+\.\d/[12]", row[3]), row
    assert row_of(top, "compute-02")[2] == "idle"
    picture = (DOCS / "monitoring.md").read_text()
    for title in ("NODE", "JOB "):
        heading = next(line for line in top.screen() if line.startswith(title)).split()
        assert any(line.split()[:6] == heading[:6] for line in picture.splitlines())


def show_job(watched: Cluster, top: Terminal) -> str:
    """A job appears, with its node, and its node has it."""
    words = "--job-name=of-top --mem=50 --output=of-top.out --nodelist=compute-02 /tmp/of-top.sh"
    watched.ssh("controller", "cat >/tmp/of-top.sh", stdin=SCRIPT)
    said = watched.ssh("controller", f"sbatch --parsable --time=30 {words}")
    number = said.strip().splitlines()[-1]

    def is_there(screen: list[str]) -> bool:
        row = next((line.split() for line in screen if line.startswith(f"{number} ")), [])
        return row[3:5] == ["running", "compute-02"]

    top.wait_until(is_there, f"job {number}", SEEN_S)
    row = row_of(top, f"{number} ")
    assert row[2] == "compute"
    assert row[6] == "30:00"
    assert number in row_of(top, "compute-02")
    return number


def show_output(top: Terminal, number: str) -> None:
    """Its output is followed, its script shown; and the journal of a node."""
    top.press("\t")
    top.press("l")
    top.wait_to_show(f"job {number} of-top")
    top.wait_to_show("said 9", SEEN_S)
    top.press("s")
    top.wait_to_show("for line in 1 2 3", SEEN_S)
    top.press("i")
    assert "30:00" in top.wait_to_show("time  ")
    top.press("q")
    top.wait_to_show("NODE")
    top.press("\x1b[Z")
    top.press("j")
    top.press("l")
    top.wait_to_show(" following", SEEN_S)
    top.wait_to_show("compute-01  [l journal]")
    top.press("q")
    top.wait_to_show("NODE")


def cancel(watched: Cluster, top: Terminal, number: str) -> None:
    """Only after the question."""
    top.press("\t")
    top.press("x")
    top.wait_to_show(f"Cancel job {number} (of-top) of")
    top.press("n")
    top.wait_to_show("nothing was changed")
    assert number in watched.execute("controller", "squeue -h -t running -o %A").split()
    top.press("x")
    top.wait_to_show("It runs on compute-02")
    top.press("y")
    top.wait_to_show("cancelling…", SEEN_S)
    top.wait_until(
        lambda screen: any(f"{number} " in line and "cancelled" in line for line in screen[4:-1]),
        "a cancelled job",
        SEEN_S,
    )
    assert number not in watched.execute("controller", "squeue -h -o %A").split()


def drain_and_resume(watched: Cluster, top: Terminal) -> None:
    """With the reason that is typed; `top` shows what SLURM says afterwards."""
    top.press("\x1b[Z")
    for key in "jj":
        top.press(key)
        time.sleep(0.2)
    top.press("d")
    name = re.search(r"Drain (compute-0[12])\?", top.wait_to_show("Drain compute-0"))[1]
    top.press("of top's test\r")
    top.wait_to_show("draining…", SEEN_S)

    def is_drained(screen: list[str]) -> bool:
        return any(line.startswith(f"{name} running idle+drain") for line in screen)

    top.wait_until(is_drained, "a drained node", SEEN_S)
    top.wait_to_show("not ready")
    said = watched.execute("controller", f"sinfo -h -n {name} -o '%T|%E'")
    assert "drained|of top's test" in said
    top.press("u")
    top.wait_to_show("of top's test")
    top.press("y")
    top.wait_to_show(" ready  3/3 nodes on", SEEN_S)
    assert "idle" in watched.execute("controller", f"sinfo -h -n {name} -o %T")
