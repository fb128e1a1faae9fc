"""What is wrong with the host of a cluster, and with its network, from their evidence (pure)."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ai_how.clusters.diagnosis.catalogue import HOST, NETWORK, HostCause, NetworkCause
from ai_how.clusters.diagnosis.host_evidence import HostEvidence
from ai_how.clusters.diagnosis.kind import Cause, Rank, cause_of
from ai_how.clusters.observation import Observed
from ai_how.host.uplink import uplink_remedy
from ai_how.libvirt_client.vm_state import VmState
from ai_how.state.models import ClusterState, NodeState
from ai_how.vm_management.networks.definition import define_network
from ai_how.vm_management.networks.drift import find_drift

MIB = 2**20
FULL_BYTES = 64 * MIB
"""Less is gone with the next log of some guests."""
SHORT_MIB = 192

THE_HOST, THE_NETWORK, THE_CLUSTER = "host", "network", "cluster"


def find_host_causes(state: ClusterState, seen: HostEvidence) -> Iterator[Cause]:
    """All that is wrong with the host, or with the cluster as a whole."""
    yield from _runs(seen)
    if not seen.is_up:
        yield _host(HostCause.HOST_DOWN, THE_HOST, "the embedded host is down")
        return
    if seen.libvirt_trouble:
        remedy = "ai-how host up" if seen.is_embedded else "sudo systemctl restart libvirtd"
        text = f"libvirt cannot be asked: {seen.libvirt_trouble}"
        lines = [f"libvirt: {seen.libvirt_trouble}"]
        yield _host(HostCause.LIBVIRT_SILENT, THE_HOST, text, lines, remedy=remedy)
    yield from _room(seen)
    if seen.observed and (cause := _all_off(state, seen.observed)):
        yield cause


def _host(
    cause: HostCause,
    subject: str,
    text: str,
    evidence: Sequence[str] = (),
    *,
    remedy: str | None = None,
    **words: str,
) -> Cause:
    found = cause_of(HOST, Rank.HOST, cause, subject, text, evidence, **words)
    return found if remedy is None else replace(found, remedy=remedy)


def _runs(seen: HostEvidence) -> Iterator[Cause]:
    if holder := seen.holder:
        text = f"{holder.doing} is under way in process {holder.pid}, since {holder.since}"
        yield _host(HostCause.RUN_UNDER_WAY, THE_CLUSTER, text, pid=str(holder.pid))
    elif seen.has_journal:
        text = "a command was cut short: its journal is still there"
        yield _host(HostCause.RUN_CUT_SHORT, THE_CLUSTER, text)


def _room(seen: HostEvidence) -> Iterator[Cause]:
    where, free = seen.disk_directory, seen.disk_free_bytes
    if where is not None and free is not None and free < FULL_BYTES:
        text = f"the disk of the host is full ({where}, {free // MIB} MiB free)"
        line = f"statvfs: {free} bytes are free in {where}"
        path = shlex.quote(str(where))
        yield _host(HostCause.HOST_DISK_FULL, THE_HOST, text, [line], path=path)
    if seen.memory is not None and seen.memory.usable_mib < SHORT_MIB:
        memory = seen.memory
        text = f"the host has {memory.usable_mib} MiB of memory left"
        line = f"/proc/meminfo: {memory.available_mib} of {memory.total_mib} MiB available"
        yield _host(HostCause.HOST_MEMORY_SHORT, THE_HOST, text, [line])


def _all_off(state: ClusterState, seen: Observed) -> Cause | None:
    """The cluster is off as a whole, and nobody killed it."""
    wanted = [one for one in state.nodes if one.auto_start]
    if not wanted or not all(_is_off(one, seen) for one in wanted):
        return None
    lines = [f"libvirt: all {len(wanted)} VMs are off"]
    if all(seen.has_managed_save(one) for one in wanted):
        text = f"{state.name} is suspended: its nodes are off, and their memory is saved"
        return _host(HostCause.CLUSTER_SUSPENDED, THE_CLUSTER, text, lines)
    return _host(HostCause.CLUSTER_OFF, THE_CLUSTER, f"{state.name} is off: all its nodes", lines)


def _is_off(node: NodeState, seen: Observed) -> bool:
    domain = seen.find_domain(node.uuid)
    is_off = domain is not None and domain.state is VmState.SHUT_OFF
    return is_off and domain is not None and domain.reason_text != "crashed"


def find_network_causes(state: ClusterState, seen: Observed) -> Iterator[Cause]:
    """All that is wrong with the network, and with the interfaces of running nodes."""
    if not any(seen.is_on(one) for one in state.nodes):
        return
    network, faults, name = seen.network, seen.known_faults, state.network.name
    if network is None:
        text = f"the network {name} does not exist, but VMs run"
        yield _network(NetworkCause.NETWORK_MISSING, text, f"libvirt: no network {name}")
        return
    if not network.is_active:
        text = f"the network {name} is down, but VMs run"
        yield _network(NetworkCause.NETWORK_DOWN, text, f"libvirt: {name} is inactive")
        return
    if faults.bridge_trouble:
        text = f"{faults.bridge_trouble}: nodes cannot reach each other"
        yield _network(NetworkCause.BRIDGE_GONE, text, f"ip link: {faults.bridge_trouble}")
    drift = find_drift(define_network(state), network)
    if faults.dhcp_is_gone and not (drift.live or faults.bridge_trouble):
        text = "the DHCP and DNS server of the network (dnsmasq) does not run"
        gateway = state.network.gateway
        yield _network(NetworkCause.DHCP_GONE, text, f"nobody answers DNS at {gateway}")
    if drift.messages:
        text = f"the network {name} differs from what it should be"
        yield _network(NetworkCause.NETWORK_DIFFERS, text, *drift.messages)
    yield from _uplink(seen)
    if not faults.bridge_trouble:
        yield from _interfaces(state, seen)


def _network(cause: NetworkCause, text: str, *evidence: str) -> Cause:
    return cause_of(NETWORK, Rank.NETWORK, cause, THE_NETWORK, text, evidence)


def _uplink(seen: Observed) -> Iterator[Cause]:
    faults = seen.known_faults
    if trouble := faults.outside_trouble:
        cause = _network(NetworkCause.UPLINK_GONE, f"nodes have no uplink: {trouble}", trouble)
        remedy = uplink_remedy(trouble)
        yield replace(cause, remedy=remedy) if remedy else cause
    elif trouble := faults.uplink_trouble:
        cause = _network(NetworkCause.UPLINK_GONE, f"nodes have no uplink: {trouble}", trouble)
        remedy = "ai-how {kind} start" if faults.uplink_is_ours else None
        yield replace(cause, remedy=remedy) if remedy else cause


def _interfaces(state: ClusterState, seen: Observed) -> Iterator[Cause]:
    faults = seen.known_faults
    for node in state.nodes:
        name = node.name
        if tap := faults.dead_taps.get(name):
            cause, what = NetworkCause.INTERFACE_GONE, f"its network interface {tap} was deleted"
        elif name in faults.unplugged:
            cause, what = NetworkCause.INTERFACE_UNPLUGGED, "it is not on the network's bridge"
        elif tap := faults.down_taps.get(name):
            cause, what = NetworkCause.INTERFACE_DOWN, f"its network interface {tap} is down"
        else:
            continue
        line = f"ip link: {what}"
        yield cause_of(NETWORK, Rank.NETWORK, cause, name, f"{name}: {what}", [line])
