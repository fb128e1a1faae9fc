"""Logs of several nodes, read and followed through real helpers; journalctl alone is a fake one."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest

from ai_how.clusters import node_logs
from ai_how.clusters.node_logs import follow_logs, read_logs, serial_logs
from ai_how.errors import AgentUnresponsiveError, GuestError, HostError
from ai_how.guest.exec_channel import ExecChannel
from ai_how.guest.journal import LogEntry, Wanted
from local_agent import LocalAgent

# It prints the lines of a file from a cursor on, and follows it as journalctl does.
JOURNALCTL = """\
#!{python} -S
import json, os, sys, time
words = dict(word.partition("=")[::2] for word in sys.argv[1:])
if "--unit" in words:
    sys.exit("no such unit")
file = open(os.environ["ENTRIES"])
entries = file.readlines()
told = [json.loads(line) for line in entries]
cursors = [one["__CURSOR"] for one in told]
first = cursors.index(words["--cursor"]) if words.get("--cursor") in cursors else 0
since = float(words.get("--since", "@0")[1:]) * 1e6
late = [int(one["__REALTIME_TIMESTAMP"]) >= since for one in told]
entries = [line for line, is_late in list(zip(entries, late))[first:] if is_late]
if "--reverse" in words:
    entries.reverse()
if "--lines" in words:
    count = int(words["--lines"])
    is_first = "--since" in words
    entries = entries[:count] if is_first else entries[max(0, len(entries) - count):]
sys.stdout.write("".join(entries))
sys.stdout.flush()
if "--follow" in words:
    while True:
        sys.stdout.write(file.read())
        sys.stdout.flush()
        time.sleep(0.05)
