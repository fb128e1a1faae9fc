"""The wait for a job, with stand-ins for SLURM's commands that tell the states of an array."""

from pathlib import Path

import pytest

from ai_how.api.jobs import Job
from ai_how.api.results import CommandResult
from ai_how.process import run

# A look takes one line: the states of the tasks.
SQUEUE = """#!/bin/sh
head -n 1 {looks} | tr ' ' '\\n'
sed -i 1d {looks}
"""
SCONTROL = "#!/bin/sh\ncat {tasks}\n"
TASK = "JobId={id} ArrayJobId=2 JobName=a\n   JobState={state} Reason={why} ExitCode={code}\n"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("squeue", SQUEUE), ("scontrol", SCONTROL), ("sleep", "#!/bin/sh\n")):
        (programs / name).write_text(
            text.format(looks=tmp_path / "looks", tasks=tmp_path / "tasks")
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def here(argv: list[str], *, timeout: float | None = None) -> CommandResult:
        done = run(argv, check=False, timeout_s=60)
        return CommandResult(tuple(argv), done.returncode, done.stdout, done.stderr)

    return Job(2, here)


def test_an_array_is_waited_for_until_its_last_task_has_ended(job, tmp_path):
    looks = tmp_path / "looks"
    looks.write_text("PENDING\nRUNNING RUNNING\nCOMPLETED RUNNING\nCOMPLETED COMPLETED\n")
    done = TASK.format(id=2, state="COMPLETED", why="None", code="0:0")
    (tmp_path / "tasks").write_text(f"{done}\n{done}\n")
    assert job.wait().is_completed
    assert looks.read_text() == ""


def test_a_task_that_failed_is_the_result_of_its_array(job, tmp_path):
    (tmp_path / "looks").write_text("COMPLETED FAILED COMPLETED\n")
    done = TASK.format(id=2, state="COMPLETED", why="None", code="0:0")
    failed = TASK.format(id=3, state="FAILED", why="NonZeroExitCode", code="4:0")
    (tmp_path / "tasks").write_text(f"{done}\n{failed}\n{done}\n")
    result = job.wait()
    assert (result.state, result.returncode) == ("FAILED", 4)
