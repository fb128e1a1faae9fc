"""Made-up snapshots of clusters of any size, for what shows clusters. Always the same."""

from random import Random

from ai_how.monitoring.model import (
    FileSystemUse,
    Finding,
    GuestSample,
    HostSample,
    Job,
    JobUse,
    NodeSample,
    Partition,
    SlurmNode,
    SlurmSample,
    Snapshot,
    SourceState,
    VmCounters,
    VmSample,
)

NOON = 1_800_000_000.0
"""When a made-up snapshot was taken, if nothing else is said."""
GIB = 1024


def make_snapshot(
    *, nodes: int = 2, jobs: int = 0, at: float = NOON, findings: tuple[Finding, ...] = ()
) -> Snapshot:
    """A controller and so many compute nodes, on which jobs run, wait and have ended."""
    names = [f"compute-{number:02}" for number in range(1, nodes + 1)]
    work = tuple(make_job(number, names, at) for number in range(1, jobs + 1))
    slurm = tuple(make_slurm_node(name, work) for name in names)
    return Snapshot(
        at=at,
        cluster="made-up",
        kind="hpc",
        host_uri="embedded",
        network="10.1.0.0/24",
        sources=(
            SourceState(name="host", every_s=5, at=at, took_s=0.001),
            SourceState(name="libvirt", every_s=5, at=at, took_s=0.01),
            SourceState(name="slurm", every_s=15, at=at - 4, took_s=0.8),
        ),
        host=HostSample(
            cpus=16,
            cpus_busy=6.5,
            load=(6.1, 5.0, 4.2),
            memory_mib=64 * GIB,
            memory_available_mib=31 * GIB,
            pressure={"cpu": 1.5, "memory": 0.0, "io": 0.4},
            storage=FileSystemUse(
                mount_point="/", size_mib=500 * GIB, used_mib=200 * GIB, free_mib=290 * GIB
            ),
            is_kvm=True,
        ),
        nodes=(
            make_node("controller", 10, None, work),
            *(make_node(one.name, 11 + place, one, work) for place, one in enumerate(slurm)),
        ),
        slurm=SlurmSample(
            version="24.11.5",
            nodes=slurm,
            partitions=(
                Partition(name="compute", state="up", is_default=True, nodes=tuple(names)),
                Partition(name="debug", state="up", nodes=tuple(names[:1]), max_time_s=3600),
            ),
            jobs=work,
            scheduler={"server_thread_count": 3, "bf_cycle_last": 900},
        ),
        findings=findings,
    )


def make_node(name: str, place: int, slurm: SlurmNode | None, work: tuple[Job, ...]) -> NodeSample:
    """A node that is up."""
    chance = Random(name)  # noqa: S311
    busy = slurm.cpus_allotted if slurm else 0
    return NodeSample(
        name=name,
        role="compute" if slurm else "controller",
        ip=f"10.1.{place // 250}.{place % 250 + 1}",
        vm=VmSample(
            uuid=f"00000000-0000-4000-8000-{place:012}",
            domain=f"made-up-{name}",
            state="running",
            reason="booted",
            vcpus=4,
            memory_mib=4 * GIB,
            counters=VmCounters(
                cpu_time_ns=int(3e12) + place,
                disk_read_bytes=10**9,
                disk_written_bytes=2 * 10**9,
                net_received_bytes=10**8,
                net_sent_bytes=10**7,
            ),
            cpus_busy=round(busy + chance.random() / 10, 3),
            cpus_waiting=round(chance.random() / 20, 3),
            qemu_memory_mib=1200 + chance.randrange(2000),
            balloon_mib=4 * GIB,
            guest_memory_mib=3900,
            guest_memory_used_mib=400 + chance.randrange(3000),
            disk_capacity_bytes=20 * 2**30,
            disk_used_bytes=2**30 + place,
            disk_read_bytes_s=float(chance.randrange(10**6)),
            disk_written_bytes_s=float(chance.randrange(10**6)),
            net_received_bytes_s=float(chance.randrange(10**6)),
            net_sent_bytes_s=float(chance.randrange(10**6)),
            is_agent_connected=True,
        ),
        guest=GuestSample(
            skew_s=0.01,
            uptime_s=3600.0 + place,
            load=(float(busy), 0.5, 0.2),
            file_systems=(
                FileSystemUse(mount_point="/", size_mib=20000, used_mib=2000, free_mib=17000),
            ),
            oom_kills=0,
            services={"munge": "active", "slurmd" if slurm else "slurmctld": "active"},
            is_home_there=True,
            jobs=tuple(
                JobUse(job=one.id, cpu_s=one.cpu_used_s, memory_peak_mib=one.memory_peak_mib)
                for one in work
                if one.is_running and name in one.nodes
            ),
        ),
        slurm=slurm,
    )


def make_slurm_node(name: str, work: tuple[Job, ...]) -> SlurmNode:
    """A compute node of four CPUs with those of the jobs that run on it."""
    used = sum(one.cpus or 0 for one in work if one.is_running and name in one.nodes)
    state = "idle" if not used else "allocated" if used >= 4 else "mixed"
    return SlurmNode(
        name=name,
        states=(state,),
        cpus=4,
        cpus_allotted=min(used, 4),
        load=float(used),
        memory_mib=3800,
        memory_allotted_mib=used * 500,
        memory_free_mib=3000,
        partitions=("compute",),
    )


def make_job(number: int, nodes: list[str], at: float) -> Job:
    """By turns: running, waiting, completed, failed."""
    state = ("running", "pending", "completed", "failed")[number % 4]
    has_begun = state != "pending"
    started_at = at - 60 * (number % 50 + 1)
    ended_at = {"completed": at - 10.0, "failed": at - 20.0}.get(state)
    return Job(
        id=str(number),
        shown_id=str(number),
        name=f"job-{number}",
        user=("alice", "bob", "carol")[number % 3],
        partition="compute",
        state=state,
        reason=None if has_begun else "Resources",
        priority=1000 - number,
        submitted_at=started_at - 30,
        started_at=started_at if has_begun else None,
        ended_at=ended_at,
        limit_s=3600,
        nodes=(nodes[number % len(nodes)],) if has_begun else (),
        node_count=1,
        cpus=1,
        memory_mib=500,
        exit_code={"completed": 0, "failed": 1}.get(state),
        cpu_used_s=30.0 * (number % 50) if has_begun else None,
        memory_peak_mib=100 + number % 400 if has_begun else None,
    )
