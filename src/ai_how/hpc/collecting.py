"""The program that watches one SLURM cluster: `clusters/collecting.py` starts it."""

from ai_how.hpc.kind import SLURM
from ai_how.monitoring.collector import Collector
from ai_how.monitoring.health import judge_of
from ai_how.monitoring.service import Rounds, Task, main
from ai_how.monitoring.watched import Watched


def rounds_of(task: Task) -> Rounds:
    """What is seen of the cluster, each few seconds, with what is wrong."""
    watched = Watched(
        name=task.name, kind=SLURM.name, roots=task.roots, new_workload=SLURM.workload_source
    )
    return Collector(watched, judge=judge_of(SLURM).judge).rounds


if __name__ == "__main__":
    main(rounds_of)
