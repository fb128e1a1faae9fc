"""Nodes, partitions, jobs and the scheduler of SLURM from its JSON, of 22.05 to 26.05 (pure)."""

import re
from collections.abc import Mapping
from dataclasses import replace

from ai_how.guest.serial_log import one_line
from ai_how.hpc.hostlist import expand
from ai_how.hpc.job_record import MIB_OF
from ai_how.hpc.job_times import duration_s
from ai_how.hpc.slurm_json import (
    Object,
    moment,
    number,
    object_of,
    objects_of,
    text_of,
    whole,
    words_of,
)
from ai_how.monitoring.model import GpuCount, Job, Partition, SlurmNode

MOST_JOBS = 10_000
MINUTE = 60.0
# `gpu:a100:2(S:0)` of a node, `gres/gpu:a100=2` of TRES, `gres:gpu:2` of a request; each may have
# no type.
_GRES = re.compile(r"(?:^|[,/:])gpu(?::([A-Za-z0-9][A-Za-z0-9_.+-]*?))?[:=]([0-9]{1,6})(?=[,(]|$)")
_MEMORY = re.compile(r"(?:^|,)mem=([0-9]+(?:\.[0-9]+)?)([KMGTP]?)(?=,|$)")
_LINE = re.compile(r"(?:^|\s)([A-Za-z/]+)=(\S*)")

# Before 23.02 sdiag prints no JSON.
SDIAG = {
    ("", "Server thread count"): "server_thread_count",
    ("", "Agent queue size"): "agent_queue_size",
    ("", "Agent count"): "agent_count",
    ("", "Agent thread count"): "agent_thread_count",
    ("", "DBD Agent queue size"): "dbd_agent_queue_size",
    ("", "Jobs submitted"): "jobs_submitted",
    ("", "Jobs started"): "jobs_started",
    ("", "Jobs completed"): "jobs_completed",
    ("", "Jobs canceled"): "jobs_canceled",
    ("", "Jobs failed"): "jobs_failed",
    ("", "Jobs pending"): "jobs_pending",
    ("", "Jobs running"): "jobs_running",
    ("Main", "Last cycle"): "schedule_cycle_last",
    ("Main", "Max cycle"): "schedule_cycle_max",
    ("Main", "Total cycles"): "schedule_cycle_total",
    ("Main", "Mean cycle"): "schedule_cycle_mean",
    ("Main", "Mean depth cycle"): "schedule_cycle_mean_depth",
    ("Main", "Last queue length"): "schedule_queue_length",
    ("Backfilling", "Total backfilled jobs (since last slurm start)"): "bf_backfilled_jobs",
    (
        "Backfilling",
        "Total backfilled jobs (since last stats cycle start)",
    ): "bf_last_backfilled_jobs",
    ("Backfilling", "Total cycles"): "bf_cycle_counter",
    ("Backfilling", "Last cycle"): "bf_cycle_last",
    ("Backfilling", "Max cycle"): "bf_cycle_max",
    ("Backfilling", "Mean cycle"): "bf_cycle_mean",
    ("Backfilling", "Last depth cycle"): "bf_last_depth",
    ("Backfilling", "Depth Mean"): "bf_depth_mean",
    ("Backfilling", "Last queue length"): "bf_queue_len",
    ("Backfilling", "Queue length mean"): "bf_queue_len_mean",
    ("Backfilling", "Last table size"): "bf_table_size",
    ("Backfilling", "Mean table size"): "bf_table_size_mean",
}


def read_nodes(text: str) -> tuple[SlurmNode, ...]:
    """The nodes of `scontrol show nodes --json`, or of `sinfo --json` before 23.02."""
    return tuple(node for one in objects_of(text, "nodes") if (node := _node(one)))


def read_jobs(text: str) -> tuple[Job, ...]:
    """The jobs of `scontrol show jobs --json`, or of `squeue --json` before 23.02.

    Of more than 10,000, those that were submitted first are left out.
    """
    found = [job for one in objects_of(text, "jobs") if (job := _job(one))]
    if len(found) > MOST_JOBS:
        found.sort(key=lambda one: int(one.id))
    return tuple(found[-MOST_JOBS:])


