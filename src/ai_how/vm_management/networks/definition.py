"""A cluster's libvirt network: its definition and its XML (pure)."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar
from uuid import UUID

from ai_how.errors import SpecError
from ai_how.libvirt_client.facts import Mark, Owner
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.state.models import ClusterState

# IFNAMSIZ is 16 with the final NUL.
LONGEST_LINK_NAME = 15


class ForwardMode(StrEnum):
    """libvirt's `<forward mode=…>`; `none` stands for no such element."""

    NAT = "nat"
    OPEN = "open"  # routed; libvirt adds no firewall rules
    ISOLATED = "none"


@dataclass(frozen=True, slots=True)
class NetworkDefinition:
    """A network whose DHCP and DNS entries are exactly the nodes of one cluster."""

    name: str
    uuid: UUID
    mark: Mark  # without a node
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    domain: str  # the DNS domain of the nodes; never forwarded to outside servers
    hosts: tuple[NetworkHost, ...]
    mode: ForwardMode = ForwardMode.NAT
    mtu: int | None = None

    template: ClassVar[str] = "network.xml.j2"

    def __post_init__(self) -> None:
        """Raises SpecError for a network that libvirt would accept, but that would not work."""
        if len(self.bridge) > LONGEST_LINK_NAME:
            raise SpecError(
                f"the bridge name {self.bridge} is longer than {LONGEST_LINK_NAME} characters"
            )
        addresses = [self.gateway, *(host.ip for host in self.hosts)]
        if outside := [str(ip) for ip in addresses if ip not in self.subnet]:
            raise SpecError(f"not in the subnet {self.subnet}: {', '.join(outside)}")
        for what, values in (
            ("address", addresses),
            ("MAC address", [host.mac for host in self.hosts]),
            ("name", [host.name for host in self.hosts]),
        ):
            if len(set(values)) < len(values):
                raise SpecError(f"two nodes of {self.mark.cluster} have the same {what}")


def define_network(state: ClusterState, owner: Owner | None = None) -> NetworkDefinition:
    """The definition of a cluster's network."""
    network = state.network
    return NetworkDefinition(
        name=network.name,
        uuid=network.uuid,
        mark=Mark(state.name, state.lineage, "", owner, state.marked_kind),
        bridge=network.bridge,
        subnet=network.subnet,
        gateway=network.gateway,
        domain=state.name,
        hosts=tuple(NetworkHost(node.mac, node.name, node.ip) for node in state.nodes),
        mode=ForwardMode.NAT if network.uplink else ForwardMode.ISOLATED,
    )


def render_network(definition: NetworkDefinition) -> str:
    """The XML of a network. Raises SpecError for a value that XML does not allow."""
    # Imported here: commands that only compare networks start faster without Jinja.
    from ai_how.vm_management.xml.render import render_definition  # noqa: PLC0415

    return render_definition(definition)
