"""What is seen of one cluster at one moment, as plain values (pure).

Times are Unix seconds of this host. None is always "not known": the source was not asked, has not
answered, or there is no such thing. A figure is never 0 because it is not known. Text that a guest
wrote is one line without control characters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """One thing that is asked.

    `cluster` (its saved state), `host`, `libvirt`, `disks`, `slurm`, `guest/NODE`.
    """

    name: str
    every_s: float
    """How often it is asked."""
    at: float | None = None
    """Its last answer. What is seen of it is as old as this."""
    took_s: float | None = None
    """How long that answer took."""
    trouble: str | None = None
    """Why there is no newer answer; None while it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystemUse:
    """A file system, of the host or of a guest."""

    mount_point: str
    size_mib: int
    used_mib: int
    free_mib: int
    """For ordinary users: `size_mib - used_mib` without what is kept for root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """The host of the VMs."""

    cpus: int
    cpus_busy: float | None = None
    """Mean since the last sample, from 0 to `cpus`."""
    load: tuple[float, float, float] | None = None
    memory_mib: int
    memory_available_mib: int
    swap_mib: int = 0
    swap_used_mib: int = 0
    pressure: Mapping[str, float] = field(default_factory=dict)
    """PSI: percent of the last 10 s in which some task waited: `cpu`, `memory`, `io`."""
    ksm_saved_mib: int | None = None
    storage: FileSystemUse | None = None
    """The file system with the disks of the VMs."""
    is_kvm: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmCounters:
    """What libvirt counts since the VM was started; bytes, requests, packets, nanoseconds."""

    cpu_time_ns: int | None = None
    vcpu_wait_ns: int | None = None
    """The vCPUs wanted to run and the host did not let them, summed."""
    disk_read_bytes: int | None = None
    disk_read_requests: int | None = None
    disk_written_bytes: int | None = None
    disk_write_requests: int | None = None
    disk_errors: int | None = None
    net_received_bytes: int | None = None
    net_received_packets: int | None = None
    net_received_errors: int | None = None
    net_received_drops: int | None = None
    net_sent_bytes: int | None = None
    net_sent_packets: int | None = None
    net_sent_errors: int | None = None
    net_sent_drops: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSample:
    """A node as libvirt and the host's disks show it. Rates are means since the last sample."""

    uuid: str
    domain: str
    state: str
    """`libvirt_client.vm_state.VmState`."""
    reason: str = ""
    vcpus: int
    memory_mib: int
    """What the file gives it."""
    counters: VmCounters = VmCounters()
    cpus_busy: float | None = None
    """From 0 to `vcpus`, with QEMU's own work a little more."""
    cpus_waiting: float | None = None
    """vCPUs that waited for a processor of the host: steal."""
    qemu_memory_mib: int | None = None
    """What its QEMU has on the host (RSS)."""
    balloon_mib: int | None = None
    """What the balloon leaves the guest; less than `memory_mib` if it is inflated."""
    guest_memory_mib: int | None = None
    """The total of the guest's kernel."""
    guest_memory_used_mib: int | None = None
    """Without caches that the guest would release; None if the guest tells nothing new."""
    disk_capacity_bytes: int | None = None
    disk_used_bytes: int | None = None
    """What the qcow2 takes on the host."""
    disk_read_bytes_s: float | None = None
    disk_written_bytes_s: float | None = None
    net_received_bytes_s: float | None = None
    net_sent_bytes_s: float | None = None
    is_agent_connected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUse:
    """What one job has used on one node, from its cgroup there."""

    job: str
    """SLURM's own number, also of an array's task: `SLURM_JOB_ID`."""
    cpu_s: float | None = None
    memory_mib: int | None = None
    memory_peak_mib: int | None = None
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """A GPU in a guest, as its driver says."""

    index: int
    name: str
    busy_percent: float | None = None
    memory_mib: int | None = None
    memory_used_mib: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSample:
    """A node from inside, by its agent."""

    skew_s: float | None = None
    """Its clock against the host's: positive if it is ahead."""
    uptime_s: float | None = None
    load: tuple[float, float, float] | None = None
    file_systems: tuple[FileSystemUse, ...] = ()
    pressure: Mapping[str, float] = field(default_factory=dict)
    oom_kills: int | None = None
    """Processes that the kernel killed since the boot for want of memory, also those of jobs."""
    failed_units: tuple[str, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    """What systemd says of the services that the cluster needs: `munge` to `active`, `failed`."""
    is_home_there: bool | None = None
    """Whether the shared home answers; None if the node has none."""
    jobs: tuple[JobUse, ...] = ()
    gpus: tuple[GpuSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCount:
    """GPUs of one type, as SLURM counts them."""

    type: str
    count: int
    allotted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmNode:
    """A compute node as SLURM has it."""

    name: str
    states: tuple[str, ...]
    """SLURM's words, lower case, the base state first: `idle`, `drain`, `not_responding`."""
    reason: str | None = None
    reason_user: str | None = None
    reason_at: float | None = None
    cpus: int
    cpus_allotted: int
    load: float | None = None
    memory_mib: int
    memory_allotted_mib: int
    memory_free_mib: int | None = None
    gpus: tuple[GpuCount, ...] = ()
    partitions: tuple[str, ...] = ()
    booted_at: float | None = None

    @property
    def is_drained(self) -> bool:
        return "drain" in self.states

    @property
    def is_working(self) -> bool:
        """Whether it takes or runs jobs."""
        base = set(self.states[:1]) & {"idle", "mixed", "allocated"}
        return bool(base) and not {"drain", "not_responding", "fail", "maint"} & set(self.states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition of SLURM."""

    name: str
    state: str
    """`up`, `down`, `drain`, `inactive`."""
    is_default: bool = False
    nodes: tuple[str, ...] = ()
    max_time_s: float | None = None
    """None if jobs may run for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job of SLURM: waiting, running, or ended a while ago."""

    id: str
    """SLURM's own number (`SLURM_JOB_ID`)."""
    shown_id: str
    """As squeue shows it: `12_3` for the third task of the array 12."""
    name: str
    user: str
    account: str | None = None
    partition: str
    qos: str | None = None
    state: str
    """SLURM's word, lower case: `pending`, `running`, `completed`, `failed`, `timeout`, …"""
    flags: tuple[str, ...] = ()
    """SLURM's further words for its state, lower case: `completing`, `configuring`, …"""
    reason: str | None = None
    """Why it waits or failed, in SLURM's word: `Resources`, `Priority`, …"""
    priority: int | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    """For a waiting job, when SLURM expects to start it."""
    ended_at: float | None = None
    limit_s: float | None = None
    nodes: tuple[str, ...] = ()
    node_count: int | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    """Asked for, over all nodes."""
    gpus: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    dependency: str | None = None
    restarts: int | None = None
    command: str | None = None
    work_directory: str | None = None
    output: str | None = None
    cpu_used_s: float | None = None
    """CPU time, over all nodes; None if nothing was seen of its cgroup."""
    memory_peak_mib: int | None = None
    """The sum of the peaks on its nodes."""
    use_seen_at: float | None = None
    """When that was seen last, as a mean over its nodes; it may have used more since."""

    @property
    def is_waiting(self) -> bool:
        return self.state == "pending"

    @property
    def is_running(self) -> bool:
        return self.state in {"running", "completing", "suspended", "stopped", "signaling"}

    @property
    def has_ended(self) -> bool:
        return not (self.is_waiting or self.is_running or self.state == "configuring")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSample:
    """What slurmctld says."""

    version: str | None = None
    nodes: tuple[SlurmNode, ...] = ()
    partitions: tuple[Partition, ...] = ()
    jobs: tuple[Job, ...] = ()
    scheduler: Mapping[str, float] = field(default_factory=dict)
    """Figures of sdiag(1) by its own names in JSON: `server_thread_count`, `bf_cycle_last`, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSample:
    """A node of the cluster, from all sides. A side that is None has never answered."""

    name: str
    role: str
    ip: str
    auto_start: bool = True
    """Whether a start of the cluster brings it up."""
    vm: VmSample | None = None
    guest: GuestSample | None = None
    slurm: SlurmNode | None = None
    """None for the controller, too: it is no compute node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What only a look at the host shows to be wrong: network, bridge, ports, shares, disks, keys.

    As `status` says it. It has no figures, and becomes a `Finding` with the same id and subject.
    """

    id: str
    subject: str
    text: str
    """Without the subject."""
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong now. `id` is that of the causes of `why` and of failed starts."""

    id: str
    severity: str
    """`critical`: work is lost or cannot go on. `warning`: it will be. `notice`: good to know."""
    subject: str
    """A node, `host`, `network`, `slurm`, or a partition."""
    text: str
    """One line: what is wrong, with the subject."""
    since: float
    """When it was first seen, without a gap."""
    evidence: tuple[str, ...] = ()
    """What was seen, a line each."""
    remedy: str = ""
    """A command to paste, or one line of advice."""
    heals: bool = False
    """Whether `hpc check --heal` does what is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    at: float
    kind: str
    """`start`, `stop`, `suspend`, `resume`, `finding`, `finding-over`, `heal`, `gap`, `gap-over`,
    `collector`, `job-start`, `job-end`."""
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that is known of a cluster at one moment."""

    at: float
    cluster: str
    kind: str
    host_uri: str
    sources: tuple[SourceState, ...] = ()
    host: HostSample | None = None
    network: str = ""
    """Its subnet."""
    nodes: tuple[NodeSample, ...] = ()
    slurm: SlurmSample | None = None
    faults: tuple[Fault, ...] = ()
    """What was seen at the last look at the host: the source `faults`."""
    findings: tuple[Finding, ...] = ()
    is_up: bool = True
    """Whether the host of the VMs is up; False for an embedded host that is down."""
    doing: str | None = None
    """The verb with its group that works on the cluster now: it holds its lock."""

    def find_source(self, name: str) -> SourceState | None:
        return next((one for one in self.sources if one.name == name), None)

    def find_node(self, name: str) -> NodeSample | None:
        return next((one for one in self.nodes if one.name == name), None)
