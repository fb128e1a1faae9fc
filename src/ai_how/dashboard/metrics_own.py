"""What no other exporter has: `ai_how_*` (pure).

Starts, health, what answers, memory that means something, the host, jobs and their use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ai_how.dashboard.metrics_jobs import add_jobs
from ai_how.dashboard.metrics_page import Series, mib
from ai_how.monitoring.model import (
    FileSystemUse,
    GuestSample,
    HostSample,
    NodeSample,
    Snapshot,
    VmSample,
)

SEVERITIES = ("critical", "warning", "notice")
IsFresh = Callable[[str], bool]
"""Whether what a source said last still holds."""


@dataclass(frozen=True, slots=True)
class NodeStart:
    """How a node last came up: its stages in seconds; `restore` and `resume` are no boot."""

    node: str
    stages_s: Mapping[str, float]

    @property
    def way(self) -> str:
        """`boot`, `restore` (warm) or `resume`; empty if no stage says."""
        return next((one for one in ("restore", "resume", "boot") if one in self.stages_s), "")


def add_own(
    series: Series,
    snapshot: Snapshot,
    fresh: IsFresh,
    *,
    starts: Sequence[NodeStart],
    heals: Mapping[str, int] | None,
    own_cost: Mapping[str, float],
) -> None:
    series.flag("ai_how_cluster_host_up", "Whether the host of the VMs is up.", snapshot.is_up)
    series.gauge(
        "ai_how_snapshot_timestamp_seconds", "When what is here was put together.", snapshot.at
    )
    series.gauge("ai_how_nodes", "Nodes of the cluster.", len(snapshot.nodes))
    _add_sources(series, snapshot, fresh)
    if fresh("collector"):
        _add_findings(series, snapshot)
    _add_starts(series, starts)
    _add_costs(series, own_cost)
    for subject, count in (heals or {}).items():
        series.counter(
            "ai_how_heals_total", "How often `check --heal` acted.", count, subject=subject
        )
    if snapshot.host is not None and fresh("host"):
        _add_host(series, snapshot.host)
    for node in snapshot.nodes:
        _add_node(series.of(node=node.name), node, fresh)
    if snapshot.slurm is not None and fresh("slurm"):
        add_jobs(series, snapshot.slurm.jobs, snapshot.at)


def _add_sources(series: Series, snapshot: Snapshot, fresh: IsFresh) -> None:
    for source in snapshot.sources:
        labels = {"source": source.name}
        series.flag(
            "ai_how_source_up",
            "Whether it answers: what it said is shown only while it does.",
            source.trouble is None and fresh(source.name),
            **labels,
        )
        series.gauge(
            "ai_how_source_last_answer_timestamp_seconds",
            "When it last answered.",
            source.at,
            **labels,
        )
        series.gauge(
            "ai_how_source_answer_seconds", "How long that answer took.", source.took_s, **labels
        )
        series.gauge(
            "ai_how_source_interval_seconds", "How often it is asked.", source.every_s, **labels
        )


def _add_findings(series: Series, snapshot: Snapshot) -> None:
    for severity in SEVERITIES:
        series.gauge(
            "ai_how_findings",
            "What is wrong now.",
            sum(one.severity == severity for one in snapshot.findings),
            severity=severity,
        )
    for one in snapshot.findings:
        labels = {"id": one.id, "severity": one.severity, "subject": one.subject}
        series.gauge("ai_how_finding", "1: this is wrong now.", 1, **labels)
        series.gauge("ai_how_finding_since_timestamp_seconds", "Since when.", one.since, **labels)


def _add_starts(series: Series, starts: Sequence[NodeStart]) -> None:
    for one in starts:
        for stage, took_s in one.stages_s.items():
            series.gauge(
                "ai_how_start_stage_seconds",
                "How long a stage took when the node last came up.",
                took_s,
                node=one.node,
                stage=stage,
            )
        if one.way:
            series.gauge(
                "ai_how_start_info",
                "How the node last came up: boot, restore (warm) or resume.",
                1,
                node=one.node,
                way=one.way,
            )
            series.flag(
                "ai_how_start_restored",
                "Whether the node was restored from a saved VM when it last came up.",
                one.way == "restore",
                node=one.node,
            )


def _add_costs(series: Series, cost: Mapping[str, float]) -> None:
    series.counter(
        "ai_how_collector_cpu_seconds_total",
        "CPU time of the process that collects this.",
        cost.get("cpu_s"),
    )
    series.gauge("ai_how_collector_memory_bytes", "Its memory (RSS).", cost.get("memory_bytes"))
    series.gauge(
        "ai_how_collector_database_bytes",
        "What it keeps on disk.",
        cost.get("database_bytes"),
    )


def _add_host(series: Series, host: HostSample) -> None:
    gauge = series.gauge
    gauge("ai_how_host_cpus", "CPUs of the host.", host.cpus)
    gauge("ai_how_host_cpus_busy", "CPUs of the host that work.", host.cpus_busy)
    _add_load(series, "ai_how_host", host.load)
    gauge("ai_how_host_memory_bytes", "Memory of the host.", mib(host.memory_mib))
    gauge(
        "ai_how_host_memory_available_bytes",
        "What the host could give without swapping.",
        mib(host.memory_available_mib),
    )
    gauge("ai_how_host_swap_bytes", "Swap of the host.", mib(host.swap_mib))
    gauge("ai_how_host_swap_used_bytes", "Of it in use.", mib(host.swap_used_mib))
    gauge("ai_how_host_ksm_saved_bytes", "What KSM saves.", mib(host.ksm_saved_mib))
    series.flag("ai_how_host_kvm", "Whether guests run under KVM.", host.is_kvm)
    _add_pressure(series, "ai_how_host", host.pressure)
    if host.storage:
        _add_file_system(series, "ai_how_storage", "with the disks of the VMs", host.storage)


def _add_node(series: Series, node: NodeSample, fresh: IsFresh) -> None:
    domain = {"domain": node.vm.domain} if node.vm else {}
    series.gauge(
        "ai_how_node_info", "Role and address of a node.", 1, role=node.role, ip=node.ip, **domain
    )
    if node.vm is not None and fresh("libvirt"):
        _add_vm(series, node.vm, has_disk=fresh("disks"))
    if node.guest is not None and fresh(f"guest/{node.name}"):
        _add_guest(series, node.guest)


def _add_vm(series: Series, vm: VmSample, *, has_disk: bool) -> None:
    gauge = series.gauge
    series.flag("ai_how_node_running", "Whether its VM runs.", vm.state in {"running", "blocked"})
    series.flag(
        "ai_how_node_agent_connected", "Whether its guest agent answers.", vm.is_agent_connected
    )
    gauge("ai_how_node_cpus", "vCPUs of the node.", vm.vcpus)
    gauge("ai_how_node_cpus_busy", "vCPUs that work, with QEMU's own work.", vm.cpus_busy)
    gauge(
        "ai_how_node_cpus_waiting",
        "vCPUs that wanted to run and waited for a CPU of the host: steal.",
        vm.cpus_waiting,
    )
    gauge(
        "ai_how_node_memory_bytes",
        "Memory of the node, as its kernel counts it.",
        mib(vm.guest_memory_mib),
    )
    gauge(
        "ai_how_node_memory_used_bytes",
        "What its kernel could not give to another process: without caches.",
        mib(vm.guest_memory_used_mib),
    )
    gauge(
        "ai_how_node_host_memory_bytes",
        "What its QEMU takes on the host (RSS).",
        mib(vm.qemu_memory_mib),
    )
    if has_disk:
        gauge("ai_how_node_disk_bytes", "Size of its disk.", vm.disk_capacity_bytes)
        gauge(
            "ai_how_node_disk_host_bytes",
            "What its disk takes on the host (qcow2).",
            vm.disk_used_bytes,
        )


def _add_guest(series: Series, guest: GuestSample) -> None:
    gauge = series.gauge
    gauge("ai_how_node_clock_skew_seconds", "Its clock ahead of the host's.", guest.skew_s)
    gauge("ai_how_node_uptime_seconds", "Since its boot.", guest.uptime_s)
    _add_load(series, "ai_how_node", guest.load)
    _add_pressure(series, "ai_how_node", guest.pressure)
    for one in guest.file_systems:
        _add_file_system(series.of(mountpoint=one.mount_point), "ai_how_node_filesystem", "", one)
    series.counter(
        "ai_how_node_oom_kills_total",
        "Processes that its kernel killed for want of memory, since its boot.",
        guest.oom_kills,
    )
    gauge("ai_how_node_failed_units", "Failed units of systemd.", len(guest.failed_units))
    for name, state in guest.services.items():
        series.flag(
            "ai_how_node_service_active",
            "Whether a service that the cluster needs is active.",
            state == "active",
            service=name,
        )
    series.flag("ai_how_node_home_up", "Whether the shared home answers.", guest.is_home_there)
    for gpu in guest.gpus:
        own = series.of(gpu=str(gpu.index), model=gpu.name)
        own.gauge("ai_how_gpu_busy_percent", "How busy it is.", gpu.busy_percent)
        own.gauge("ai_how_gpu_memory_bytes", "Its memory.", mib(gpu.memory_mib))
        own.gauge("ai_how_gpu_memory_used_bytes", "Of it in use.", mib(gpu.memory_used_mib))
        own.gauge("ai_how_gpu_temperature_celsius", "Its temperature.", gpu.temperature_c)
        own.gauge("ai_how_gpu_power_watts", "What it draws.", gpu.power_w)


def _add_load(series: Series, prefix: str, load: tuple[float, float, float] | None) -> None:
    for minutes, value in zip((1, 5, 15), load or (), strict=False):
        series.gauge(f"{prefix}_load{minutes}", f"Load average of {minutes} min.", value)


def _add_pressure(series: Series, prefix: str, pressure: Mapping[str, float]) -> None:
    for resource, value in pressure.items():
        series.gauge(
            f"{prefix}_pressure_percent",
            "PSI: share of the last 10 s in which some task waited for it.",
            value,
            resource=resource,
        )


def _add_file_system(series: Series, prefix: str, what: str, use: FileSystemUse) -> None:
    what = f"the file system {what}".rstrip()
    series.gauge(f"{prefix}_size_bytes", f"Size of {what}.", mib(use.size_mib))
    series.gauge(f"{prefix}_free_bytes", f"Free for ordinary users in {what}.", mib(use.free_mib))
