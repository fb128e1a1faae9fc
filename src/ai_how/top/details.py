"""All that is known of a node, a job or a finding, as lines of text (pure)."""

from collections.abc import Iterator
from datetime import datetime

from ai_how.monitoring.model import Finding, GuestSample, JobUse, NodeSample, Snapshot, VmSample
from ai_how.top.plain import UNKNOWN, age, duration, figure, mib, part, percent, plain, size
from ai_how.top.rows import JobRow, NodeRow

_LABEL = 14


def node_lines(row: NodeRow, snapshot: Snapshot, now: float) -> list[str]:
    """A node from all sides."""
    node = row.node
    lines = [_fact("node", f"{plain(node.name)}, {plain(node.role)}, {plain(node.ip)}")]
    lines += _vm_lines(node.vm, is_old=row.is_vm_old)
    lines += _slurm_lines(node, now)
    lines += _guest_lines(node.guest, is_old=row.is_guest_old)
    for job in row.jobs:
        use = _use_of(node.guest, job.id)
        memory = mib(use.memory_mib if use else None)
        lines.append(
            _fact(
                "job",
                f"{plain(job.shown_id, 24)} {plain(job.name, 40)} of {plain(job.user, 40)}, "
                f"memory here {memory}",
            )
        )
    for found in snapshot.findings:
        if found.subject == node.name:
            lines += ["", *finding_lines(found, now)]
    return lines


def job_lines(row: JobRow, snapshot: Snapshot) -> list[str]:
    """A job, and what it has used on each node."""
    job = row.job
    facts: list[tuple[str, str | None]] = [
        ("job", f"{job.shown_id}" + (f" (number {job.id})" if job.id != job.shown_id else "")),
        ("name", job.name),
        ("user", job.user + (f", account {job.account}" if job.account else "")),
        ("partition", job.partition + (f", QOS {job.qos}" if job.qos else "")),
        ("state", job.state + (f" ({job.reason})" if job.reason else "")),
        ("exit", _exit_words(job.exit_code, job.signal)),
        ("nodes", ",".join(job.nodes) or None),
        ("submitted", _moment(job.submitted_at)),
        ("starts" if job.is_waiting else "started", _moment(job.started_at)),
        ("ended", _moment(job.ended_at)),
        ("time", part(duration(row.elapsed_s), duration(job.limit_s))),
        ("cpus", None if job.cpus is None else str(job.cpus)),
        ("cpu time", f"{duration(job.cpu_used_s)}, {percent(row.cpu_share)} of what it has"),
        (
            "memory peak",
            (
                f"{part(mib(job.memory_peak_mib), mib(job.memory_mib))}, "
                f"{percent(row.memory_share)} of what it asked for"
            ),
        ),
        ("gpus", None if job.gpus is None else str(job.gpus)),
        ("priority", None if job.priority is None else str(job.priority)),
        ("depends on", job.dependency),
        ("restarts", str(job.restarts) if job.restarts else None),
        ("command", job.command),
        ("directory", job.work_directory),
        ("output", job.output),
    ]
    lines = [_fact(label, value) for label, value in facts if value]
    for name in job.nodes:
        sample = snapshot.find_node(name)
        if sample and (use := _use_of(sample.guest, job.id)):
            words = f"cpu {duration(use.cpu_s)}, memory {mib(use.memory_mib)}"
            words += f", peak {mib(use.memory_peak_mib)}"
            words += f", {use.oom_kills} killed for want of memory" if use.oom_kills else ""
            lines.append(_fact(f"on {name}", words))
    return lines


def finding_lines(found: Finding, now: float) -> list[str]:
    """A finding with its evidence and remedy."""
    return [
        _fact(found.severity, f"{plain(found.subject)}: {plain(found.text)}"),
        _fact("id", f"{plain(found.id)}, for {age(now - found.since)}"),
        *(_fact("seen" if not number else "", line) for number, line in enumerate(found.evidence)),
        *([_fact("remedy", found.remedy)] if found.remedy else []),
    ]


