"""SLURM as a source of the monitoring: what slurmctld says, in one run of a shell on its node."""

import re
import time
from collections.abc import Callable, Mapping, Sequence

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.serial_log import one_line
from ai_how.hpc.slurm_json import unpacked
from ai_how.hpc.slurm_sample import (
    read_jobs,
    read_nodes,
    read_partitions,
    read_scheduler,
    read_version,
)
from ai_how.monitoring.guest_source import poll_for
from ai_how.monitoring.model import Partition, SlurmSample
from ai_how.monitoring.watched import NodeNeeds
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.waiting import Deadline

SELDOM_S = 60.0
"""Partitions and the scheduler are asked for less often: each program costs a guest 0.3 s."""
SHOWN = "a look at SLURM"
JSON_SINCE = (23, 2)
KILLED = 137
JOB_CGROUPS = "system.slice/*slurmstepd.scope/job_*"
"""Where slurmd has the cgroup of each job (`IgnoreSystemd=yes` in cgroup.conf)."""

# scontrol and sdiag print JSON since 23.02; before, only sinfo and squeue do. They would wait a
# minute for a slurmctld that hangs.
SCRIPT = r"""
export LC_ALL=C
tools=$1 wants_all=$2
ask() {
    echo "== $1"
    shift
    timeout -s KILL 15 "$@" 2>&1 || echo "
== failed $?"
    echo
}
{
    if [ "$tools" = unknown ]; then
        version=$(sinfo --version)
        echo "== release"
        echo "$version"
        case $version in *" "[1-9].*|*" "1[0-9].*|*" "2[0-2].*) tools=old ;; esac
    fi
    if [ "$tools" = old ]; then
        ask nodes sinfo --json
        ask jobs squeue --json
    else
        ask nodes scontrol show nodes --json
        ask jobs scontrol show jobs --json
    fi
    if [ "$wants_all" = all ]; then
        ask partitions scontrol show partitions -o
        if [ "$tools" = old ]; then ask scheduler sdiag; else ask scheduler sdiag --json; fi
    fi
} | gzip -1c
"""


_PART = re.compile(r"^== (release|nodes|jobs|partitions|scheduler)$", re.M)
_FAILED = re.compile(r"^== failed (\d{1,3})$", re.M)


class SlurmSource:
    """Asks slurmctld, by the agent of the controller."""

    name = "slurm"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tools = "unknown"
        self._all_at: float | None = None
        self._partitions: tuple[Partition, ...] = ()
        self._scheduler: Mapping[str, float] = {}
        self._took_s = 0.0

    def head_of(self, state: ClusterState) -> NodeState | None:
        """The controller."""
        return state.find_controller()

    def needs_of(self, state: ClusterState, node: NodeState) -> NodeNeeds:
        """The daemons of a controller or of a compute node, its clock, and the shared home."""
        has_home = state.home != "none"
        clock = ("ai-how-clock", "chrony")
        if node.role is Role.CONTROLLER:
            served = ("nfs-server",) if has_home else ()
            return NodeNeeds(services=("munge", "slurmctld", *served, *clock))
        return NodeNeeds(
            services=("munge", "slurmd", *clock),
            home="/home" if has_home else "",
            job_cgroups=JOB_CGROUPS,
        )

    def look(self, agent: GuestAgent, deadline: Deadline) -> SlurmSample:
        """What slurmctld says. Raises GuestError if it does not answer."""
        now = self._clock()
        wants_all = self._all_at is None or now - self._all_at >= SELDOM_S
        try:
            argv = slurm_argv(self._tools, wants_all=wants_all)
            done = agent.run_raw(argv, deadline, poll_s=poll_for(self._took_s), shown=SHOWN)
            self._took_s = self._clock() - now
            answers = read_answers(unpacked(done.output))
            sample = self._sample(answers)
        except GuestError:
            self._tools, self._all_at = "unknown", None  # it may be another version by then
            raise
        if wants_all:
            self._all_at = now
        return sample

    def _sample(self, answers: Mapping[str, str]) -> SlurmSample:
        for name in ("nodes", "jobs"):
            require_answer(answers, name)
        if release := read_release(answers.get("release", "")):
            self._tools = "old" if release < JSON_SINCE else "new"
        if "partitions" in answers and not has_failed(answers["partitions"]):
            self._partitions = read_partitions(answers["partitions"])
        if "scheduler" in answers and not has_failed(answers["scheduler"]):
            self._scheduler = read_scheduler(answers["scheduler"])
        return SlurmSample(
            version=read_version(answers["nodes"]),
            nodes=read_nodes(answers["nodes"]),
            partitions=self._partitions,
            jobs=read_jobs(answers["jobs"]),
            scheduler=self._scheduler,
        )


def slurm_argv(tools: str, *, wants_all: bool) -> Sequence[str]:
    """The command. `tools` is `old` before 23.02, `new`, or `unknown`."""
    return ("/bin/sh", "-c", SCRIPT, "ai-how-slurm", tools, "all" if wants_all else "work")


def read_answers(text: str) -> dict[str, str]:
    """What each program printed, by the name in the script. No line of JSON begins with `==`."""
    parts = _PART.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def has_failed(answer: str) -> bool:
    """Whether the program ended with another exit code than 0."""
    return _FAILED.search(answer) is not None


def require_answer(answers: Mapping[str, str], name: str) -> None:
    """Raises GuestError with SLURM's own words if a program failed."""
    answer = answers.get(name)
    if answer is None:
        raise GuestError("the controller answers a look at SLURM with something else")
    if failed := _FAILED.search(answer):
        said = [line for line in answer[: failed.start()].splitlines() if line.strip()]
        code = int(failed[1])
        why = "no answer within 15 s" if code == KILLED else one_line(said[-1]) if said else ""
        raise GuestError(f"slurmctld does not answer: {why or f'exit code {code}'}")


def read_release(text: str) -> tuple[int, int] | None:
    """The release in the output of `sinfo --version`: `slurm-wlm 24.11.5`."""
    found = re.search(r"slurm\S* (\d{1,3})\.(\d{1,3})", text)
    return (int(found[1]), int(found[2])) if found else None
