"""Measures our own verbs: a cluster's life, its stages, the CLI's own cost."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boot import take_boot_apart
from figures import AND_SSH, Results, Run
from qemus import mean_memory_mib
from running import Bench, say

CLUSTER = "hpc"  # the name of the built-in default
LARGE = "large"
NODES = ("controller", "compute-01", "compute-02")
REPEATS = 5
EXEC_MIB = 16
STARTS = 3
LARGE_FILE = """version: "1.0"
metadata:
  name: {name}
clusters:
  hpc:
    name: {name}
    controller: {{cpu_cores: 1, memory_gb: {memory_gb}, disk_gb: 10}}
    compute_nodes: {{count: {count}, cpu_cores: 1, memory_gb: {memory_gb}, disk_gb: 10}}
"""


def measure_cli(bench: Bench, results: Results) -> None:
    """What every call costs before it does anything."""
    for words in ("--help", "validate --offline"):
        results.runs[words] = [bench.run(words)[0] for _ in range(REPEATS)]


def measure_cluster(bench: Bench, results: Results) -> None:
    """A cluster's life, from nothing to nothing: cold, warm, resumed; then one of eight nodes."""
    life = Life(bench, results)
    life.start_again("cold", "hpc start --no-warm", "hpc destroy --force")
    results.boot_s = take_boot_apart(bench, CLUSTER, NODES)
    results.machine["acceleration"] = read_acceleration(bench.state)
    life.often("hpc status", "hpc status")
    life.often("hpc start, nothing to do", "hpc start")
    life.execute()
    life.once("hpc destroy", "hpc destroy --force")
    life.once("image warm", "image warm")
    life.start_again("warm", "hpc start", "hpc destroy --force")
    life.once("hpc stop --suspend", "hpc stop --suspend")
    life.start_again("resumed", "hpc start", "hpc stop --suspend")
    life.once("hpc destroy, resumed", "hpc destroy --force")
    life.large(7, memory_gb=1)


def measure_many(bench: Bench, results: Results, count: int) -> None:
    """A cluster of small nodes, as many as are asked for."""
    Life(bench, results).large(count, memory_gb=0.5)


