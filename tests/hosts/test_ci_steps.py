"""The steps of action.yml on clean machines, the second of which has the cache of the first.

GitHub itself is not there: `ci_service.py` does what it would do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

import pytest

from ci_service import ACTION, TEMP, WORK, Job
from clean_machine import USER_ID, Machine, clean_machine, copy_checkout, installed_on

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="another root directory needs root"),
]

JOB = """\
#!/bin/sh
#SBATCH --job-name=ours
echo "job on $SLURMD_NODENAME in $(basename "$PWD")"
cat input
echo made > result
"""
USES = {
    "sinfo -h -o %D": "1",
    "srun -N1 hostname": "compute-01",
    "srun false || echo $?": "1",
    "srun sh -c 'exit 7' || echo $?": "7",
    "echo 'a  b' | srun cat": "a  b",
    "sbatch --wait job.sh >&2; cat slurm-*.out result": "job on compute-01 in {copy}\nread\nmade",
    "squeue -h": "",
    "ai-how hpc status > /dev/null; echo $?": "0",
}


def test_the_second_machine_restores_its_nodes_from_the_cache_of_the_first(tmp_path: Path) -> None:
    caches = tmp_path / "caches"
    caches.mkdir()
    with a_job(tmp_path / "first", caches) as first:
        begin(first)
        check_first(first)
        check_uses(first)
    systems = (installed_on(first.machine),)
    with a_job(tmp_path / "second", caches, systems=systems) as second:
        begin(second)
        check_second(second)
        check_uses(second)


@contextmanager
def a_job(top: Path, caches: Path, systems: tuple[Path, ...] = ()) -> Iterator[Job]:
    with clean_machine(top, caches, systems=systems) as machine:
        copy_checkout(machine.outside(ACTION))
        for path in (WORK, TEMP):
            machine.outside(path).mkdir(parents=True)
        give_to_user(machine)
        try:
            yield Job(machine, caches)
        finally:
            leave(machine)
    rmtree(top / "home", ignore_errors=True)


def give_to_user(machine: Machine) -> None:
    for path in (machine.top / "home").rglob("*"):
        if path.is_dir() and not path.is_symlink():
            os.chown(path, USER_ID, USER_ID)


def leave(machine: Machine) -> None:
    """End what would outlive the machine, if anything: all of it dies with its first process."""
    program = ACTION / ".venv" / "bin" / "ai-how"
    machine.run(f"{program} host down --force || true", check=False, timeout_s=300)


def begin(job: Job) -> None:
    """The checkout of a project, and the action."""
    work = job.machine.outside(WORK)
    for name, text in (("job.sh", JOB), ("input", "read\n")):
        (work / name).write_text(text)
        os.chown(work / name, USER_ID, USER_ID)
    job.use_action({"compute-nodes": "1"})


def check_first(job: Job) -> None:
    assert job.outputs["cache"]["cache-hit"] == ""
    assert "compute-01: booting" in job.ran["Start the cluster"].stdout
    assert "MiB are in" in job.ran["Write the cache"].stdout
    assert len(list(job.caches.iterdir())) == 1


def check_second(job: Job) -> None:
    assert job.outputs["cache"]["cache-hit"] == "true"
    assert ": imported" in job.ran["Take the cache in"].stdout
    assert "cannot be used" not in job.ran["Take the cache in"].stdout
    started = job.ran["Start the cluster"].stdout
    for node in ("controller", "compute-01"):
        assert f"{node}: restoring" in started
    assert "booting" not in started
    assert "building" not in started
    assert "Write the cache" not in job.ran


def check_uses(job: Job) -> None:
    for line, wanted in USES.items():
        done = job.run(line, check=False)
        copy = done.stdout.partition(" in ")[2].partition("\n")[0]
        assert done.stdout.strip() == wanted.replace("{copy}", copy), (line, done)
        assert done.returncode == 0, (line, done)
