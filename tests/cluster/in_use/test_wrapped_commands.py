"""`hpc wrappers` on a real cluster: SLURM's own commands, from a directory of this host."""

import os
import signal
from pathlib import Path

import pytest

from ai_how.process import Completed, run, start_daemon
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

JOB_S = 600
JOB = """\
#!/bin/sh
#SBATCH --nodes=2 --ntasks-per-node=1
srun sh -c 'echo "$SLURM_PROCID: $(cat input)"' | sort
echo made > made-by-job
"""


@pytest.fixture
def here(used: Cluster, tmp_path: Path) -> Path:
    directory = tmp_path / "my work"
    directory.mkdir()
    (directory / "input").write_text("read\n")
    (directory / "job.sh").write_text(JOB)
    run([*used.argv, "-c", used.file, "hpc", "wrappers", tmp_path / "bin"], timeout_s=JOB_S)
    return directory


def shell(here: Path, line: str) -> Completed:
    path = f"{here.parent / 'bin'}:{os.environ['PATH']}"
    return run(["sh", "-c", line], cwd=here, env={"PATH": path}, check=False, timeout_s=JOB_S)


def test_srun_and_sbatch_have_the_files_of_the_directory(used: Cluster, here: Path):
    done = shell(here, "srun -N2 --label hostname | sort")
    assert done.stdout == "0: compute-01\n1: compute-02\n", done
    done = shell(here, "sbatch --wait job.sh && cat slurm-*.out made-by-job")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[1:] == ["0: read", "1: read", "made"], done
    done = shell(here, "echo given | srun cat; srun sh -c 'exit 7'")
    assert (done.returncode, done.stdout) == (7, "given\n"), done
    assert shell(here, "sinfo -h -o %D").stdout == "2\n"
    done = shell(here, "sbatch --no-such-option job.sh")
    assert (done.returncode, "unrecognized option" in done.stderr) == (255, True), done


def test_what_a_job_writes_later_comes_back_with_the_next_command(used: Cluster, here: Path):
    (here / "later.sh").write_text("#!/bin/sh\nwhile [ ! -e go ]; do sleep 1; done; echo later\n")
    done = shell(here, "sbatch --parsable later.sh")
    job, out = done.stdout.strip(), here / f"slurm-{done.stdout.strip()}.out"
    assert job.isdecimal(), done
    (here / "go").write_text("")
    wait_until(
        lambda: shell(here, "srun --overlap -N1 true && squeue -h").stdout == "",
        Deadline.after(JOB_S),
        "the end of the job",
    )
    shell(here, "srun true")
    assert out.read_text() == "later\n"


def test_an_interrupt_ends_the_job_of_srun(used: Cluster, here: Path, tmp_path: Path):
    log = tmp_path / "log"
    words = [tmp_path / "bin" / "srun", "sh", "-c", "echo begun; sleep 54321"]
    child = start_daemon(["env", "-C", here, *words], log=log)
    wait_until(lambda: "begun" in log.read_text(), Deadline.after(JOB_S), "its output")
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=JOB_S) != 0
    assert "ending the command" in log.read_text()
    wait_until(
        lambda: shell(here, "squeue -h").stdout == "", Deadline.after(JOB_S), "the end of the job"
    )