def read_partitions(text: str) -> tuple[Partition, ...]:
    """The partitions of `scontrol show partitions -o`: the JSON does not tell the default one."""
    return tuple(part for line in text.splitlines() if (part := _partition(line)))


def read_version(text: str) -> str | None:
    """SLURM's release by the `meta` of any answer."""
    meta = object_of(text, "meta")
    slurm = meta.get("slurm") or meta.get("Slurm")
    return text_of(slurm.get("release")) if isinstance(slurm, Mapping) else None


def read_scheduler(text: str) -> dict[str, float]:
    """The figures of `sdiag --json`, by its names; of a group `schedule_exit_licenses`.

    Before 23.02, those of its text.
    """
    if '"statistics"' not in text:
        return read_old_scheduler(text)
    told = dict(object_of(text, "statistics"))
    for group in ("schedule_exit", "bf_exit"):
        inner = told.pop(group, None)
        if isinstance(inner, Mapping):
            told |= {f"{group}_{name}": value for name, value in inner.items()}
    found = {}
    for name, value in told.items():
        figure = float(value) if isinstance(value, bool) else number(value)
        if figure is not None and re.fullmatch(r"[a-z][a-z0-9_]{1,60}", name):
            found[name] = figure
    return found


def read_old_scheduler(text: str) -> dict[str, float]:
    """The figures of sdiag without JSON, by the names that they have there."""
    found, section = {}, ""
    for line in text.splitlines()[:1000]:
        if line.startswith(("Main", "Backfilling", "Remote")):
            section = line.split()[0]
        words, _, value = line.strip().partition(":")
        name = SDIAG.get((section, words))
        figure = re.fullmatch(r"\s*([0-9]{1,15})", value)
        if name and figure:
            found[name] = float(figure[1])
    return found


def read_gpus(has: str | None, used: str | None) -> tuple[GpuCount, ...]:
    """The GPUs of a node, by type, from its `gres` and `gres_used`."""
    allotted = _gpu_counts(used)
    return tuple(
        GpuCount(type=kind, count=count, allotted=min(allotted.get(kind, 0), count))
        for kind, count in sorted(_gpu_counts(has).items())
    )


