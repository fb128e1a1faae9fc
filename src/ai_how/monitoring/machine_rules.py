"""Rules about the VMs, as libvirt and the host show them (pure). Each sees one kind of fault.

A guest that uses all that it has is busy, and not ill.
"""

from collections.abc import Iterator

from ai_how.clusters.diagnosis.catalogue import MachineCause
from ai_how.monitoring.judging import Look, Rule, Sign, is_off, size_text, time_text
from ai_how.monitoring.model import NodeSample, VmSample

NO_ROOM_MIB = 64
"""A guest that was paused with less free space on the host would be paused again at once."""
TRANSIENT = frozenset(
    {"saving", "dumping", "migrating", "starting up", "creating snapshot", "shutting down"}
)
"""Why libvirt itself pauses a VM for a moment."""
STEAL, STEAL_S = 0.5, 300.0
"""Of each vCPU's time, for so long."""
LESS_STEAL = 0.35
BALLOON = 0.9
ERRORS_S = 600.0
BOOT_S = 90.0
"""So long a guest that boots may be without its agent."""


def find_ended(look: Look) -> Iterator[Sign]:
    """VMs that crashed, or ended by no command; and those that libvirt does not know."""
    if is_off(look.now) or not look.is_fresh("libvirt"):
        return
    for node in look.now.nodes:
        vm = node.vm
        if vm is None:
            continue
        evidence = (f"libvirt: {vm.domain} is {_state(vm)}",)
        if vm.state == "crashed" or (vm.state == "paused" and vm.reason in {"crashed", "watchdog"}):
            text = f"{node.name}: the guest crashed ({vm.reason})"
            yield _of(MachineCause.GUEST_CRASHED, node, text, evidence)
        elif vm.state == "shut_off" and vm.reason in {"crashed", "failed", "daemon"}:
            text = f"{node.name}: its VM ended by itself ({vm.reason})"
            yield _of(MachineCause.QEMU_ENDED, node, text, evidence)
        elif vm.state == "absent":
            text = f"{node.name}: its VM is no longer defined"
            yield _of(MachineCause.VM_UNDEFINED, node, text, evidence)


def find_paused(look: Look) -> Iterator[Sign]:
    """VMs that QEMU or somebody paused."""
    if not look.is_fresh("libvirt"):
        return
    storage = look.now.host.storage if look.now.host else None
    for node in look.now.nodes:
        vm = node.vm
        if vm is None or vm.state not in {"paused", "suspended"} or vm.reason in TRANSIENT:
            continue
        evidence: tuple[str, ...] = (f"libvirt: {vm.domain} is {_state(vm)}",)
        if vm.reason == "I/O error" and storage is not None:
            free, where = size_text(storage.free_mib), storage.mount_point
            evidence += (f"{where} of the host has {free} free",)
        if vm.reason == "I/O error" and storage and storage.free_mib < NO_ROOM_MIB:
            text = f"{node.name}: paused on an I/O error: the disk of the host is full"
            words = {"path": storage.mount_point}
            yield _of(MachineCause.DISK_FULL, node, text, evidence, words=words)
        elif vm.reason == "I/O error":
            text = f"{node.name}: paused on an I/O error of its disk"
            remedy = f"ai-how {look.now.kind} check --heal  # it goes on from where it was"
            found = MachineCause.DISK_IO_ERROR
            yield _of(found, node, text, evidence, heals=True, remedy=remedy)
        elif vm.reason not in {"crashed", "watchdog"}:
            text = f"{node.name}: its VM is paused, by a person or a program"
            yield _of(MachineCause.VM_PAUSED, node, text, evidence)


def find_silent(look: Look) -> Iterator[Sign]:
    """Guests that run, and whose agent is not connected or does not answer."""
    for node in look.running():
        source = look.now.find_source(f"guest/{node.name}")
        vm = node.vm
        if vm is None or not vm.is_agent_connected:
            text = f"{node.name}: its guest agent is not connected"
            yield _of(MachineCause.AGENT_SILENT, node, text, ())
        elif source and source.trouble and not look.is_fresh(source.name):
            asked = "it has never answered"
            if source.at is not None:
                asked = f"its last answer is {time_text(look.now.at - source.at)} old"
            text = f"{node.name}: its guest agent does not answer"
            yield _of(MachineCause.GUEST_HANGS, node, text, (source.trouble, asked))


def find_steal(look: Look) -> Iterator[Sign]:
    """VMs whose vCPUs wait for a processor of the host, for minutes."""
    for node in look.running():
        vm = node.vm
        if vm is None or vm.cpus_waiting is None:
            continue
        share = vm.cpus_waiting / max(vm.vcpus, 1)
        was = look.was_found(MachineCause.STEAL, node.name)
        is_high = share >= (LESS_STEAL if was else STEAL)
        since_s = look.past.true_for_s((node.name, "steal"), look.now.at, is_true=is_high)
        if is_high and since_s >= STEAL_S:
            text = f"{node.name}: the host gives it too little CPU time"
            host = look.now.host
            load = f"load of the host: {host.load[0]:.1f}" if host and host.load else ""
            said = f"{100 * share:.0f} % of its vCPUs' time, for {time_text(since_s)}"
            evidence = (f"waiting for a processor: {said}", *([load] if load else []))
            yield _of(MachineCause.STEAL, node, text, evidence)


def find_balloon(look: Look) -> Iterator[Sign]:
    """VMs from which somebody took memory by the balloon."""
    for node in look.running():
        vm = node.vm
        if vm and vm.balloon_mib is not None and vm.balloon_mib < BALLOON * vm.memory_mib:
            left, given = size_text(vm.balloon_mib), size_text(vm.memory_mib)
            text = f"{node.name}: its balloon leaves it {left} of {given}"
            words = {"domain": vm.domain, "uri": look.now.host_uri, "mib": str(vm.memory_mib)}
            yield _of(MachineCause.BALLOON_SHORT, node, text, (), words=words)


def find_disk_errors(look: Look) -> Iterator[Sign]:
    """VMs whose disk has failed lately, as libvirt counts it."""
    for node in look.running():
        count = node.vm.counters.disk_errors if node.vm else None
        if count is None:
            continue
        key = (node.name, "disk-errors")
        if (look.past.last(key) or 0) > count:
            look.past.restart(key)
        look.past.note(key, look.now.at, count)
        if grown := look.past.growth(key, ERRORS_S):
            text = f"{node.name}: reads or writes of its disk fail on the host"
            evidence = (f"{grown:.0f} more errors, {count} since its VM was started",)
            yield _of(MachineCause.DISK_ERRORS, node, text, evidence)


def _state(vm: VmSample) -> str:
    state = vm.state.replace("_", " ")
    return f"{state} ({vm.reason})" if vm.reason else state


def _of(
    found: MachineCause,
    node: NodeSample,
    text: str,
    evidence: tuple[str, ...],
    *,
    words: dict[str, str] | None = None,
    heals: bool = False,
    remedy: str | None = None,
) -> Sign:
    return Sign(
        id=found,
        subject=node.name,
        text=text,
        evidence=evidence,
        words=words or {},
        heals=heals,
        remedy=remedy,
    )


RULES = (
    Rule(find=find_ended, reads="libvirt"),
    Rule(find=find_paused, reads="libvirt"),
    Rule(find=find_silent, reads="libvirt", after_s=BOOT_S),
    Rule(find=find_steal, reads="libvirt"),
    Rule(find=find_balloon, reads="libvirt", after_s=60.0),
    Rule(find=find_disk_errors, reads="libvirt"),
)
