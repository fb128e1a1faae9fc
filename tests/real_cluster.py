"""The program that users run, and a real SLURM cluster by it."""

import json
import sys
from pathlib import Path

from ai_how.host.embedded import EmbeddedHost
from ai_how.process import Completed, run
from ai_how.state.paths import ClusterPaths, Roots, default_roots

START_S, ASK_S = 1200, 180


class Cluster:
    """The program, with its own state directory and cluster file."""

    def __init__(self, directory: Path, text: str, **env: str) -> None:
        self.state_dir = directory / "state"
        self.file = directory / "cluster.yaml"
        self.file.write_text(text)
        self.env = env
        self.said: list[str] = []
        self.watched: set[bytes] = set()
        self.argv = [sys.executable, "-m", "ai_how", "--state-dir", str(self.state_dir)]

    @property
    def roots(self) -> Roots:
        return default_roots(self.state_dir)

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster("hpc")

    @property
    def host(self) -> EmbeddedHost:
        return EmbeddedHost(self.roots.embedded)

    @property
    def log(self) -> Path:
        return self.file.with_name("all.log")

    def try_call(self, *words: str, timeout_s: float = ASK_S, stdin: str = "") -> Completed:
        argv = [*self.argv, "-c", str(self.file), *words]
        done = run(argv, check=False, timeout_s=timeout_s, stdin=stdin, env=self.env)
        self.said += [done.stdout, done.stderr]
        return done

    def call(self, *words: str, timeout_s: float = ASK_S, stdin: str = "") -> str:
        done = self.try_call(*words, timeout_s=timeout_s, stdin=stdin)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *words: str) -> list[str]:
        """Start, and give the keys of the steps that it took."""
        done = json.loads(self.call("hpc", "start", "--json", *words, timeout_s=START_S))
        return [step["key"] for step in done["steps"]]

    def status(self) -> dict:
        return json.loads(self.call("hpc", "status", "--json"))

    def nodes(self) -> dict[str, dict]:
        return {node["name"]: node for node in self.status()["nodes"]}

    def ssh(self, node: str, command: str, stdin: str = "") -> str:
        return self.call("hpc", "ssh", node, "--", command, stdin=stdin)

    def execute(self, node: str, command: str) -> str:
        return self.call("hpc", "exec", node, "--", "sh", "-c", command)
