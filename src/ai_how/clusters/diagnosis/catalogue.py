"""What can be wrong with a host, a network and a machine: ids, severities, meanings, remedies.

The ids of `why`, of failed starts and of health are the same. An id is never changed or reused.
docs/troubleshooting.md lists them all. What is SLURM's is in hpc/catalogue.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    CRITICAL = "critical"
    """Work is lost, or cannot go on."""
    WARNING = "warning"
    """It will be, if nothing is done."""
    NOTICE = "notice"
    """Good to know."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of fault. `meaning` is one line, without a full stop.

    `remedy` is a command to paste, with a remark after `#`, or one line of advice. It may have the
    words in braces that `fill` gets; `{kind}` is the group of the cluster's verbs.
    """

    severity: Severity
    meaning: str
    remedy: str


class _Words(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "{kind}" if name == "kind" else name.upper()


def fill(remedy: str, **words: str) -> str:
    """The remedy with these words; a word that is not given stays in capitals: `NODE`.

    `{kind}` stays if the kind of the cluster is not given: whoever shows the remedy knows it.

    The words are pasted into a shell: no text of a guest may be among them.
    """
    return remedy.format_map(_Words(words))


class HostCause(StrEnum):
    """The ids of what is wrong with the host of the VMs, or with the cluster as a whole."""

    HOST_DOWN = "host-down"
    LIBVIRT_SILENT = "libvirt-silent"
    HOST_DISK_FULL = "host-disk-full"
    HOST_MEMORY_SHORT = "host-memory-short"
    RUN_UNDER_WAY = "run-under-way"
    RUN_CUT_SHORT = "run-cut-short"
    CLUSTER_OFF = "cluster-off"
    CLUSTER_SUSPENDED = "cluster-suspended"
    HOST_DISK_FILLING = "host-disk-filling"
    HOST_DISK_PROMISED = "host-disk-promised"
    HOST_MEMORY_PRESSURE = "host-memory-pressure"
    SOURCE_SILENT = "source-silent"
    CERTIFICATE_ENDS = "certificate-ends"
    PORT_CLOSED = "port-closed"
    KEYS_LOST = "keys-lost"
    FOREIGN_VM = "foreign-vm"


class MachineCause(StrEnum):
    """The ids of what is wrong with a node as a machine."""

    OUT_OF_MEMORY = "out-of-memory"
    KERNEL_PANIC = "kernel-panic"
    NO_ROOT_DISK = "no-root-disk"
    EMERGENCY_MODE = "emergency-mode"
    DISK_FULL = "disk-full"
    DISK_IO_ERROR = "disk-io-error"
    GUEST_CRASHED = "guest-crashed"
    QEMU_KILLED = "qemu-killed"
    QEMU_ENDED = "qemu-ended"
    AGENT_NEVER_CAME = "agent-never-came"
    SERVICES_NOT_STARTED = "services-not-started"
    VM_UNDEFINED = "vm-undefined"
    DISK_MISSING = "disk-missing"
    DISK_BROKEN = "disk-broken"
    NODE_OFF = "node-off"
    NODE_LEFT_OFF = "node-left-off"
    VM_PAUSED = "vm-paused"
    GUEST_HANGS = "guest-hangs"
    AGENT_SILENT = "agent-silent"
    SHARE_LOST = "share-lost"
    ROOT_FULL = "root-full"
    HOME_FULL = "home-full"
    MEMORY_FULL = "memory-full"
    UNIT_FAILED = "unit-failed"
    FILE_SYSTEM_FULL = "file-system-full"
    FILE_SYSTEM_FILLING = "file-system-filling"
    DISK_ERRORS = "disk-errors"
    BALLOON_SHORT = "balloon-short"
    STEAL = "steal"


class NetworkCause(StrEnum):
    """The ids of what is wrong with the network of a cluster."""

    NETWORK_MISSING = "network-missing"
    NETWORK_DOWN = "network-down"
    NETWORK_DIFFERS = "network-differs"
    BRIDGE_GONE = "bridge-gone"
    DHCP_GONE = "dhcp-gone"
    UPLINK_GONE = "uplink-gone"
    INTERFACE_GONE = "interface-gone"
    INTERFACE_DOWN = "interface-down"
    INTERFACE_UNPLUGGED = "interface-unplugged"
    ADDRESS_MISSING = "address-missing"


_START = "ai-how {kind} start"
_START_NODE = "ai-how {kind} start {node}"
_AGAIN = "ai-how {kind} stop {node} && ai-how {kind} start {node}"
_SERIAL = "ai-how {kind} logs {node} --serial"
_IMAGE = "ai-how image verify  # then: ai-how {kind} logs {node} --serial"
_UNITS = "ai-how {kind} exec {node} -- systemctl --failed"

CRITICAL, WARNING, NOTICE = Severity.CRITICAL, Severity.WARNING, Severity.NOTICE

HOST: Mapping[str, Entry] = {
    HostCause.HOST_DOWN: Entry(CRITICAL, "the embedded host is down, and all VMs with it", _START),
    HostCause.LIBVIRT_SILENT: Entry(
        CRITICAL,
        "libvirt does not answer; guests may run on",
        "ai-how host up  # of the system's libvirt: sudo systemctl restart libvirtd",
    ),
    HostCause.HOST_DISK_FULL: Entry(
        CRITICAL,
        "the file system with the disks of the VMs has no room: guests pause at their next write",
        "df -h {path}  # make room, then: ai-how {kind} start",
    ),
    HostCause.HOST_MEMORY_SHORT: Entry(
        WARNING,
        "the host has hardly any memory left: its OOM killer may end a VM",
        "free -h  # stop what needs it, or: ai-how {kind} stop {node}",
    ),
    HostCause.RUN_UNDER_WAY: Entry(
        NOTICE,
        "another command works on the cluster",
        "ps -fp {pid}  # wait for it",
    ),
    HostCause.RUN_CUT_SHORT: Entry(
        WARNING,
        "a command was killed before it was done; the next one undoes or completes it",
        _START,
    ),
    HostCause.CLUSTER_OFF: Entry(CRITICAL, "all nodes are off", _START),
    HostCause.CLUSTER_SUSPENDED: Entry(
        CRITICAL, "all nodes are off, and their memory is saved", _START
    ),
    HostCause.HOST_DISK_FILLING: Entry(
        WARNING,
        "the file system with the disks of the VMs will be full soon",
        "df -h {path}  # make room before guests pause",
    ),
    HostCause.HOST_DISK_PROMISED: Entry(
        NOTICE,
        "the disks of the nodes may grow to more than the host has free",
        "df -h {path}  # or a smaller disk_gb",
    ),
    HostCause.HOST_MEMORY_PRESSURE: Entry(
        WARNING, "programs of the host wait for memory", "free -h  # stop what needs it"
    ),
    HostCause.SOURCE_SILENT: Entry(
        WARNING,
        "something that is looked at does not answer: nothing is known of it",
        "ai-how doctor",
    ),
    HostCause.CERTIFICATE_ENDS: Entry(
        WARNING,
        "a certificate authority of the host, which nodes were given, ends",
        "renew it on this host, then: ai-how {kind} start",
    ),
    HostCause.PORT_CLOSED: Entry(
        WARNING, "a port of the host that leads to a node is not open", _START
    ),
    HostCause.KEYS_LOST: Entry(WARNING, "keys of the cluster are gone from its directory", _START),
    HostCause.FOREIGN_VM: Entry(
        NOTICE,
        "a VM has the mark of the cluster, and is none of its nodes",
        "ai-how {kind} status",
    ),
}

MACHINE: Mapping[str, Entry] = {
    MachineCause.OUT_OF_MEMORY: Entry(
        CRITICAL, "the guest's memory is too small", "a larger memory_gb for {node}"
    ),
    MachineCause.KERNEL_PANIC: Entry(
        CRITICAL, "the guest's kernel gave up; at the boot, the image is broken", _IMAGE
    ),
    MachineCause.NO_ROOT_DISK: Entry(CRITICAL, "the image does not boot", _IMAGE),
    MachineCause.EMERGENCY_MODE: Entry(CRITICAL, "the guest's systemd gave up at the boot", _IMAGE),
    MachineCause.DISK_FULL: Entry(
        CRITICAL,
        "the guest is paused, as the disk of the host is full",
        "df -h {path}  # make room, then: ai-how {kind} start",
    ),
    MachineCause.DISK_IO_ERROR: Entry(
        CRITICAL,
        "the guest is paused: the disk of the host fails, or a file is gone",
        "sudo dmesg -T",
    ),
    MachineCause.GUEST_CRASHED: Entry(CRITICAL, "the guest's kernel ended", _SERIAL),
    MachineCause.QEMU_KILLED: Entry(
        CRITICAL,
        "the host's OOM killer, or a person, killed the VM",
        "sudo dmesg -T  # then: ai-how {kind} start",
    ),
    MachineCause.QEMU_ENDED: Entry(
        CRITICAL,
        "the VM ended by itself; QEMU's last words are the evidence",
        "sudo dmesg -T  # then: ai-how {kind} start",
    ),
    MachineCause.AGENT_NEVER_CAME: Entry(
        CRITICAL, "the host is overloaded, or the image has no agent", _SERIAL
    ),
    MachineCause.SERVICES_NOT_STARTED: Entry(
        CRITICAL,
        "a unit of the guest failed when it got its identity",
        "ai-how {kind} start --keep-on-failure  # then look at {node}",
    ),
    MachineCause.VM_UNDEFINED: Entry(
        CRITICAL, "libvirt does not know the VM: it was undefined", _START_NODE
    ),
    MachineCause.DISK_MISSING: Entry(
        CRITICAL, "the file of the node's disk is gone; a start makes an empty one", _AGAIN
    ),
    MachineCause.DISK_BROKEN: Entry(
        CRITICAL, "the node's disk, or the image under it, was changed", "ai-how image verify"
    ),
    MachineCause.NODE_OFF: Entry(CRITICAL, "the VM is off", _START_NODE),
    MachineCause.NODE_LEFT_OFF: Entry(
        NOTICE, "the VM is off, as the file says: auto_start is false", _START_NODE
    ),
    MachineCause.VM_PAUSED: Entry(
        CRITICAL, "the VM is paused, by a person or a program", _START_NODE
    ),
    MachineCause.GUEST_HANGS: Entry(
        CRITICAL,
        "the guest agent is connected, and does not answer: the guest hangs",
        "ai-how {kind} logs {node} --serial  # if it stays so: ai-how {kind} stop {node}",
    ),
    MachineCause.AGENT_SILENT: Entry(
        CRITICAL,
        "the guest agent is not connected: the guest still boots, or its agent ended",
        "ai-how {kind} console {node}  # its log: ai-how {kind} logs {node} --serial",
    ),
    MachineCause.SHARE_LOST: Entry(
        CRITICAL, "the server of a shared directory ended, or the directory is gone", _AGAIN
    ),
    MachineCause.ROOT_FULL: Entry(
        CRITICAL,
        "the root file system of the node has no room",
        "ai-how {kind} exec {node} -- du -xh -d 2 /  # or a larger disk_gb",
    ),
    MachineCause.HOME_FULL: Entry(
        CRITICAL,
        "the home directories have no room",
        "ai-how {kind} exec {node} -- du -xh -d 2 /home  # or a larger disk_gb",
    ),
    MachineCause.MEMORY_FULL: Entry(
        WARNING,
        "the guest has hardly any memory left",
        "ai-how {kind} exec {node} -- top -bn1 -o %MEM  # or a larger memory_gb",
    ),
    MachineCause.UNIT_FAILED: Entry(WARNING, "a unit of the guest's systemd failed", _UNITS),
    MachineCause.FILE_SYSTEM_FULL: Entry(
        CRITICAL, "a file system of the node has no room", "ai-how {kind} exec {node} -- df -h"
    ),
    MachineCause.FILE_SYSTEM_FILLING: Entry(
        WARNING,
        "a file system of the node will be full soon",
        "ai-how {kind} exec {node} -- df -h  # remove files, or a larger disk_gb",
    ),
    MachineCause.DISK_ERRORS: Entry(
        CRITICAL, "reads or writes of the node's disk fail on the host", "sudo dmesg -T"
    ),
    MachineCause.BALLOON_SHORT: Entry(
        WARNING,
        "somebody took memory from the VM by its balloon; SLURM counts on it",
        _AGAIN,
    ),
    MachineCause.STEAL: Entry(
        NOTICE,
        "the host lets the VM wait for a processor, for minutes",
        "stop what needs the CPUs of the host, or give nodes fewer cpu_cores",
    ),
}

NETWORK: Mapping[str, Entry] = {
    NetworkCause.NETWORK_MISSING: Entry(
        CRITICAL, "libvirt does not know the network, but VMs run", _START
    ),
    NetworkCause.NETWORK_DOWN: Entry(CRITICAL, "the network is down, but VMs run", _START),
    NetworkCause.NETWORK_DIFFERS: Entry(
        WARNING, "the network was changed by somebody else", _START
    ),
    NetworkCause.BRIDGE_GONE: Entry(
        CRITICAL, "the bridge is gone or down: nodes do not reach each other", _START
    ),
    NetworkCause.DHCP_GONE: Entry(
        WARNING, "the network's DHCP and DNS server (dnsmasq) does not run", _START
    ),
    NetworkCause.UPLINK_GONE: Entry(
        WARNING, "nodes do not reach the outside", "ai-how doctor  # then: ai-how host up"
    ),
    NetworkCause.INTERFACE_GONE: Entry(
        CRITICAL, "the network interface of a running VM was deleted on the host", _AGAIN
    ),
    NetworkCause.INTERFACE_DOWN: Entry(
        CRITICAL, "the network interface of a running VM is down on the host", _START
    ),
    NetworkCause.INTERFACE_UNPLUGGED: Entry(
        CRITICAL, "the network interface of a running VM is not on the bridge", _START
    ),
    NetworkCause.ADDRESS_MISSING: Entry(
        CRITICAL,
        "the node does not have its address inside",
        "ai-how {kind} exec {node} -- /usr/lib/ai-how/network",
    ),
}

CATALOGUE: Mapping[str, Entry] = {**HOST, **MACHINE, **NETWORK}
"""Of every kind of cluster."""