@dataclass(frozen=True)
class Life:
    """What is done to clusters, and where its figures go."""

    bench: Bench
    results: Results

    def once(self, title: str, words: str) -> None:
        say(f"... {title}")
        self.results.runs[title] = [self.bench.run(words)[0]]

    def often(self, title: str, words: str) -> None:
        self.results.runs[title] = [self.bench.run(words)[0] for _ in range(REPEATS)]

    def execute(self) -> None:
        """What a command in a node costs, and how fast its bytes pass."""
        self.often("hpc exec, true", "hpc exec compute-01 -- true")
        file = self.bench.work / "bytes"
        file.write_bytes(bytes(EXEC_MIB << 20))
        out = f"hpc exec compute-01 -- head -c {EXEC_MIB << 20} /dev/zero"
        into = "hpc exec compute-01 -- sh -c 'cat > /dev/null'"
        for way, words, stdin in (("out", out, None), ("in", into, file)):
            say(f"... hpc exec, {EXEC_MIB} MiB {way}")
            run, _ = self.bench.run(words, stdin=stdin)
            self.results.runs[f"hpc exec, {EXEC_MIB} MiB {way}"] = [run]
            self.results.exec_mib_s[way] = EXEC_MIB / run.wall_s

    def start(self, kind: str, words: str, *, cluster: str = CLUSTER) -> None:
        """A start with its stages."""
        say(f"... hpc start, {kind}")
        self.results.runs[f"hpc start, {kind}"] = [self.bench.run(words)[0]]
        self.results.stages_s[kind] = read_stages(self.bench, cluster)

    def large(self, count: int, *, memory_gb: float) -> None:
        """A warm start of another cluster, with so many compute nodes, and its end."""
        file = self.bench.work / f"{LARGE}.yaml"
        file.write_text(LARGE_FILE.format(name=LARGE, count=count, memory_gb=memory_gb))
        title = f"1 + {count} nodes"
        self.bench.run(f"image warm {file}")
        self.start(f"warm, {title}", f"hpc start {file}", cluster=LARGE)
        self.results.qemu_mib[f"{title} of {memory_gb:g} GiB"] = mean_memory_mib(LARGE)
        self.once(f"hpc destroy, {title}", f"hpc destroy --force --cluster {LARGE}")

    def start_again(self, kind: str, words: str, back: str) -> None:
        """Starts, with the stages of the median one, and one more that is over when ssh answers.

        That is a run of its own: logging in takes its share of the processors.
        """
        title = f"hpc start, {kind}"
        seen = []
        for _ in range(STARTS):
            say(f"... {title}")
            seen.append((self.bench.run(words)[0], read_stages(self.bench, CLUSTER)))
            self.bench.run(back)
        self.results.runs[title] = [run for run, _ in seen]
        seen.sort(key=lambda one: one[0].wall_s)
        self.results.stages_s[kind] = seen[STARTS // 2][1]
        say(f"... {title}, until ssh answers")
        run = run_until_ssh(self.bench, words, cluster=CLUSTER, nodes=NODES)
        self.results.runs[f"{title}{AND_SSH}"] = [run]


def run_until_ssh(bench: Bench, words: str, *, cluster: str, nodes: tuple[str, ...]) -> Run:
    """Run `ai-how WORDS`, and note when ssh had first run `true` on every node.

    ssh may answer before the command ends, or a moment after; where it does not within a minute
    after, `ssh_s` is None.
    """
    polls = [SshPoll(bench.state / cluster / "ssh" / "config", node) for node in nodes]
    began = time.monotonic()
    threads = [threading.Thread(target=poll.until_it_answers, daemon=True) for poll in polls]
    for thread in threads:
        thread.start()
    try:
        run, _ = bench.run(words)
        give_up = time.monotonic() + SshPoll.PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, give_up - time.monotonic()))
    finally:
        for poll in polls:
            poll.over.set()
        for thread in threads:
            thread.join()
    answered = [poll.answered_at for poll in polls if poll.answered_at is not None]
    return replace(run, ssh_s=max(answered) - began if len(answered) == len(polls) else None)


@dataclass
class SshPoll:
    """Logs in to one node by the cluster's own configuration, again and again until it works.

    The configuration is written while the cluster starts. Its ProxyCommand waits for the node's
    port by itself, so that a try is seldom and long: polling would cost what is measured. It may be
    a second late, as the kernel asks for an address that is not there yet once a second.
    """

    PATIENCE_S = 60.0

    config: Path
    node: str
    answered_at: float | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def until_it_answers(self) -> None:
        while not self.over.wait(0.25):
            if self.config.exists() and self.runs_true():
                self.answered_at = time.monotonic()
                return

    def runs_true(self) -> bool:
        options = ["-F", str(self.config), "-o", "BatchMode=yes", "-o", "ControlMaster=no"]
        child = subprocess.Popen(
            ["ssh", *options, self.node, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_unless(self.over.is_set, child)
        return child.returncode == 0


def wait_unless(is_over: Callable[[], bool], child: "subprocess.Popen[bytes]") -> None:
    """Wait for a child; end it where nobody waits for its answer any more."""
    while True:
        try:
            child.wait(0.05)
        except subprocess.TimeoutExpired:
            if is_over():
                child.kill()
        else:
            return


def read_stages(bench: Bench, cluster: str = CLUSTER) -> dict[str, dict[str, float]]:
    """The seconds of each stage by node, as `hpc status --json` has them."""
    _, text = bench.run(f"--json hpc status --cluster {cluster}")
    nodes: list[dict[str, Any]] = json.loads(text).get("nodes", [])
    return {node["name"]: node.get("stages_s") or {} for node in nodes}


def read_acceleration(state: Path) -> str:
    """What the guests ran on, from the XML that was sent to libvirt."""
    sent = [path.read_text() for path in (state / CLUSTER / "xml").glob("*.xml")]
    found = [re.search(r"<domain\b[^>]*\btype=.(\w+)", text) for text in sent]
    kinds = {one[1] for one in found if one}
    return ", ".join(sorted(kinds)).replace("qemu", "TCG").replace("kvm", "KVM") or "unknown"
