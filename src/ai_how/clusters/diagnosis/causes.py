"""Why a start failed, from what its nodes left behind (pure): certain signs alone, no guesses.

What a guest wrote is data: it is matched, cut to one line, and freed of control characters.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ai_how.clusters.workload import NodeReadiness
from ai_how.guest.serial_log import _deadlocked, _in_emergency, _panicked, _without_root, one_line
from ai_how.libvirt_client.vm_state import VmState
from ai_how.vm_management.nodes.clocks import describe_skew

ACCEPTED = "accepted"
"""What a node's look at munge ends with where it took the controller's credential."""
MUNGE_FORGIVES_S = 150.0
"""Clocks that are further off make munge refuse: two of them may be off in opposite directions."""
FULL_BYTES = 16 * 2**20
"""With less than this free, a disk is full: QEMU writes clusters of 64 KiB, and their tables."""

# Of a job that goes over its own limit the kernel says "Memory cgroup out of memory".
_OUT_OF_MEMORY = re.compile(r"Out of memory: Killed process \d+ \(([^)\n]+)\)")
_SERVICE_ERROR = re.compile(r"(?:slurmd|slurmctld)(?:\[\d+\])?: (?:\w+: )?((?:error|fatal): .+)")
_MUNGE_REFUSES = re.compile(r"(Invalid|Expired|Rewound) credential")
_JOB = re.compile(r"^\s*\d+\s+(\S+)\s+\S+\s+(waiting|running)\s*$", re.MULTILINE)
_QEMU_SAID = re.compile(r"^(?:\S*qemu-system-\S*: .+|.*Assertion .+ failed.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvidence:
    """What is known of one node after a failure; None is what could not be had."""

    name: str
    domain: str
    is_controller: bool = False
    state: VmState = VmState.UNKNOWN
    reason: str = ""
    console: str | None = None
    """Only what was written since this run began."""
    qemu_log: str | None = None
    is_qemu_log_roots: bool = False
    """Whether its log is there, and only root may read it."""
    qemu_signal: int | None = None
    """The signal that ended its QEMU, where the embedded host saw that."""
    disk_directory: Path | None = None
    free_bytes: int | None = None
    skew_s: float | None = None
    """By how much its clock is ahead of the host's; negative where it is behind."""
    munge: str | None = None
    """What the node's munge made of a credential of the controller's."""
    jobs: str | None = None
    """What its systemd still has to start."""
    journal: str | None = None
    slurm: NodeReadiness | None = None
    slurm_trouble: str | None = None
    """Why SLURM could not be asked; of the controller."""


class Rank(IntEnum):
    """What comes first: a node without memory does not register, and not the other way round."""

    MACHINE = 0
    CLOCK = 1
    MUNGE = 2
    SLURMCTLD = 3
    SLURMD = 4


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one node."""

    rank: Rank
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that came first: the step that it is of, and its details."""

    step: str
    details: str

    @property
    def kind(self) -> str:
        return self.step.partition("/")[0]

    def is_of(self, node: NodeEvidence) -> bool:
        return self.step.partition("/")[2] == node.domain


def find_cause(node: NodeEvidence) -> Cause | None:
    """What is wrong with a node, where something that was seen says so."""
    for rank, look in _LOOKS:
        if text := look(node):
            return Cause(rank, text)
    return None


def find_first_cause(failure: Failure, nodes: Sequence[NodeEvidence]) -> str | None:
    """One line for the whole failure; None where its own error says all that is known."""
    own = next((node for node in nodes if failure.is_of(node)), None)
    if own is not None:
        return _cause_of_step(failure, own)
    if failure.kind not in {"ready", "clocks"}:
        return None
    causes = [cause for node in nodes if (cause := find_cause(node))]
    if failure.kind == "clocks":
        causes = [cause for cause in causes if cause.rank is Rank.MACHINE]
    return min(causes, key=lambda cause: cause.rank).text if causes else None


def _cause_of_step(failure: Failure, node: NodeEvidence) -> str | None:
    if failure.kind not in {"boot", "restore", "resume", "agent", "clock", "services"}:
        return None
    if (cause := find_cause(node)) and cause.rank is Rank.MACHINE:
        return cause.text
    if failure.kind == "agent" and node.state is VmState.RUNNING:
        said = _last_line(node.console)
        last = f"last line on its serial console: {said}" if said else "its serial console is empty"
        return f"the guest agent of {node.name} never came: {last}"
    if failure.kind == "services" and (said := _last_line(failure.details)):
        return f"{node.name} did not start its services: {said}"
    return None


