"""Renders slurm.conf, cgroup.conf and gres.conf (pure), in the terms of slurm.conf(5)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from ai_how.spec.models import PartitionSpec, SlurmConfigSpec

CONTROLLER_PORT = 6817


@dataclass(frozen=True, slots=True)
class SlurmNode:
    """A compute node in slurm.conf."""

    name: str
    address: IPv4Address
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory_mib: int
    is_left_off: bool = False
    gpus: Mapping[str, int] = field(default_factory=dict)
    """The number of its GPUs, or of their slices, by type; that of any type has no name."""
    autodetect: str | None = None
    """By what slurmd finds them, in the words of gres.conf; None if it is told."""

    @property
    def cpus(self) -> int:
        return self.sockets * self.cores_per_socket * self.threads_per_core

    @property
    def real_memory_mib(self) -> int:
        """The memory that slurmd will find at least (`slurmd -C`).

        SLURM drains a node that has less than its RealMemory. The kernel reserves 40 to 60 MiB and
        1.6 % (measured with 6.12); the margin is about twice that.
        """
        return self.memory_mib - 96 - self.memory_mib * 3 // 100


def render_slurm_conf(
    cluster: str,
    controller: IPv4Address,
    nodes: Sequence[SlurmNode],
    slurm: SlurmConfigSpec,
    *,
    has_pmix: bool = True,
) -> str:
    """The complete slurm.conf. Compute nodes fetch it from the controller (configless)."""
    settings = {
        "ClusterName": cluster,
        "SlurmctldHost": f"controller({controller})",
        "SlurmctldParameters": "enable_configless",
        "SlurmctldPort": str(CONTROLLER_PORT),
        "SlurmUser": "slurm",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "StateSaveLocation": "/var/spool/slurmctld",
        "SlurmdSpoolDir": "/var/spool/slurmd",
        "ProctrackType": "proctrack/cgroup",
        "TaskPlugin": "task/cgroup,task/affinity",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SchedulerType": "sched/backfill",
        # srun fails with a plugin that is not installed.
        "MpiDefault": "pmix" if has_pmix else "none",
        # A node returns to service when it registers, whatever the reason it was down.
        "ReturnToService": "2",
        # Emulated nodes answer in seconds, not milliseconds.
        "MessageTimeout": "60",
        "SlurmdTimeout": "120",
        "BatchStartTimeout": "60",
        "KillWait": "10",
    }
    if nodes:
        # Without it, a job that asks for no memory gets all memory of its nodes, and cores stay
        # idle.
        settings["DefMemPerCPU"] = str(min(one.real_memory_mib // one.cpus for one in nodes))
    if any(node.gpus for node in nodes):
        # Not AccountingStorageTRES=gres/gpu: without slurmdbd, slurmctld then refuses to start.
        settings["GresTypes"] = "gpu"
    lines = [f"{key}={value}" for key, value in settings.items()]
    if found := [f"{node.name}:{node.autodetect}" for node in nodes if node.autodetect]:
        # For slurmctld, which is told to read all its files again where this one differs.
        lines.append(f"# AutoDetect in gres.conf: {','.join(found)}")
    lines += [_node_line(node) for node in nodes]
    lines += [
        _partition_line(partition, slurm, is_default=partition.name == slurm.default_name)
        for partition in slurm.partitions
    ]
    return "\n".join(lines) + "\n"


def render_cgroup_conf(*, has_gpus: bool = False) -> str:
    """Jobs are limited to the cores, the memory and the GPUs that they were allocated."""
    return (
        "CgroupPlugin=cgroup/v2\n"
        # slurmd creates its scope itself: to ask systemd over D-Bus starts three programs.
        "IgnoreSystemd=yes\n"
        "ConstrainCores=yes\n"
        "ConstrainRAMSpace=yes\n" + ("ConstrainDevices=yes\n" if has_gpus else "")
    )


def render_gres_conf(nodes: Iterable[SlurmNode]) -> str:
    """gres.conf: which nodes find their GPUs themselves. The others do not, whatever they have."""
    lines = [
        f"NodeName={node.name} AutoDetect={node.autodetect}" for node in nodes if node.autodetect
    ]
    return "".join(f"{line}\n" for line in ("# Counts and types are in slurm.conf.", *lines))


def render_gres(counts: Mapping[str, int]) -> str:
    """The Gres= of a node."""
    return ",".join(
        f"gpu:{kind}:{count}" if kind else f"gpu:{count}" for kind, count in counts.items()
    )


def _node_line(node: SlurmNode) -> str:
    words = [
        f"NodeName={node.name}",
        f"NodeAddr={node.address}",
        f"CPUs={node.cpus}",
        f"Sockets={node.sockets}",
        f"CoresPerSocket={node.cores_per_socket}",
        f"ThreadsPerCore={node.threads_per_core}",
        f"RealMemory={node.real_memory_mib}",
    ]
    if node.gpus:
        words.append(f"Gres={render_gres(node.gpus)}")
    if node.is_left_off:
        return " ".join([*words, "State=DOWN", f'Reason="auto_start is off: start {node.name}"'])
    return " ".join([*words, "State=UNKNOWN"])


def _partition_line(partition: PartitionSpec, slurm: SlurmConfigSpec, *, is_default: bool) -> str:
    nodes = "ALL" if partition.has_all_nodes else ",".join(partition.nodes or ())
    words = [
        f"PartitionName={partition.name}",
        f"Nodes={nodes}",
        f"Default={'YES' if is_default else 'NO'}",
        f"MaxTime={partition.max_time or slurm.max_job_time or 'INFINITE'}",
        "State=UP",
    ]
    return " ".join(words)


def idle_partition(partitions: Iterable[PartitionSpec], node: str) -> str | None:
    """The first partition that contains the node, or None."""
    return next(
        (p.name for p in partitions if p.has_all_nodes or node in (p.nodes or ())),
        None,
    )
