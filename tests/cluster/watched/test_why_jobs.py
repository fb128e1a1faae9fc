"""`hpc why JOB`: each reason is made for real, and named with what mends it.

All jobs are submitted at once, before the first question; those that need a node to themselves come
last. They are gone afterwards, and so are the partitions and the reservation.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ai_how.waiting import Deadline, wait_until
from real_cluster import START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

ENDED_S = 300
WRONG = 8
# A line is `LABEL JOB`; the jobs are small, so that they run side by side.
SUBMIT = r"""
cd /home/hpc; rm -rf why; mkdir why; chown hpc why
s() { label=$1; shift; echo "$label $(su hpc -c "cd why; sbatch --parsable --mem=24M $*")"; }
scontrol create partitionname=small nodes=compute-01 maxtime=5 maxnodes=1 state=up >&2
scontrol create partitionname=shut nodes=ALL state=down >&2
scontrol create reservation reservationname=later starttime=now+2hours duration=10 users=hpc \
  nodes=compute-01 >&2
s timeout "-t 1 --wrap 'sleep 600'"
s exit3 "--wrap 'echo said before it failed; exit 3'"
s not-found "--wrap no-such-program"
s no-output "-o /nowhere/x --wrap true"
s oom "--wrap 'exec tail /dev/zero'"
s signal "--wrap 'kill -SEGV \$\$'"
s good "--wrap true"
s held "-H --wrap true"
s later "--begin=now+1hour --wrap true"
s long "-p small -t 1:00:00 --wrap true"
s wide "-p small -N 2 --wrap true"
s shut "-p shut --wrap true"
s reserved "--reservation=later --wrap true"
s admin "--begin=now+1hour --wrap true"
s cancelled "--begin=now+1hour --wrap true"
s requeued "-t 20 --wrap 'sleep 900'"
s suspended "-t 20 --wrap 'sleep 900'"
su hpc -c 'sbatch -c 99 --wrap true'
echo "impossible $(squeue -h -t failed -o '%i %r' | sed -n 's/ BadConstraints//p' | tail -n 1)"
"""
# What needs the jobs above to have begun, or to have ended.
THEN = r"""
s() {{ label=$1; shift; echo "$label $(su hpc -c "cd why; sbatch --parsable --mem=24M $*")"; }}
cd /home/hpc
scontrol hold {admin}; scancel {cancelled}
scontrol requeuehold {requeued}; scontrol suspend {suspended}
s waits "-d afterok:{held} --wrap true"
s never "-d afterok:{exit3} --wrap true"
s busy "-N 2 --exclusive -t 30 --wrap 'sleep 1500'"
s array "--array=1-2%1 -t 20 --wrap 'sleep 900'"
s next "-N 2 --exclusive -t 30 --wrap true"
s after "-N 2 --exclusive -t 30 --wrap true"
"""
CLEAN = """
scancel -u hpc; while [ "$(squeue -h -u hpc)" ]; do sleep 1; done
for name in small shut; do scontrol delete partitionname=$name; done
scontrol delete reservationname=later
rm -rf /home/hpc/why
"""
ENDED = ("timeout", "exit3", "not-found", "no-output", "oom", "signal", "good")

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def jobs(watched: Cluster) -> Iterator[Mapping[str, str]]:
    """The number of each job, by its label."""
    try:
        made = read_labels(long_script(watched, SUBMIT))
        wait_until(
            lambda: has_begun(watched, made["suspended"]) and has_begun(watched, made["requeued"]),
            Deadline.after(ENDED_S),
            "two jobs to run",
            interval_s=2,
        )
        made |= read_labels(long_script(watched, THEN.format_map(made)))
        wait_until(
            lambda: not [one for one in ENDED if not has_ended(watched, made[one])],
            Deadline.after(ENDED_S),
            "the end of the jobs that fail",
            interval_s=5,
        )
        yield made
    finally:
        long_script(watched, CLEAN)


def long_script(cluster: Cluster, text: str) -> str:
    """Run a script that starts many programs, each of which takes seconds on a busy machine."""
    words = ("hpc", "exec", "controller", "--", "sh", "-c", text)
    return cluster.try_call(*words, timeout_s=START_S).stdout


def read_labels(text: str) -> dict[str, str]:
    found = dict(re.findall(r"^([a-z0-9-]+) (\d+)$", text, re.MULTILINE))
    assert found, text
    return found


def state_of(cluster: Cluster, job: str) -> str:
    return cluster.execute("controller", f"squeue -h -t all -j {job} -o %T").strip()


def has_begun(cluster: Cluster, job: str) -> bool:
    return state_of(cluster, job) not in ("PENDING", "CONFIGURING")


def has_ended(cluster: Cluster, job: str) -> bool:
    return state_of(cluster, job) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def why(cluster: Cluster, job: str) -> Answer:
    done = cluster.try_call("hpc", "why", job, "--json")
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    assert done.returncode == (0 if answer["is_well"] else WRONG)
    return answer


# By the label of the job: the id of the cause, words of its text, words of its remedy.
CAUSES = {
    "exit3": ("job-failed", "exit code 3", "tail -n 50 /home/hpc/why/slurm-"),
    "not-found": ("job-no-such-command", "exit code 127", "tail -n 50"),
    "no-output": ("job-no-output", "/nowhere/x", "ls -ld /nowhere"),
    "oom": ("job-out-of-memory", "more memory than it asked for", "sbatch --mem=48M"),
    "signal": ("job-signalled", "signal 11", "tail -n 50"),
    "timeout": ("job-time-over", "its time was over: 00:01:00", "sbatch --time=2"),
    "cancelled": ("job-cancelled", "it was cancelled", "scontrol show job"),
    "impossible": ("job-impossible", "no node can give", "scancel"),
    "suspended": ("job-stopped", "stands still", "scontrol resume"),
    "held": ("job-held-by-user", "its user holds it", "scontrol release"),
    "admin": ("job-held-by-admin", "root holds it", "scontrol release"),
    "requeued": ("job-held-requeued", "is held", "scontrol release"),
    "later": ("job-begins-later", "it is not to begin before", "starttime=now"),
    "waits": ("job-waits-dependency", "for afterok:", "squeue -j"),
    "never": ("job-dependency-never", "which will never be", "dependency="),
    "long": ("job-partition-time", "it asks for 01:00:00, and small gives", "timelimit="),
    "wide": ("job-partition-nodes", "it asks for 2 nodes", "numnodes=1"),
    "shut": ("job-partition-down", "its partition starts no jobs", "partitionname=shut state=up"),
    "reserved": ("job-waits-reservation", "its reservation has not begun", "show reservation"),
}


@pytest.mark.parametrize("label", CAUSES)
def test_the_reason_of_a_job_is_named_with_what_mends_it(
    watched: Cluster, jobs: Mapping[str, str], label: str
) -> None:
    cause_id, says, remedy = CAUSES[label]
    answer = why(watched, jobs[label])
    cause = answer["cause"]
    assert cause["id"] == cause_id, answer
    assert says in cause["text"]
    assert remedy in cause["remedy"]
    assert cause["evidence"]
    assert answer["subject"] == f"job {jobs[label]}"
    assert answer["is_well"] is False
    if label == "exit3":
        assert any("said before it failed" in line for line in cause["evidence"])


def test_a_job_that_waits_for_others_is_told_who_has_what_it_waits_for(
    watched: Cluster, jobs: Mapping[str, str]
) -> None:
    # It takes the processors that the suspended job gave up.
    assert why(watched, jobs["busy"])["is_well"] is True
    first, second = why(watched, f"{jobs['array']}_1"), why(watched, jobs["after"])
    assert first["cause"], first
    assert first["cause"]["id"] == "job-waits-resources"
    assert second["cause"], second
    assert second["cause"]["id"] == "job-waits-priority"
    notes = "\n".join(first["notes"])
    assert re.search(r"SLURM (expects to start it at|does not say when)", notes)
    assert f"job {jobs['busy']} (wrap, of hpc) has 4 CPUs of compute-01, compute-02 " in notes
    assert "what would fit now: " in notes


def test_a_job_that_ended_well_or_runs_is_said_to_be_well(
    watched: Cluster, jobs: Mapping[str, str]
) -> None:
    good = why(watched, jobs["good"])
    assert good["is_well"] is True
    assert "ended with 0 at " in good["says"]
    first = why(watched, f"{jobs['array']}_1")
    if first["is_well"]:
        assert " runs on compute-0" in first["says"]
        second = why(watched, f"{jobs['array']}_2")
        assert second["cause"]["id"] == "job-array-limit"
    else:
        assert first["cause"]["id"] in ("job-waits-resources", "job-waits-priority")


def test_a_job_that_slurm_does_not_know_is_an_error_of_its_own(watched: Cluster) -> None:
    done = watched.try_call("hpc", "why", "4000000", "--json")
    assert done.returncode not in (0, WRONG)
    assert json.loads(done.stdout)["error"]["brief"] == "SLURM knows no job 4000000"