"""
NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Node:
    """One node: its agent, and the file that is its journal."""

    name: str
    journal: Path
    agent: LocalAgent
    uuid: UUID = field(default_factory=uuid4)
    domain_name: str = "vm"
    is_connected: bool = True
    written: int = 0

    def log(self, *messages: str, at_s: float = 0.0) -> None:
        """Entries at so many seconds from now, a millisecond apart."""
        with self.journal.open("a") as file:
            for message in messages:
                self.written += 1
                stamp = NOW + timedelta(seconds=at_s, milliseconds=self.written)
                fields = {
                    "__CURSOR": f"{self.name}-{self.written}",
                    "__REALTIME_TIMESTAMP": str(int(stamp.timestamp() * 1e6)),
                    "MESSAGE": message,
                }
                file.write(json.dumps(fields) + "\n")


class World:
    """A cluster as far as its logs need it, and the client of its libvirt."""

    name, kind = "demo", SimpleNamespace(name="hpc")

    def __init__(self, directory: Path) -> None:
        self.directory, self.notes = directory, []
        self.run = directory / "run"
        self.run.mkdir()
        programs = directory / "bin"
        programs.mkdir()
        (programs / "journalctl").write_text(JOURNALCTL.format(python=sys.executable))
        (programs / "journalctl").chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"
        self.nodes = [self._node(name) for name in ("compute-01", "compute-02")]
        self.former: list[LocalAgent] = []
        self.is_there = True
        self.is_up = True
        self.paths = SimpleNamespace(console_log=lambda name: directory / f"{name}.log")

    def _node(self, name: str) -> Node:
        journal = self.directory / name
        journal.touch()
        return Node(name, journal, LocalAgent({"PATH": self.path, "ENTRIES": str(journal)}))

    # What is asked of the cluster:

    def place(self) -> "World":
        return self

    def find_state(self) -> object:
        return SimpleNamespace(nodes=self.nodes) if self.is_there else None

    # and of the client:

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def learn(self, *_names: object) -> None:
        pass

    def is_agent_connected(self, uuid: UUID) -> bool:
        return self._of(uuid).is_connected

    def find_domain(self, uuid: UUID) -> object:
        is_on = self._of(uuid).is_connected
        return SimpleNamespace(
            is_agent_connected=is_on, has_managed_save=False, state=SimpleNamespace(is_on=is_on)
        )

    def agent_command(self, uuid: UUID, command: dict, timeout_s: float) -> object:
        node = self._of(uuid)
        if not node.is_connected:
            raise AgentUnresponsiveError("not connected")
        command.setdefault("arguments", {})
        return node.agent.agent_command(uuid, command, timeout_s)

    def _of(self, uuid: UUID) -> Node:
        [found] = [one for one in self.nodes if one.uuid == uuid]
        return found

    def restart_agent(self, node: Node) -> None:
        """systemd ends what an agent had started, and a new agent knows nothing of it."""
        node.is_connected = False
        self.former.append(node.agent)
        node.agent.forget_files()
        for program, _ in node.agent.programs.values():
            program.terminate()
        node.agent = LocalAgent(node.agent.env)
        node.is_connected = True

    def read(self, wanted: Wanted | None = None, nodes: list[Node] | None = None) -> list[str]:
        found = read_logs(self, nodes or self.nodes, wanted or Wanted(), self.notes.append)
        return [entry.message for entry in found]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    # A follower asks for what came since it began; tests may run long after they were collected.
    monkeypatch.setattr(sys.modules[__name__], "NOW", datetime.now(UTC).replace(microsecond=0))
    monkeypatch.setattr(node_logs, "client_of", lambda place: place)
    channel = partial(ExecChannel, base=str(made.run))
    monkeypatch.setattr(node_logs, "ExecChannel", channel)
    monkeypatch.setattr(node_logs, "LEASE_S", 2.0)
    monkeypatch.setattr(node_logs, "RETRY_S", 0.1)
    yield made
    for agent in (*made.former, *(node.agent for node in made.nodes)):
        agent.end()


class Followed:
    """A follower in a thread, and what it has shown."""

    def __init__(self, world: World, wanted: Wanted) -> None:
        self.shown: list[str] = []
        self.failure: BaseException | None = None
        self._ends = False
        self._entries = follow_logs(world, world.nodes, wanted, world.notes.append)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            with closing(self._entries):
                for entry in self._entries:
                    if self._ends:
                        return
                    if isinstance(entry, LogEntry):
                        self.shown.append(entry.message)
        except HostError as error:
            self.failure = error

    def wait_for(self, *messages: str) -> None:
        wait_for(lambda: self.shown == list(messages), lambda: self.shown)

    def end(self) -> None:
        self._ends = True
        self.join()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def wait_for(is_so: Callable[[], bool], shown: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, shown()
        time.sleep(0.05)


def test_entries_of_two_nodes_are_shown_in_the_order_of_time(world):
    first, second = world.nodes
    first.log("a1", at_s=1)
    first.log("a3", at_s=3)
    second.log("b2", at_s=2)
    second.log("b4", at_s=4)
    assert world.read() == ["a1", "b2", "a3", "b4"]
    assert world.read(Wanted(lines=1)) == ["a3", "b4"]
    assert world.read(nodes=[second]) == ["b2", "b4"]
    assert world.read(Wanted(lines=1, since=NOW - timedelta(hours=1))) == ["a3", "b4"]
    assert world.read(Wanted(since=NOW + timedelta(seconds=3))) == ["a3", "b4"]
    assert world.notes == []


@pytest.mark.fault("H16", "entries of 3 MB, of which an agent's answer has room for a part")
def test_a_journal_larger_than_an_answer_is_shown_whole(world):
    long = ["x" * 30_000 for _ in range(100)]
    world.nodes[0].log(*long, "end")
    assert world.read() == [*long, "end"]


def test_a_node_that_does_not_answer_is_left_out_and_told(world):
    first, second = world.nodes
    first.log("a1")
    second.is_connected = False
    assert world.read() == ["a1"]
    assert world.notes == ["compute-02 is off; its journal is left out"]
    first.is_connected = False
    with pytest.raises(HostError, match="no node answers") as caught:
        world.read()
    assert "logs --serial compute-01" in (caught.value.hint or "")
    world.is_up = False
    with pytest.raises(HostError, match="the nodes of demo are off"):
        world.read()


def test_what_journalctl_refuses_is_an_error_with_its_words(world):
    for entries in (
        read_logs(world, world.nodes, Wanted(units=["x"]), world.notes.append),
        follow_logs(world, world.nodes, Wanted(units=["x"]), world.notes.append),
    ):
        with pytest.raises(GuestError, match="cannot be read") as caught:
            list(entries)
        assert caught.value.details == "no such unit"


@pytest.mark.fault("F68", "an agent that restarts, a node that is off for a while")
def test_a_follower_goes_on_where_it_was_and_leaves_nothing(world):
    first, second = world.nodes
    first.log("a0", "a1", at_s=1)
    followed = Followed(world, Wanted(lines=1, since=NOW - timedelta(hours=1)))
    followed.wait_for("a1")
    first.log("a2", at_s=2)
    second.log("b3", at_s=3)
    followed.wait_for("a1", "a2", "b3")
    world.restart_agent(first)
    first.log("a4", at_s=4)
    followed.wait_for("a1", "a2", "b3", "a4")
    second.is_connected = False
    second.log("b5", at_s=5)
    wait_for(lambda: len(world.notes) == 2, lambda: world.notes)
    world.restart_agent(second)
    followed.wait_for("a1", "a2", "b3", "a4", "b5")
    assert world.notes == [
        "compute-01 did not answer; its journal goes on where it was when it answers",
        "compute-02 is off; its journal goes on where it was when it answers",
    ]
    followed.end()
    wait_for(lambda: not list(world.run.iterdir()), lambda: list(world.run.iterdir()))


def test_with_no_lines_wanted_a_follower_begins_with_what_comes(world):
    first, second = world.nodes
    first.log("a0")
    followed = Followed(world, Wanted(lines=0))
    wait_for(lambda: world.nodes[1].agent.programs, lambda: world.nodes)
    time.sleep(1)
    second.log("b1", at_s=1)
    first.log("a2", at_s=2)
    followed.wait_for("b1", "a2")
    followed.end()


def test_a_follower_of_a_removed_cluster_ends(world):
    followed = Followed(world, Wanted())
    world.is_there = False
    for node in world.nodes:
        node.is_connected = False
    followed.join()
    assert followed.failure
    assert "has none of these nodes any more" in str(followed.failure)


def test_serial_logs_are_shown_node_after_node_and_followed(world):
    logs = [world.paths.console_log(node.name) for node in world.nodes]
    logs[0].write_text("a1\na2\nlogin: ")
    entries = serial_logs(world, world.nodes, 2, follows=False)
    assert [one.message for one in entries if one] == ["a2", "login: "]
    with closing(serial_logs(world, world.nodes, 1, follows=True)) as followed:
        assert next(followed) == LogEntry("compute-01", "a2")
        assert next(followed) is None
        logs[1].write_text("b1\n")
        assert next(followed) == LogEntry("compute-02", "b1")
