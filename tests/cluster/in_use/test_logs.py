"""`hpc logs` on real journals: two nodes in the order of time, followed through a new agent."""

import json
import signal
import subprocess  # noqa: TID251  a program is read while it runs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_how.process import child_environment
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster

pytestmark = pytest.mark.slurm

NODES = ("compute-01", "compute-02")
DEADLINE_S = 600


class Follower:
    """`hpc logs -f --json` of two nodes, and what it has printed."""

    def __init__(self, used: Cluster, directory: Path) -> None:
        self.out, self.err = directory / "out", directory / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.program = subprocess.Popen(  # noqa: S603
                [*used.argv, "-c", str(used.file), "hpc", "logs", "-f", "--json", *NODES],
                env=child_environment(used.env),
                stdout=out,
                stderr=err,
            )

    def shown(self) -> list[tuple[str, str]]:
        """The nodes and messages of our own entries."""
        entries = [json.loads(one) for one in self.out.read_text().splitlines(keepends=True)[:-1]]
        return [(one["node"], one["message"]) for one in entries if one["identifier"] == "probe"]

    def wait_for(self, *entries: tuple[str, str]) -> None:
        def is_so() -> bool:
            assert self.program.poll() is None, self.err.read_text()
            return len(self.shown()) >= len(entries)

        wait_until(is_so, Deadline.after(DEADLINE_S), f"{entries}; {self.err.read_text()}")
        assert self.shown() == list(entries)


@contextmanager
def following(used: Cluster, directory: Path) -> Iterator[Follower]:
    follower = Follower(used, directory)
    try:
        yield follower
    finally:
        follower.program.kill()
        follower.program.wait()


@pytest.mark.long
@pytest.mark.fault("F68", "the agent of a real node that is followed restarts")
def test_a_follower_shows_two_nodes_in_order_though_an_agent_restarts(
    used: Cluster, tmp_path: Path
) -> None:
    def log(node: str, message: str) -> tuple[str, str]:
        # One after the other, so that the last line of all is ours and complete.
        used.ssh(node, f"logger -t probe {message} && logger -t after {message}")
        return node, message

    first, second = NODES
    with following(used, tmp_path) as follower:
        entries = [log(first, "one"), log(second, "two"), log(first, "three")]
        follower.wait_for(*entries)
        assert follower.err.read_text() == ""
        used.ssh(first, "sudo systemctl restart qemu-guest-agent")
        entries += [log(second, "four"), log(first, "five"), log(second, "six")]
        follower.wait_for(*entries)
        assert follower.err.read_text() == (
            "ai-how: compute-01 did not answer; its journal goes on where it was when it answers\n"
        )
        follower.program.send_signal(signal.SIGINT)
        assert follower.program.wait(DEADLINE_S) == 130
    left = "pgrep -x journalctl; ls -d /run/ai-how-exec-*"
    for node in NODES:
        # Besides the directory of this question.
        wait_until(
            lambda node=node: len(used.execute(node, f"{left}; true").split()) <= 1,
            Deadline.after(DEADLINE_S),
            f"nothing of ours in {node}",
        )


@pytest.mark.long
def test_entries_of_a_unit_since_a_time_are_those_alone(used: Cluster) -> None:
    asked = ("hpc", "logs", "--json", "-u", "slurmd", "--since", "1d")
    entries = [json.loads(line) for line in used.call(*asked).splitlines()]
    assert {one["unit"] for one in entries} == {"slurmd.service"}
    assert {one["node"] for one in entries} == set(NODES)
    times = [one["time"] for one in entries]
    assert times == sorted(times)
    last = [json.loads(line) for line in used.call(*asked, "-n", "1").splitlines()]
    assert len(last) == len(NODES)
    assert entries[-1] in last
    text = used.call("hpc", "logs", "-n", "1")
    assert {line.split()[0] for line in text.splitlines()} == {"controller", *NODES}
