"""The program that watches one SLURM cluster: `clusters/collecting.py` starts it."""

from ai_how.hpc.kind import SLURM
from ai_how.monitoring.collector import Collector
from ai_how.monitoring.service import Rounds, Task, main
from ai_how.monitoring.watched import watched_as


def rounds_of(task: Task) -> Rounds:
    """What is seen of the cluster, each few seconds, with what is wrong."""
    return Collector(watched_as(SLURM, task.name, task.roots)).rounds


if __name__ == "__main__":
    main(rounds_of)