def _gpu_counts(text: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for kind, count in _GRES.findall(text or ""):
        found[kind or "gpu"] = found.get(kind or "gpu", 0) + int(count)
    return found


def _node(one: Object) -> SlurmNode | None:
    name, states = text_of(one.get("name")), words_of(one.get("state"), one.get("state_flags"))
    if name is None or not states:
        return None
    load, free_mib = number(one.get("cpu_load")), one.get("free_mem", one.get("free_memory"))
    if whole(free_mib) is None:
        load = None  # its slurmd has told neither; some releases print 0 then
    return SlurmNode(
        name=name,
        states=states,
        reason=(reason := text_of(one.get("reason"))),
        reason_user=text_of(one.get("reason_set_by_user")) if reason else None,
        reason_at=moment(one.get("reason_changed_at")) if reason else None,
        cpus=whole(one.get("cpus")) or 0,
        cpus_allotted=whole(one.get("alloc_cpus")) or 0,
        load=None if load is None else load / 100,
        memory_mib=whole(one.get("real_memory")) or 0,
        memory_allotted_mib=whole(one.get("alloc_memory")) or 0,
        memory_free_mib=whole(free_mib),
        gpus=read_gpus(text_of(one.get("gres")), text_of(one.get("gres_used"))),
        partitions=_names(one.get("partitions")),
        booted_at=moment(one.get("boot_time")),
    )


def _names(value: object) -> tuple[str, ...]:
    every = value[:256] if isinstance(value, list) else ()
    return tuple(name for one in every if (name := text_of(one)))


def _partition(line: str) -> Partition | None:
    fields = dict(_LINE.findall(line[:10_000]))
    name = text_of(fields.get("PartitionName"))
    if name is None:
        return None
    nodes = text_of(fields.get("Nodes"))
    return Partition(
        name=name,
        state=one_line(fields.get("State", "unknown"))[:40].lower(),
        is_default=fields.get("Default") == "YES",
        nodes=expand(nodes) if nodes else (),
        max_time_s=duration_s(fields.get("MaxTime", "")),
    )


def _job(one: Object) -> Job | None:
    number_of_job, state = whole(one.get("job_id")), _job_state(one)
    if number_of_job is None or state is None:
        return None
    nodes = text_of(one.get("nodes"))
    asked = text_of(one.get("tres_alloc_str")) or text_of(one.get("tres_req_str")) or ""
    reason, limit = text_of(one.get("state_reason")), number(one.get("time_limit"))
    job = Job(
        id=str(number_of_job),
        shown_id=_shown_id(one, number_of_job),
        name=text_of(one.get("name")) or "",
        user=text_of(one.get("user_name")) or str(whole(one.get("user_id")) or 0),
        account=text_of(one.get("account")),
        partition=text_of(one.get("partition")) or "",
        qos=text_of(one.get("qos")),
        state=state,
        flags=tuple(word for word in words_of(one.get("job_state")) if word != state),
        reason=None if reason == "None" else reason,
        priority=whole(one.get("priority")),
        submitted_at=moment(one.get("submit_time")),
        started_at=moment(one.get("start_time")),
        limit_s=None if limit is None else limit * MINUTE,
        nodes=expand(nodes) if nodes else (),
        node_count=whole(one.get("node_count")),
        cpus=_tres_count(asked, "cpu") or whole(one.get("cpus")),
        memory_mib=_memory_mib(asked),
        gpus=_job_gpus(one, asked),
        dependency=text_of(one.get("dependency")),
        restarts=whole(one.get("restart_cnt")),
        command=text_of(one.get("command")),
        work_directory=text_of(one.get("current_working_directory")),
        output=text_of(one.get("stdout_expanded")) or text_of(one.get("standard_output")),
    )
    if not job.has_ended:
        return job
    code, signal = _exit(one.get("exit_code"))
    return replace(job, ended_at=moment(one.get("end_time")), exit_code=code, signal=signal)


def _job_state(one: Object) -> str | None:
    """The one word that squeue shows: a job that has ended may still be completing."""
    words = words_of(one.get("job_state"))
    for flag in ("completing", "configuring"):
        if flag in words:
            return flag
    return words[0] if words else None


def _shown_id(one: Object, job: int) -> str:
    array, task = whole(one.get("array_job_id")), whole(one.get("array_task_id"))
    if array and (tasks := text_of(one.get("array_task_string"))):
        return f"{array}_[{tasks}]"  # those that are still to come
    if array and task is not None:
        return f"{array}_{task}"
    if het := whole(one.get("het_job_id")):
        return f"{het}+{whole(one.get('het_job_offset')) or 0}"
    return str(job)


def _tres_count(tres: str, name: str) -> int | None:
    found = re.search(rf"(?:^|,){name}=([0-9]{{1,9}})(?=,|$)", tres)
    return int(found[1]) if found else None


def _memory_mib(tres: str) -> int | None:
    found = _MEMORY.search(tres)
    return int(float(found[1][:18]) * MIB_OF[found[2]]) if found else None


def _job_gpus(one: Object, tres: str) -> int | None:
    """GPUs over all nodes: as allotted, else as counted in TRES, else as asked for."""
    detail = one.get("gres_detail")
    if isinstance(detail, list) and detail:
        return sum(sum(_gpu_counts(text_of(each)).values()) for each in detail[:4096]) or None
    counted = _gpu_counts(tres)
    if "gpu" in counted:  # the sum over all types
        return counted["gpu"]
    if counted:
        return sum(counted.values())
    if per_job := _gpu_counts(text_of(one.get("tres_per_job"))):
        return sum(per_job.values())
    if per_node := _gpu_counts(text_of(one.get("tres_per_node"))):
        return sum(per_node.values()) * (whole(one.get("node_count")) or 1)
    return None


def _exit(value: object) -> tuple[int | None, int | None]:
    """The exit code and the signal: two numbers, or the one of wait(2) before 23.02."""
    if isinstance(value, Mapping):
        signal = value.get("signal")
        told = signal.get("id", signal.get("signal_id")) if isinstance(signal, Mapping) else None
        return whole(value.get("return_code")), whole(told) or None
    status = whole(value)
    if status is None:
        return None, None
    signal = status & 0x7F
    return (None, signal) if signal else (status >> 8 & 0xFF, None)
