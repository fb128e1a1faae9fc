"""What a look at the host shows to be wrong with a cluster, as `status` says it (pure)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ai_how.clusters.diagnosis.catalogue import MachineCause, NetworkCause
from ai_how.clusters.observation import Observed
from ai_how.host.uplink import uplink_remedy
from ai_how.state.models import ClusterState
from ai_how.vm_management.networks.definition import define_network
from ai_how.vm_management.networks.drift import find_drift


@dataclass(frozen=True, slots=True)
class HostFault:
    """A fault without its subject: `id` is that of a cause, `remedy` a command or empty."""

    id: str
    text: str
    remedy: str = ""
    lead: str = ""
    """What stands between the text and the remedy where both are in one line."""

    def __str__(self) -> str:
        return f"{self.text}{self.lead}{self.remedy}" if self.lead else self.text


def find_network_faults(state: ClusterState, seen: Observed) -> Iterator[HostFault]:
    """The faults of the cluster's network, the worst first."""
    network, is_in_use = seen.network, any(seen.is_on(one) for one in state.nodes)
    remedy = f"ai-how {state.kind} start"
    if network is None:
        if is_in_use:
            text = "it does not exist, but VMs are running"
            yield HostFault(NetworkCause.NETWORK_MISSING, text, remedy)
        return
    if not network.is_active and is_in_use:
        text = "it is down, but VMs are running"
        yield HostFault(NetworkCause.NETWORK_DOWN, text, remedy)
    drift, faults = find_drift(define_network(state), network), seen.known_faults
    for message in drift.messages:
        yield HostFault(NetworkCause.NETWORK_DIFFERS, message, remedy)
    if faults.bridge_trouble:
        text = f"{faults.bridge_trouble}: nodes cannot reach each other"
        yield HostFault(NetworkCause.BRIDGE_GONE, text, remedy, "; to repair it: ")
    elif faults.dhcp_is_gone and not drift.live:
        yield HostFault(NetworkCause.DHCP_GONE, "its DHCP and DNS server is not running", remedy)
    if faults.uplink_trouble and not drift.live:
        yield HostFault(NetworkCause.UPLINK_GONE, faults.uplink_trouble)
    if faults.outside_trouble:
        remedy = uplink_remedy(faults.outside_trouble) or "ai-how doctor"
        text = f"nodes have no uplink: {faults.outside_trouble}"
        yield HostFault(NetworkCause.UPLINK_GONE, text, remedy, "; for more: ")


def find_wiring_faults(node: str, seen: Observed, kind: str) -> Iterator[HostFault]:
    """The fault of the network interface of a node, if it has one."""
    faults = seen.known_faults
    remedy = f"ai-how {kind} stop {node} && ai-how {kind} start {node}"
    if tap := faults.dead_taps.get(node):
        text = f"its network interface {tap} was deleted"
        yield HostFault(NetworkCause.INTERFACE_GONE, text, remedy, "; to create a new one: ")
    elif node in faults.unplugged:
        yield HostFault(NetworkCause.INTERFACE_UNPLUGGED, "not on the network")
    elif tap := faults.down_taps.get(node):
        yield HostFault(NetworkCause.INTERFACE_DOWN, f"its network interface {tap} is down")


def find_share_faults(node: str, seen: Observed, kind: str) -> Iterator[HostFault]:
    """The shares that a node has lost."""
    for fault in seen.share_faults.get(node, ()):
        remedy = f"ai-how {kind} stop {node} && ai-how {kind} start {node}"
        lead = "; to mount it again: " if fault.is_there else ""
        yield HostFault(MachineCause.SHARE_LOST, str(fault), remedy, lead)


def of_disks(problems: Mapping[str, tuple[str, ...]], node: str) -> Iterator[HostFault]:
    """The faults of a node's disk and image."""
    for problem in problems.get(node, ()):
        is_gone = problem == DISK_MISSING
        yield HostFault(MachineCause.DISK_MISSING if is_gone else MachineCause.DISK_BROKEN, problem)


DISK_MISSING = "disk missing"
