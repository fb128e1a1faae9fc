"""How nodes reach the outside: as their host does, by its proxies and with its certificates."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from ai_how.clusters.kind import ClusterSection
from ai_how.guest.outside_files import OutsideFiles
from ai_how.host.place import HypervisorHost
from ai_how.outside_access import read_outside_access
from ai_how.state.models import ClusterState

# A variable with the name of each node would be longer than some programs read.
MOST_NAMES = 64


@dataclass(frozen=True, slots=True)
class Outside:
    """What nodes are given, and the ports of the host's loopback that they need for it."""

    files: OutsideFiles = field(default_factory=OutsideFiles)
    relays: frozenset[int] = frozenset()


def find_outside(section: ClusterSection, state: ClusterState, place: HypervisorHost) -> Outside:
    """What this host has, for nodes that are to reach the outside as it does."""
    if not (state.network.uplink and place.has_network):
        return Outside()
    names = [node.name for node in state.nodes[:MOST_NAMES]]
    own = [str(state.network.subnet), f".{state.name}", *names]
    return outside_by(state.network.gateway, section, place, own)


def outside_by(
    gateway: IPv4Address, section: ClusterSection, place: HypervisorHost, own: Iterable[str]
) -> Outside:
    """What this host has, for guests behind a gateway; `own` are names that need no proxy."""
    if section.access.proxy == "none":
        return Outside()
    access, relays = read_outside_access(), frozenset[int]()
    if place.has_private_network:
        relays = access.local_ports
        access = access.by_gateway(str(gateway))
    else:
        access = access.without_local()
    return Outside(OutsideFiles(access.environment(own), access.apt, access.certificates), relays)
