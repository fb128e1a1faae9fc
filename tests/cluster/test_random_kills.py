"""SIGKILL at moments over a whole start of a real SLURM cluster: the next command sets it right."""

import random
import signal
import sys
import time
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.process import Completed, run, start_daemon
from ai_how.state.paths import default_roots
from decoys import place_decoys
from leaks import look_at_host, look_at_machine, private_host, settled_difference

pytestmark = pytest.mark.slurm

FILE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 0.5, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 0.5, disk_gb: 5}
"""
VERB_S = 1200.0
KILLS, LONG_KILLS = 2, 100


class Program:
    """The program, with a state directory and a file of its own."""

    def __init__(self, host: EmbeddedHost) -> None:
        self.host = host
        self.state = host.paths.root.parent
        self.file = self.state / ".cluster.yaml"
        self.file.write_text(FILE)
        self.paths = default_roots(self.state).cluster("hpc")
        self.argv = [sys.executable, "-m", "ai_how", "--state-dir", str(self.state)]
        self.argv += ["-c", str(self.file)]

    def call(self, *words: str) -> Completed:
        done = run([*self.argv, *words], check=False, timeout_s=VERB_S)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def killed_start(self, after_s: float) -> bool:
        """Whether a start was killed so long after its beginning; it may have ended before."""
        log = self.state / ".start.log"
        child = start_daemon([*self.argv, "hpc", "start"], log=log)
        due = time.monotonic() + after_s
        while (left_s := due - time.monotonic()) > 0 and child.poll() is None:
            time.sleep(min(0.05, left_s))
        is_killed = child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        text = log.read_text()
        log.unlink()
        assert is_killed or child.returncode == 0, text
        assert "Traceback" not in text
        return is_killed


@pytest.fixture
def program():
    with private_host() as host:
        Path(host.paths.root.parent).mkdir(exist_ok=True)
        run([sys.executable, "-m", "ai_how", "image", "build"], timeout_s=VERB_S)
        host.up(with_kvm=False)
        place_decoys(host)
        yield Program(host)


@pytest.mark.fault("F03", "SIGKILL to a start of a real SLURM cluster, moments over all of it")
def test_a_start_killed_at_any_moment_is_set_right_by_the_next_command(
    program, is_long, points, figures, request
):
    """Half are followed by a destroy, the others by a start, which is the next to be killed."""
    before = look_at_machine() | look_at_host(program.host)
    began = time.monotonic()
    program.call("hpc", "start")
    whole_s = time.monotonic() - began
    program.call("hpc", "destroy", "--force")
    assert settled_difference(before, program.host) == ""
    count = request.config.getoption("--kills") or (LONG_KILLS if is_long else KILLS)
    moments = [(number + random.random()) / count for number in range(count)]  # noqa: S311
    random.shuffle(moments)
    killed = 0
    for number, moment in enumerate(moments):
        killed += program.killed_start(moment * whole_s)
        if number % 2:
            program.call("hpc", "destroy", "--force")
            assert settled_difference(before, program.host) == "", f"killed after {moment:.3f}"
            assert not program.paths.root.exists()
    points(count)
    figures["random kills of a start"] += killed
    program.call("hpc", "start")
    assert program.call("hpc", "ssh", "controller", "--", "srun hostname").stdout == "compute-01\n"
    with LibvirtClient(program.host.uri) as client:
        ours = [one.name for one in client.list_domains() if one.mark and one.is_persistent]
    assert len(ours) == 3  # two, and the decoy
    program.call("hpc", "destroy", "--force")
    assert settled_difference(before, program.host) == ""