def _machine(look: Callable[[str], str | None]) -> Callable[[NodeEvidence], str | None]:
    def find(node: NodeEvidence) -> str | None:
        found = look(node.console) if node.console else None
        return f"{node.name}: {found}" if found else None

    return find


def _out_of_memory(console: str) -> str | None:
    killed = list(dict.fromkeys(_OUT_OF_MEMORY.findall(console)))
    if not killed:
        return None
    return f"it ran out of memory: {one_line(', '.join(killed))} was killed"


def _stuck_on_disk(node: NodeEvidence) -> str | None:
    if node.state is not VmState.PAUSED or node.reason != "I/O error":
        return None
    where, free = node.disk_directory, node.free_bytes
    if where is None or free is None or free > FULL_BYTES:
        return f"{node.name}: the guest is paused on an I/O error of its disk"
    return (
        f"{node.name}: the guest is paused on an I/O error: the disk of the host is full "
        f"({where}, {free} bytes free)"
    )


def _without_qemu(node: NodeEvidence) -> str | None:
    if node.state is VmState.CRASHED:
        return f"{node.name}: the guest crashed ({node.reason})"
    if node.state is not VmState.SHUT_OFF or node.reason != "crashed":
        return None
    if node.qemu_signal is not None:
        return f"{node.name}: QEMU was killed (signal {node.qemu_signal})"
    if node.console is None:
        return f"{node.name}: the guest panicked, or its QEMU was killed"
    said = _QEMU_SAID.findall(node.qemu_log or "")
    silent = "may be read by root alone" if node.is_qemu_log_roots else "does not say why"
    why = one_line(said[-1]) if said else f"its log {silent}"
    return f"{node.name}: QEMU was killed or crashed; {why}"


def _off_in_time(node: NodeEvidence) -> str | None:
    if node.skew_s is None or abs(node.skew_s) < MUNGE_FORGIVES_S:
        return None
    return f"the clock of {node.name} is {describe_skew(node.skew_s)}: munge refuses what it signs"


def _refused_by_munge(node: NodeEvidence) -> str | None:
    said = _last_line(node.munge)
    if not said or said == ACCEPTED:
        return None
    if _MUNGE_REFUSES.search(said) and not node.is_controller:
        whose = "the controller's credentials (other key or clock)"
        return f"munge on {node.name} refuses {whose}: {said}"
    return f"munge on {node.name} does not work: {said}"


def _without_slurmctld(node: NodeEvidence) -> str | None:
    if not node.slurm_trouble:
        return None
    why = _service_error(node.journal) or one_line(node.slurm_trouble)
    return f"slurmctld on {node.name} does not answer: {why}"


def _not_registered(node: NodeEvidence) -> str | None:
    seen = node.slurm
    if seen is None or seen.is_working:
        return None
    if seen.reason and not seen.state.endswith("*") and seen.state != "unknown":
        return f"SLURM has {node.name} as {seen.state}: {one_line(seen.reason)}"
    why = _service_error(node.journal) or _waits(node.jobs)
    why = why or f"SLURM has it as {seen.state}{f', {seen.reason}' if seen.reason else ''}"
    return f"slurmd on {node.name} did not register: {why}"


def _waits(jobs: str | None) -> str | None:
    """That slurmd is not started yet, and what is being started in its place."""
    states = dict(_JOB.findall(jobs or ""))
    if (own := states.pop("slurmd.service", None)) is None:
        return None
    running = [unit for unit, state in states.items() if state == "running"]
    if own == "running":
        return "slurmd.service still waits for the controller's port"
    return f"slurmd.service waits for {one_line(', '.join(running))}" if running else None


def _service_error(journal: str | None) -> str | None:
    """The last error of SLURM's own; that it will try again is no reason."""
    errors = [one for one in _SERVICE_ERROR.findall(journal or "") if "Retrying in" not in one]
    return one_line(errors[-1]) if errors else None


def _last_line(text: str | None) -> str:
    lines: Iterable[str] = map(one_line, reversed((text or "").splitlines()))
    return next((line for line in lines if line), "")


_LOOKS: tuple[tuple[Rank, Callable[[NodeEvidence], str | None]], ...] = (
    (Rank.MACHINE, _machine(_deadlocked)),
    (Rank.MACHINE, _machine(_out_of_memory)),
    (Rank.MACHINE, _machine(_panicked)),
    (Rank.MACHINE, _machine(_without_root)),
    (Rank.MACHINE, _machine(_in_emergency)),
    (Rank.MACHINE, _stuck_on_disk),
    (Rank.MACHINE, _without_qemu),
    (Rank.CLOCK, _off_in_time),
    (Rank.MUNGE, _refused_by_munge),
    (Rank.SLURMCTLD, _without_slurmctld),
    (Rank.SLURMD, _not_registered),
)
