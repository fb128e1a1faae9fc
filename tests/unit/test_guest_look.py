"""A look into a guest: the script on a real shell, and answers of guests that hang, die or lie."""

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ai_how.errors import AgentUnresponsiveError, DeadlineError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.monitoring import guest_source
from ai_how.monitoring.guest_script import SCRIPT, read_seen, script_argv
from ai_how.monitoring.guest_source import GuestSource, read_file_systems
from ai_how.monitoring.model import FileSystemUse, JobUse
from ai_how.monitoring.watched import NodeNeeds
from ai_how.process import run

NEEDS = NodeNeeds(services=("munge", "slurmd"), home="/home", job_cgroups="x/job_*")
UUID_1 = UUID(int=1)
SAID = """\
== uptime
1097.70 2000.00
== load
0.50 0.25 0.10 1/99 1000
== pressure cpu
some avg10=2.10 avg60=0.00 avg300=0.00 total=1
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
== oom
3
== job 17
2500000 104857600 209715200 1
== job 18
- - - -
== home
yes
== units
munge.service loaded active running
slurmd.service loaded failed failed
gone.service not-found inactive dead
== gpus
0, NVIDIA A100-SXM4-40GB, 35, 40960, 1024, 41, 88.25
1, NVIDIA A100-SXM4-40GB, [N/A], 40960, 0, [N/A], [Not Supported]
"""


class MadeUpAgent:
    """A guest that answers what it is told to."""

    def __init__(self, output: bytes | str = SAID, exit_code: int = 0, **answers: object) -> None:
        data = output.encode() if isinstance(output, str) else output
        self.ended = {
            "exited": True,
            "exitcode": exit_code,
            "out-data": base64.b64encode(data).decode(),
            "err-data": base64.b64encode(b"bad\x1b[31m luck\n").decode(),
        }
        self.answers = answers
        self.asked: list[list[str]] = []

    def agent_command(self, uuid: UUID, command: Mapping[str, Any], timeout_s: float) -> object:
        name = str(command["execute"])
        if name == "guest-exec":
            self.asked.append(command["arguments"]["arg"])
        answer = self.answers.get(name.replace("-", "_"), self.usual(name))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def usual(self, name: str) -> object:
        return {
            "guest-get-time": time.time_ns(),
            "guest-exec": {"pid": 1},
            "guest-exec-status": self.ended,
            "guest-get-fsinfo": [],
        }[name]


def look(agent: MadeUpAgent, needs: NodeNeeds = NEEDS):
    return GuestSource(needs, all_every_s=60).look(GuestAgent(agent, UUID_1, "compute-01"))


def test_what_the_script_says_becomes_a_sample():
    seen = look(MadeUpAgent())
    assert (seen.uptime_s, seen.load, seen.oom_kills) == (1097.7, (0.5, 0.25, 0.1), 3)
    assert seen.pressure == {"cpu": 2.1}
    assert seen.is_home_there is True
    assert seen.services == {"munge": "active", "slurmd": "failed"}
    assert seen.failed_units == ("slurmd.service",)
    assert seen.jobs == (
        JobUse(job="17", cpu_s=2.5, memory_mib=100, memory_peak_mib=200, oom_kills=1),
        JobUse(job="18"),
    )
    one, two = seen.gpus
    assert (one.busy_percent, one.memory_used_mib, one.power_w) == (35, 1024, 88.25)
    assert (two.busy_percent, two.temperature_c, two.power_w) == (None, None, None)
    assert abs(seen.skew_s or 0) < 5


