"""Finds what is wrong with nodes as machines, from their evidence (pure). Only certain signs count.

Text from a guest is untrusted: it is matched, cut to one line, and stripped of control characters.
"""

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence

from ai_how.clusters.diagnosis.catalogue import MACHINE, MachineCause
from ai_how.clusters.diagnosis.kind import Cause, Rank, WorkloadEvidence, cause_of
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.errors import AiHowError, StepFailure
from ai_how.guest.serial_log import (
    find_deadlock,
    find_emergency,
    find_lost_root,
    find_panic,
    one_line,
)
from ai_how.libvirt_client.vm_state import VmState

FULL_BYTES = 16 * 2**20
"""A disk with less free space is full: QEMU allocates clusters of 64 KiB and their tables."""

# For a job that exceeds its own limit, the kernel says "Memory cgroup out of memory".
_OUT_OF_MEMORY = re.compile(r"Out of memory: Killed process \d+ \(([^)\n]+)\)")
_QEMU_SAID = re.compile(r"^(?:\S*qemu-system-\S*: .+|.*Assertion .+ failed.*)$", re.MULTILINE)
_QEMU_ENDS = re.compile(r"^.*: shutting down, reason=\w+$", re.MULTILINE)


def find_cause(node: NodeEvidence, workload: WorkloadEvidence) -> Cause | None:
    """The cause on one node after a failed start, or None if no evidence shows one."""
    return find_machine_cause(node) or next(iter(workload.find_causes(node)), None)


def find_first_cause(
    failure: StepFailure,
    nodes: Sequence[NodeEvidence],
    workload: WorkloadEvidence,
    awaiting: Collection[str],
) -> Cause | None:
    """The cause of the whole failure, or None if the error itself says all that is known.

    `awaiting` are the kinds of steps that fail if the workload does not come up on some node.
    """
    own = next((node for node in nodes if node.name == failure.node), None)
    if own is not None:
        return _cause_of_step(failure, own)
    if failure.kind == "clocks":
        causes = [cause for node in nodes if (cause := find_machine_cause(node))]
    elif failure.kind in awaiting:
        causes = [cause for node in nodes if (cause := find_cause(node, workload))]
    else:
        return None
    return min(causes, key=lambda cause: cause.rank, default=None)


def find_machine_cause(node: NodeEvidence) -> Cause | None:
    """Why a machine does not come up, or has ended; None if no evidence shows it."""
    return _told_on_console(node) or _stuck_on_disk(node) or _without_qemu(node)


def last_line(text: str | None) -> str:
    """The last line of a guest's text that is not empty, safe to print."""
    lines: Iterable[str] = map(one_line, reversed((text or "").splitlines()))
    return next((line for line in lines if line), "")


def describe_machine(node: NodeEvidence) -> list[str]:
    """What libvirt, QEMU and the serial line last said of a node, a line each."""
    lines = [f"libvirt: {node.state}" + (f" ({node.reason})" if node.reason else "")]
    said = (_QEMU_SAID.findall(node.qemu_log or "") or _QEMU_ENDS.findall(node.qemu_log or ""))[-1:]
    lines += [f"QEMU's log: {one_line(line)}" for line in said]
    if line := last_line(node.console):
        lines.append(f"serial line: {line}")
    return lines


def _cause_of_step(failure: StepFailure, node: NodeEvidence) -> Cause | None:
    if failure.kind not in {"boot", "restore", "resume", "agent", "clock", "services"}:
        return None
    if cause := find_machine_cause(node):
        return cause
    if failure.kind == "agent" and node.state is VmState.RUNNING:
        said = last_line(node.console)
        last = f"last line on its serial console: {said}" if said else "its serial console is empty"
        text = f"the guest agent of {node.name} never connected: {last}"
        return _of_machine(MachineCause.AGENT_NEVER_CAME, node, text)
    details = failure.error.details if isinstance(failure.error, AiHowError) else None
    if failure.kind == "services" and (said := last_line(details)):
        text = f"{node.name} did not start its services: {said}"
        return _of_machine(MachineCause.SERVICES_NOT_STARTED, node, text)
    return None


def _of_machine(cause: MachineCause, node: NodeEvidence, text: str, **words: str) -> Cause:
    evidence = describe_machine(node)
    return cause_of(MACHINE, Rank.MACHINE, cause, node.name, text, evidence, **words)


def _told_on_console(node: NodeEvidence) -> Cause | None:
    for cause, look in _ON_CONSOLE:
        if node.console and (found := look(node.console)):
            return _of_machine(cause, node, f"{node.name}: {found}")
    return None


def _out_of_memory(console: str) -> str | None:
    killed = list(dict.fromkeys(_OUT_OF_MEMORY.findall(console)))
    if not killed:
        return None
    return f"it ran out of memory: {one_line(', '.join(killed))} was killed"


def _stuck_on_disk(node: NodeEvidence) -> Cause | None:
    if node.state is not VmState.PAUSED or node.reason != "I/O error":
        return None
    where, free = node.disk_directory, node.free_bytes
    if where is None or free is None or free > FULL_BYTES:
        text = f"{node.name}: the guest is paused on an I/O error of its disk"
        return _of_machine(MachineCause.DISK_IO_ERROR, node, text)
    text = (
        f"{node.name}: the guest is paused on an I/O error: the disk of the host is full "
        f"({where}, {free} bytes free)"
    )
    return _of_machine(MachineCause.DISK_FULL, node, text, path=shlex.quote(str(where)))


def _without_qemu(node: NodeEvidence) -> Cause | None:
    if node.state is VmState.CRASHED:
        text = f"{node.name}: the guest crashed ({node.reason})"
        return _of_machine(MachineCause.GUEST_CRASHED, node, text)
    if node.state is not VmState.SHUT_OFF or node.reason != "crashed":
        return None
    if node.qemu_signal is not None:
        text = f"{node.name}: QEMU was killed (signal {node.qemu_signal})"
        return _of_machine(MachineCause.QEMU_KILLED, node, text)
    if node.console is None:
        text = f"{node.name}: the guest panicked, or its QEMU was killed"
        return _of_machine(MachineCause.QEMU_ENDED, node, text)
    said = _QEMU_SAID.findall(node.qemu_log or "")
    roots = node.is_qemu_log_roots
    silent = "only root can read its log" if roots else "its log does not say why"
    why = one_line(said[-1]) if said else silent
    text = f"{node.name}: QEMU was killed or crashed; {why}"
    return _of_machine(MachineCause.QEMU_ENDED, node, text)


_ON_CONSOLE: tuple[tuple[MachineCause, Callable[[str], str | None]], ...] = (
    (MachineCause.OUT_OF_MEMORY, find_deadlock),
    (MachineCause.OUT_OF_MEMORY, _out_of_memory),
    (MachineCause.KERNEL_PANIC, find_panic),
    (MachineCause.NO_ROOT_DISK, find_lost_root),
    (MachineCause.EMERGENCY_MODE, find_emergency),
)
