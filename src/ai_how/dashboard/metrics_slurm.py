"""What slurmctld says, by the names of its own endpoint of 25.11 and later (pure).

Counted as slurmctld counts there (its `statistics.c`), with one difference: what is called bytes is
bytes. Its own endpoint has MiB there.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from ai_how.dashboard.metrics_page import Series, label_of, mib
from ai_how.dashboard.metrics_slurm_names import (
    HELP,
    JOB_WORDS,
    NODE_WORDS,
    OTHER_HELP,
    PARTITION_NAMES,
    SCHEDULER,
)
from ai_how.monitoring.model import Job, Partition, SlurmNode, SlurmSample

MOST_USERS = 200
"""Users, and accounts, whose jobs are counted; those with the most jobs."""
_TASKS = re.compile(r"_\[([\d,:-]+)(?:%\d+)?\]$")
_RANGE = re.compile(r"(\d+)-(\d+)(?::(\d+))?$")
_MOST_TASKS = 4_000_001  # the highest MaxArraySize of SLURM
_HELD = frozenset({"JobHeldUser", "JobHeldAdmin"})
_HAS_CPUS = frozenset({"running", "suspended"})
_ENDED = frozenset(
    {
        *("boot_fail", "cancelled", "completed", "deadline", "failed", "node_fail"),
        *("out_of_memory", "preempted", "timeout"),
    }
)


def add_slurm(series: Series, slurm: SlurmSample) -> None:
    if slurm.version:
        series.gauge("ai_how_slurm_info", "The version of slurmctld.", 1, version=slurm.version)
    for node in slurm.nodes:
        _add_node(series.of(node=node.name), node)
    for name, value in (_count_nodes(slurm.nodes) | _count_jobs(slurm.jobs)).items():
        series.gauge(f"slurm_{name}", HELP[name], value)
    series.gauge("slurm_partitions", HELP["partitions"], len(slurm.partitions))
    for partition in slurm.partitions:
        _add_partition(series.of(partition=partition.name), partition, slurm)
    _add_owners(series, "user", "username", slurm.jobs, lambda job: job.user)
    _add_owners(series, "account", "account", slurm.jobs, lambda job: job.account)
    for name, (word, help_) in SCHEDULER.items():
        series.gauge(f"slurm_{name}", help_, slurm.scheduler.get(word))


def count_tasks(shown_id: str) -> int:
    """How many jobs a waiting one stands for: `12_[1-5,9]` is an array with six tasks to come."""
    found = _TASKS.search(shown_id)
    if found is None:
        return 1
    count = 0
    for part in found[1].split(","):
        if spread := _RANGE.match(part):
            first, last, step = int(spread[1]), int(spread[2]), int(spread[3] or 1)
            count += max((last - first) // max(step, 1) + 1, 0)
        else:
            count += 1
    return min(max(count, 1), _MOST_TASKS)


def _add_node(series: Series, node: SlurmNode) -> None:
    gpus = sum(one.count for one in node.gpus)
    for name, value in (
        ("node_cpus", node.cpus),
        ("node_cpus_alloc", node.cpus_allotted),
        ("node_cpus_idle", node.cpus - node.cpus_allotted),
        ("node_gpus", gpus),
        ("node_gpus_alloc", sum(one.allotted for one in node.gpus)),
        ("node_memory_bytes", mib(node.memory_mib)),
        ("node_memory_alloc_bytes", mib(node.memory_allotted_mib)),
        ("node_memory_free_bytes", mib(node.memory_free_mib)),
    ):
        series.gauge(f"slurm_{name}", HELP[name], value)


def _count_nodes(nodes: Sequence[SlurmNode]) -> dict[str, float]:
    """By the names of the endpoint `nodes`."""
    words = [_words_of(node) for node in nodes]
    draining = sum("drain" in one and _is_busy(one) for one in words)
    drained = sum("drain" in one and not _is_busy(one) for one in words)
    return {
        "nodes": len(nodes),
        **{f"nodes_{name}": sum(w in one for one in words) for name, w in NODE_WORDS.items()},
        "nodes_drain": drained,  # slurmctld counts a node either as this or as draining
        "nodes_drained": drained,
        "nodes_draining": draining,
    }


def _words_of(node: SlurmNode) -> frozenset[str]:
    """The states of a node, as they are counted: a mixed one is not allocated as well."""
    words = {"maintenance" if one == "maint" else one for one in node.states}
    if words & {"idle", "allocated", "mixed"} and not words & {"down", "future"}:
        words -= {"idle", "allocated", "mixed"}
        is_full = node.cpus_allotted >= node.cpus
        base = "idle" if not node.cpus_allotted else "allocated" if is_full else "mixed"
        words.add("mixed" if "mixed" in node.states else base)
    return frozenset(words)


def _is_busy(words: frozenset[str]) -> bool:
    return bool(words & {"allocated", "mixed"})


def _count_jobs(jobs: Sequence[Job]) -> dict[str, float]:
    """By the names of the endpoint `jobs`."""
    words = [_words_of_job(job) for job in jobs]
    waiting = [job for job, own in zip(jobs, words, strict=True) if "pending" in own]
    held = [job for job in waiting if job.reason in _HELD]
    running = [job for job, own in zip(jobs, words, strict=True) if own & _HAS_CPUS]
    return {
        "jobs": sum(_tasks_of(job) for job in jobs),
        "jobs_pending": sum(map(_tasks_of, waiting)),
        "jobs_hold": sum(map(_tasks_of, held)),
        **{f"jobs_{name}": sum(w in one for one in words) for name, w in JOB_WORDS.items()},
        "jobs_finished": sum(not one.isdisjoint(_ENDED) for one in words),
        "jobs_started": len(jobs) - len(waiting),
        "jobs_cpus_alloc": sum(job.cpus or 0 for job in running),
        "jobs_gpus_alloc": sum(job.gpus or 0 for job in running),
        "jobs_memory_alloc": mib(sum(job.memory_mib or 0 for job in running)) or 0,
        "jobs_nodes_alloc": len({name for job in running for name in job.nodes}),
    }


def _words_of_job(job: Job) -> frozenset[str]:
    return frozenset((job.state, *job.flags))


def _is_over(words: frozenset[str]) -> bool:
    return not words.isdisjoint(_ENDED) and "completing" not in words


def _tasks_of(job: Job) -> int:
    return count_tasks(job.shown_id) if "pending" in _words_of_job(job) else 1


def _add_partition(series: Series, partition: Partition, slurm: SlurmSample) -> None:
    names = set(partition.nodes)
    nodes = [node for node in slurm.nodes if node.name in names]
    jobs = [job for job in slurm.jobs if job.partition == partition.name]
    counts: dict[str, float | None] = dict(_count_jobs(jobs))
    # An array is one of these, and those that have ended are none.
    counts["jobs"] = sum(not _is_over(_words_of_job(job)) for job in jobs)
    del counts["jobs_nodes_alloc"]
    waiting = [job for job in jobs if "pending" in _words_of_job(job)]
    free = [job for job in waiting if job.reason not in _HELD]
    counts["jobs_min_job_nodes"] = _most_nodes(waiting)
    counts["jobs_min_job_nodes_nohold"] = _most_nodes(free)
    for name, value in _count_nodes(nodes).items():
        stem = name.removeprefix("nodes_")
        counts[f"nodes_{PARTITION_NAMES.get(stem, stem)}" if stem != name else name] = value
    counts |= {
        "nodes": len(partition.nodes),
        "cpus": sum(node.cpus for node in nodes),
        "gpus": sum(one.count for node in nodes for one in node.gpus),
        "nodes_cpus_alloc": sum(node.cpus_allotted for node in nodes),
        "nodes_cpus_idle": sum(node.cpus - node.cpus_allotted for node in nodes),
        "nodes_mem_tot": sum(node.memory_mib for node in nodes),
        "nodes_mem_alloc": sum(node.memory_allotted_mib for node in nodes),
        "nodes_mem_free": _sum_known(node.memory_free_mib for node in nodes),
    }
    for name, count in counts.items():
        series.gauge(f"slurm_partition_{name}", HELP[f"partition_{name}"], count)


def _most_nodes(jobs: Sequence[Job]) -> int:
    return max((job.node_count or 1 for job in jobs), default=0)


def _sum_known(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(one for one in known if one is not None)


def _add_owners(
    series: Series, prefix: str, label: str, jobs: Sequence[Job], of: Callable[[Job], str | None]
) -> None:
    """The jobs of each user or account; an array that waits is one job of theirs, as natively."""
    by_owner = defaultdict[str, list[Job]](list)
    for job in jobs:
        if owner := of(job):
            by_owner[label_of(owner)].append(job)
    sizes = Counter({owner: len(own) for owner, own in by_owner.items()})
    for owner, _ in sizes.most_common(MOST_USERS):
        counts = _count_jobs(by_owner[owner]) | {"jobs": len(by_owner[owner])}
        for name, value in counts.items():
            help_ = OTHER_HELP.get(name, HELP[name])
            series.gauge(f"slurm_{prefix}_{name}", help_, value, **{label: owner})
    series.page.left_out += max(len(by_owner) - MOST_USERS, 0)
