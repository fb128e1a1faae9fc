"""The facts in a network's XML."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import TypeVar
from xml.etree import ElementTree as ET

from ai_how.errors import HostError
from ai_how.libvirt_client.facts import NetworkInfo
from ai_how.libvirt_client.xml import read_xml


@dataclass(frozen=True, slots=True)
class NetworkHost:
    """A node's fixed name, MAC address and IP address in the network."""

    mac: str
    name: str
    ip: IPv4Address


@dataclass(frozen=True, slots=True)
class DhcpEntry:
    """A fixed lease; libvirt also accepts ones with fewer than all three."""

    mac: str
    name: str
    ip: str

    @property
    def claims(self) -> frozenset[tuple[str, str]]:
        """The values that no other entry of the network may have."""
        every = (("mac", self.mac), ("name", self.name), ("ip", self.ip))
        return frozenset(claim for claim in every if claim[1])


@dataclass(frozen=True, slots=True)
class DnsEntry:
    """A name in the network's DNS."""

    ip: str
    name: str

    @property
    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset((("ip", self.ip), ("name", self.name)))


Entry = TypeVar("Entry", DhcpEntry, DnsEntry)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The parts of a network that we set."""

    bridge: str
    mode: str
    address: str
    domain: str
    ranges: frozenset[str]
    dhcp: frozenset[DhcpEntry]
    dns: frozenset[DnsEntry]


@dataclass(frozen=True, slots=True)
class HostChanges:
    """Entries to remove from a network and to add to it."""

    dhcp_out: tuple[DhcpEntry, ...]
    dhcp_in: tuple[DhcpEntry, ...]
    dns_out: tuple[DnsEntry, ...]
    dns_in: tuple[DnsEntry, ...]

    def __bool__(self) -> bool:
        return bool(self.dhcp_out or self.dhcp_in or self.dns_out or self.dns_in)


def read_network_facts(xml: str) -> NetworkFacts:
    """The facts in a network's XML. Raises HostError for invalid XML."""
    root = read_xml(xml)
    address = root.find("./ip")
    found = {} if address is None else address.attrib
    size = found.get("prefix") or found.get("netmask") or "32"
    return NetworkFacts(
        bridge=_attribute(root, "./bridge", "name"),
        mode=_attribute(root, "./forward", "mode") or ("none" if _no(root, "./forward") else "nat"),
        address=_interface(f"{found.get('address')}/{size}"),
        domain=_attribute(root, "./domain", "name"),
        ranges=frozenset(
            f"{one.get('start')}-{one.get('end')}" for one in root.iterfind("./ip/dhcp/range")
        ),
        dhcp=frozenset(
            DhcpEntry(one.get("mac", "").lower(), one.get("name", ""), one.get("ip", ""))
            for one in root.iterfind("./ip/dhcp/host")
        ),
        dns=frozenset(
            DnsEntry(one.get("ip", ""), name.text or "")
            for one in root.iterfind("./dns/host")
            for name in one.iterfind("./hostname")
        ),
    )


def dhcp_entries(hosts: Collection[NetworkHost]) -> tuple[DhcpEntry, ...]:
    return tuple(DhcpEntry(one.mac.lower(), one.name, str(one.ip)) for one in hosts)


def dns_entries(hosts: Collection[NetworkHost]) -> tuple[DnsEntry, ...]:
    return tuple(DnsEntry(str(one.ip), one.name) for one in hosts)


def find_host_changes(hosts: Collection[NetworkHost], facts: NetworkFacts) -> HostChanges:
    """The changes that add these hosts to a network; its other entries are not changed."""
    dhcp, dns = dhcp_entries(hosts), dns_entries(hosts)
    return HostChanges(
        dhcp_out=_in_the_way(facts.dhcp, dhcp),
        dhcp_in=tuple(one for one in dhcp if one not in facts.dhcp),
        dns_out=_in_the_way(facts.dns, dns),
        dns_in=tuple(one for one in dns if one not in facts.dns),
    )


def find_host_removals(hosts: Collection[NetworkHost], facts: NetworkFacts) -> HostChanges:
    """The changes that remove exactly these hosts from a network."""
    return HostChanges(
        dhcp_out=tuple(one for one in dhcp_entries(hosts) if one in facts.dhcp),
        dhcp_in=(),
        dns_out=tuple(one for one in dns_entries(hosts) if one in facts.dns),
        dns_in=(),
    )


def uses_network(domain_xml: str, network: NetworkInfo | None) -> bool:
    """Whether a VM has an interface on that network, by its name or by its bridge."""
    return network is not None and any(_interfaces_on(domain_xml, network))


def find_taps(domain_xml: str, network: NetworkInfo) -> tuple[str, ...]:
    """The host-side devices of a running VM's interfaces on that network."""
    targets = [one.find("./target") for one in _interfaces_on(domain_xml, network)]
    names = [one.get("dev") for one in targets if one is not None]
    return tuple(name for name in names if name)


def _interfaces_on(domain_xml: str, network: NetworkInfo) -> list[ET.Element]:
    try:
        interfaces = read_xml(domain_xml).findall("./devices/interface")
    except HostError:
        return []  # broken XML of another user does not matter
    return [
        one
        for one in interfaces
        if (source := one.find("./source")) is not None
        and (
            source.get("network") == network.name
            or (network.bridge is not None and source.get("bridge") == network.bridge)
        )
    ]


def _in_the_way(there: Collection[Entry], ours: Collection[Entry]) -> tuple[Entry, ...]:
    """The foreign entries that claim our values."""
    own, claimed = frozenset(ours), _claims_of(ours)
    return tuple(one for one in there if one not in own and one.claims & claimed)


def _claims_of(entries: Collection[DhcpEntry | DnsEntry]) -> frozenset[tuple[str, str]]:
    return frozenset(claim for one in entries for claim in one.claims)


def _attribute(root: ET.Element, path: str, name: str) -> str:
    element = root.find(path)
    return "" if element is None else element.get(name, "")


def _no(root: ET.Element, path: str) -> bool:
    return root.find(path) is None


def _interface(text: str) -> str:
    try:
        return str(IPv4Interface(text))
    except ValueError:
        return text