def _vm_lines(vm: VmSample | None, *, is_old: bool) -> Iterator[str]:
    if vm is None:
        yield _fact("VM", UNKNOWN)
        return
    mark = "  (old: libvirt is silent)" if is_old else ""
    reason = f" ({plain(vm.reason)})" if vm.reason else ""
    yield _fact("VM", f"{plain(vm.domain)} {plain(vm.state)}{reason}{mark}")
    busy, waiting = figure(vm.cpus_busy), figure(vm.cpus_waiting)
    yield _fact("cpu", f"{part(busy, str(vm.vcpus))} busy, {waiting} waiting for the host")
    inside = part(mib(vm.guest_memory_used_mib), mib(vm.guest_memory_mib))
    yield _fact(
        "memory",
        f"{inside} used in the guest, {mib(vm.memory_mib)} given, "
        f"balloon {mib(vm.balloon_mib)}, QEMU {mib(vm.qemu_memory_mib)}",
    )
    written = part(size(vm.disk_used_bytes), size(vm.disk_capacity_bytes))
    rates = f"read {size(vm.disk_read_bytes_s)}/s, written {size(vm.disk_written_bytes_s)}/s"
    yield _fact("disk", f"{written} on the host, {rates}, errors {_count(vm.counters.disk_errors)}")
    yield _fact(
        "network",
        f"received {size(vm.net_received_bytes_s)}/s, sent {size(vm.net_sent_bytes_s)}/s",
    )
    yield _fact("agent", "connected" if vm.is_agent_connected else "not connected")


def _slurm_lines(node: NodeSample, now: float) -> Iterator[str]:
    slurm = node.slurm
    if slurm is None:
        return
    yield _fact("SLURM", "+".join(slurm.states))
    if slurm.reason:
        who = f", {plain(slurm.reason_user, 40)}" if slurm.reason_user else ""
        since = f", {age(now - slurm.reason_at)} ago" if slurm.reason_at else ""
        yield _fact("reason", f"{plain(slurm.reason)}{who}{since}")
    yield _fact(
        "allotted",
        f"cpus {slurm.cpus_allotted}/{slurm.cpus}, memory {mib(slurm.memory_allotted_mib)}/"
        f"{mib(slurm.memory_mib)}, load {figure(slurm.load)}",
    )
    for gpus in slurm.gpus:
        yield _fact("gpus", f"{plain(gpus.type, 64)}: {gpus.allotted}/{gpus.count} allotted")
    if slurm.partitions:
        yield _fact("partitions", ", ".join(slurm.partitions))


def _guest_lines(guest: GuestSample | None, *, is_old: bool) -> Iterator[str]:
    if guest is None:
        yield _fact("guest", UNKNOWN)
        return
    load = " ".join(figure(one) for one in guest.load) if guest.load else UNKNOWN
    mark = "  (old: it is silent)" if is_old else ""
    yield _fact("guest", f"up {duration(guest.uptime_s)}, load {load}{mark}")
    for system in guest.file_systems:
        yield _fact(
            "filled",
            f"{plain(system.mount_point, 60)} {mib(system.used_mib)}/{mib(system.size_mib)}",
        )
    services = ", ".join(f"{name} {state}" for name, state in guest.services.items())
    yield _fact("services", services or UNKNOWN)
    if guest.failed_units:
        yield _fact("failed units", ", ".join(guest.failed_units))
    for gpu in guest.gpus:
        memory = part(mib(gpu.memory_used_mib), mib(gpu.memory_mib))
        yield _fact(
            f"gpu {gpu.index}",
            f"{plain(gpu.name, 64)}: {figure(gpu.busy_percent)} %, memory {memory}, "
            f"{figure(gpu.temperature_c)} C, {figure(gpu.power_w)} W",
        )


def _use_of(guest: GuestSample | None, job: str) -> JobUse | None:
    return next((one for one in guest.jobs if one.job == job), None) if guest else None


def _exit_words(code: int | None, signal: int | None) -> str | None:
    if code is None and signal is None:
        return None
    return f"code {_count(code)}" + (f", signal {signal}" if signal else "")


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    try:
        return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return UNKNOWN  # SLURM's word, and no time of this calendar


def _fact(label: str, value: str) -> str:
    return f"{plain(label, 30):<{_LABEL}} {plain(value)}"
