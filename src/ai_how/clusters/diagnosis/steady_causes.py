"""What is wrong with a node of a cluster on which no command works, from its evidence (pure).

During a start these signs mean nothing: its nodes are off, or still boot.
"""

import re
from collections.abc import Iterator

from ai_how.clusters.diagnosis.catalogue import MACHINE, NETWORK, MachineCause, NetworkCause
from ai_how.clusters.diagnosis.causes import describe_machine, find_machine_cause, last_line
from ai_how.clusters.diagnosis.kind import Cause, Rank, WorkloadEvidence, cause_of
from ai_how.clusters.diagnosis.node_evidence import AgentState, NodeEvidence
from ai_how.guest.serial_log import one_line
from ai_how.libvirt_client.vm_state import VmState

FULL_KIB = 32 * 1024
FULL_PERCENT = 98
SHORT_PERCENT = 4
"""Of its memory: a guest with less has no room for programs."""

_DISK = re.compile(r"^\S+ +(\d{1,15}) +(\d{1,15}) +(\d{1,15}) +(\d{1,3})% +(/\S*)$", re.MULTILINE)
_MEMORY = re.compile(r"^Mem: +(\d{1,9})(?: +\d{1,9}){4} +(\d{1,9})$", re.MULTILINE)
_UNIT = re.compile(r"^(?:\S )?([\w@.:\\-]{1,120}\.[a-z]+) ", re.MULTILINE)
_MOST_UNITS = 8


def find_causes(node: NodeEvidence, workload: WorkloadEvidence) -> Iterator[Cause]:
    """All that is wrong with one node; what may be the reason of another comes first."""
    found = list(_find_faults(node))
    yield from found
    if node.state is VmState.RUNNING:
        # Of a machine that is off, and that a start leaves off, its software has nothing to say.
        yield from workload.find_causes(node)


def _find_faults(node: NodeEvidence) -> Iterator[Cause]:
    yield from _disk(node)
    if node.agent is not AgentState.ANSWERS and (cause := find_machine_cause(node)):
        yield cause
        return
    match node.state:
        case VmState.ABSENT:
            yield _of(MachineCause.VM_UNDEFINED, node, "libvirt does not know its VM")
        case VmState.SHUT_OFF:
            yield _off(node)
        case VmState.PAUSED:
            yield _of(MachineCause.VM_PAUSED, node, f"its VM is paused ({node.reason})")
        case VmState.RUNNING:
            yield from _running(node)
        case _:
            return


def _of(cause: MachineCause, node: NodeEvidence, text: str, *evidence: str) -> Cause:
    lines = [*evidence, *describe_machine(node)]
    return cause_of(MACHINE, Rank.MACHINE, cause, node.name, f"{node.name}: {text}", lines)


def _disk(node: NodeEvidence) -> Iterator[Cause]:
    for problem in node.disk_problems:
        is_missing = problem == "disk missing"
        cause = MachineCause.DISK_MISSING if is_missing else MachineCause.DISK_BROKEN
        where = f"its disk: {node.disk}" if node.disk else problem
        yield _of(cause, node, "the file of its disk is gone" if is_missing else problem, where)
    for problem in node.share_problems:
        yield _of(MachineCause.SHARE_LOST, node, problem)


def _off(node: NodeEvidence) -> Cause:
    if node.is_left_off:
        return _of(MachineCause.NODE_LEFT_OFF, node, "its VM is off, as auto_start is false")
    saved = "; its memory is saved" if node.has_managed_save else ""
    return _of(MachineCause.NODE_OFF, node, f"its VM is off ({node.reason}){saved}")


def _running(node: NodeEvidence) -> Iterator[Cause]:
    if node.agent is AgentState.HANGS:
        text = "its guest agent does not answer: the guest hangs"
        yield _of(MachineCause.GUEST_HANGS, node, text)
    elif node.agent is AgentState.SILENT:
        said = last_line(node.console)
        last = f"last line on its serial console: {said}" if said else "its serial console is empty"
        text = f"its guest agent is not connected; {last}"
        yield _of(MachineCause.AGENT_SILENT, node, text)
    elif node.agent is AgentState.ANSWERS:
        yield from _inside(node)


def _inside(node: NodeEvidence) -> Iterator[Cause]:
    sections = node.sections
    for _size, _used, free, percent, place in _DISK.findall(sections.get("disks", "")):
        if place == "/" and (int(free) < FULL_KIB or int(percent) >= FULL_PERCENT):
            text = f"its root file system is full ({percent}%, {int(free) // 1024} MiB free)"
            line = f"{percent}% of / is used, {free} KiB are free (df)"
            yield _told(MachineCause.ROOT_FULL, node, text, line)
    for total, available in _MEMORY.findall(sections.get("memory", "")):
        if int(available) * 100 < SHORT_PERCENT * int(total):
            text = f"it has {available} MiB of its {total} MiB of memory left"
            yield _told(
                MachineCause.MEMORY_FULL, node, text, f"{available} MiB are available (free)"
            )
    if cause := _without_address(node):
        yield cause
    if failed := _UNIT.findall(sections.get("failed", ""))[:_MOST_UNITS]:
        names = one_line(", ".join(failed))
        text = f"systemd has failed units: {names}"
        yield _told(MachineCause.UNIT_FAILED, node, text, f"systemctl --failed: {names}")


def _told(cause: MachineCause, node: NodeEvidence, text: str, *evidence: str) -> Cause:
    """A cause that the guest itself tells: libvirt has nothing to add."""
    return cause_of(MACHINE, Rank.MACHINE, cause, node.name, f"{node.name}: {text}", evidence)


def _without_address(node: NodeEvidence) -> Cause | None:
    there = re.findall(r" inet (\d+\.\d+\.\d+\.\d+)/", node.sections.get("addresses", ""))
    if not there or node.ip is None or str(node.ip) in there:
        return None
    others = [one for one in there if not one.startswith("127.")]
    has = f"it has {', '.join(others[:4])}" if others else "it has none"
    text = f"{node.name}: it does not have its address {node.ip}: {has}"
    line = f"ip addr: {', '.join(there[:4])}"
    return cause_of(NETWORK, Rank.NETWORK, NetworkCause.ADDRESS_MISSING, node.name, text, [line])