def test_the_script_runs_on_a_real_shell():
    done = run(script_argv(NodeNeeds(home="/nowhere"), wants_all=True))
    assert done.returncode == 0
    seen = read_seen(done.stdout, NodeNeeds(home="/nowhere"))
    assert seen.uptime_s
    assert seen.load
    assert seen.oom_kills is not None
    assert seen.is_home_there is False
    assert read_seen(done.stdout, NodeNeeds()).is_home_there is None


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_script_reads_cgroups_of_jobs_in_every_shell(tmp_path, shell):
    """Also those that lack files, as kernels before 5.19 do, and that end meanwhile."""
    whole, part = tmp_path / "a_stepd.scope/job_12", tmp_path / "a_stepd.scope/job_13"
    for directory in (whole, part):
        directory.mkdir(parents=True)
    (whole / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (whole / "memory.current").write_text("1048576\n")
    (whole / "memory.peak").write_text("2097152\n")
    (whole / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    needs = NodeNeeds(job_cgroups="*stepd.scope/job_*")
    argv = script_argv(needs, wants_all=False)
    argv[2] = argv[2].replace("/sys/fs/cgroup", str(tmp_path))
    seen = read_seen(run([shell, *argv[1:]]).stdout, needs)
    assert seen.jobs == (
        JobUse(job="12", cpu_s=1.5, memory_mib=1, memory_peak_mib=2, oom_kills=1),
        JobUse(job="13"),
    )


def test_arguments_are_no_code():
    needs = NodeNeeds(home="/x; echo '== oom'; echo 99", job_cgroups="")
    assert script_argv(needs, wants_all=True)[2] == SCRIPT
    assert "99" not in run(script_argv(needs, wants_all=True)).stdout.splitlines()


def test_programs_are_started_seldom():
    times = iter([0.0, 0.0, 0.0, 15.0, 15.0, 15.0, 61.0, 61.0, 61.0])
    agent = MadeUpAgent()
    source = GuestSource(NEEDS, all_every_s=60, clock=lambda: next(times))
    asks = GuestAgent(agent, UUID_1, "n")
    first, second, _ = source.look(asks), source.look(asks), source.look(asks)
    assert [words[3] for words in agent.asked] == ["all", "files", "all"]
    assert second.services == first.services, "what was not asked again is as it was"
    assert second.is_home_there is True


@pytest.mark.parametrize(
    "answers",
    [
        {"guest_get_time": AgentUnresponsiveError("the agent of VM n does not answer")},
        {"guest_get_time": GuestError("refused")},
        {"guest_get_time": -5},
        {"guest_get_time": "\x1b[31m"},
        {"guest_exec": GuestError("no such program")},
        {"guest_exec": {"pid": True}},
        {"guest_exec": ["pid"]},
        {"guest_exec_status": {"exited": 1}},
        {"guest_exec_status": {"exited": True, "exitcode": 0, "out-data": "%%%"}},
        {"guest_exec_status": {"exited": True, "exitcode": 0}},
        {"guest_exec_status": {"exited": True, "exitcode": "0"}},
    ],
    ids=str,
)
def test_a_guest_that_refuses_or_lies_is_an_error_with_a_reason(answers):
    with pytest.raises(GuestError) as caught:
        look(MadeUpAgent(**answers))
    assert caught.value.brief


def test_a_failed_look_says_why_without_escapes():
    with pytest.raises(GuestError, match=r"a look into compute-01 failed: bad luck$"):
        look(MadeUpAgent(exit_code=127))


def test_a_guest_that_never_ends_has_a_deadline(monkeypatch):
    monkeypatch.setattr(guest_source, "GUEST_S", 0.3)
    with pytest.raises(DeadlineError, match="a look in compute-01"):
        look(MadeUpAgent(guest_exec_status={"exited": False}))


GARBAGE = [
    b"",
    b"\xff\xfe\x00" * 1000,
    b"== uptime\nNaN\n",
    b"== uptime\n-1 5\n",
    b"== uptime\n1e999\n",
    b"== job 1\n" * 100_000,
    b"A" * 1_000_000,
    b"== units\n" + b"x loaded failed failed\n" * 1000,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_an_error(garbage):
    with pytest.raises(GuestError, match="answers a look with something else"):
        look(MadeUpAgent(garbage))


def test_what_a_guest_adds_is_limited_and_plain():
    lies = [
        *(f"== job {n}\n{10**17} {10**18} -5 NaN" for n in range(5000)),
        "== job ../../x\n1 1 1 1",
        "== job 7\n1 1 1",
        "== pressure io\nsome avg10=1e5 x",
        "== pressure memory\nsome avg10=inf",
        "== oom\n" + "9" * 30,
        "== load\n-1 nan 1e30",
        "== home\nmaybe",
        "== units",
        *(f"evil{n}\x1b]0;pwned\x07{'x' * 500}.service loaded failed failed" for n in range(500)),
        "munge.service loaded \x1b[31mactive running",
        "== gpus",
        *("0, \x1b[2Jx, 1e9, -1, 99999999999999999999, NaN, 5" for n in range(500)),
    ]
    seen = look(MadeUpAgent("== uptime\n5.0 1\n" + "\n".join(lies)))
    assert len(seen.jobs) <= 1000
    assert len(seen.failed_units) == 50
    assert len(seen.gpus) == 64
    assert all(one.isprintable() and len(one) <= 200 for one in seen.failed_units)
    assert seen.services["munge"] == "active"
    assert (seen.load, seen.oom_kills, seen.is_home_there) == (None, None, None)
    assert seen.pressure == {}
    gpu = seen.gpus[0]
    assert gpu.name.isprintable()
    assert (gpu.busy_percent, gpu.memory_mib, gpu.memory_used_mib) == (None, None, None)
    for use in seen.jobs:
        assert (use.memory_mib, use.memory_peak_mib, use.oom_kills) == (None, None, None)


def test_file_systems_are_those_of_disks_each_once():
    mib = 2**20
    answer = [
        {"name": "vda1", "mountpoint": "/", "used-bytes": 40 * mib, "total-bytes": 90 * mib},
        {"name": "vda1", "mountpoint": "/var/x", "used-bytes": 40 * mib, "total-bytes": 90 * mib},
        {
            "name": "vdb",
            "mountpoint": "/data",
            "used-bytes": 10 * mib,
            "total-bytes": 90 * mib,
            "total-bytes-privileged": 100 * mib,
        },
        {"name": "a", "mountpoint": 5, "used-bytes": 1, "total-bytes": 2},
        {"name": "b", "mountpoint": "/b", "used-bytes": 3, "total-bytes": 2},
        {"name": "c", "mountpoint": "/c", "used-bytes": -3, "total-bytes": 2},
        {"name": "d", "mountpoint": "/d", "used-bytes": True, "total-bytes": 2**70},
        "junk",
        None,
    ]
    assert read_file_systems(answer) == (
        FileSystemUse(mount_point="/", size_mib=90, used_mib=40, free_mib=50),
        FileSystemUse(mount_point="/data", size_mib=100, used_mib=10, free_mib=80),
    )
    assert read_file_systems({"a": 1}) == ()
    assert len(read_file_systems(answer[:1] * 5000)) == 1


def test_a_home_whose_server_is_gone_is_not_waited_for(tmp_path):
    """Here a `stat` stands for the kernel's wait: it ends by SIGKILL alone, after four seconds."""
    fake = tmp_path / "stat"
    fake.write_text("#!/bin/sh\ntrap '' TERM INT\nexec sleep 600\n")
    fake.chmod(0o755)
    argv = script_argv(NodeNeeds(home="/proc"), wants_all=True)
    done = run(["env", f"PATH={tmp_path}:/usr/bin:/bin", *argv], timeout_s=60)
    assert read_seen(done.stdout, NodeNeeds(home="/proc")).is_home_there is False
    assert Path("/proc").is_dir()
