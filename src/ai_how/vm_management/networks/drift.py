"""How a network differs from the one that we asked for (pure).

Only what we asked for is compared: a host or an option that somebody added is theirs to keep, as
long as nothing of ours is changed by it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import TypeVar
from xml.etree import ElementTree as ET

from ai_how.errors import HostError
from ai_how.libvirt_client.facts import NetworkSeen
from ai_how.libvirt_client.xml import read_xml
from ai_how.vm_management.networks.definition import NetworkHost, NetworkShape


@dataclass(frozen=True, slots=True)
class DhcpEntry:
    """A fixed lease; libvirt takes ones with less than all three."""

    mac: str
    name: str
    ip: str

    @property
    def claims(self) -> frozenset[tuple[str, str]]:
        """What no other entry of the network may have."""
        every = (("mac", self.mac), ("name", self.name), ("ip", self.ip))
        return frozenset(claim for claim in every if claim[1])


@dataclass(frozen=True, slots=True)
class DnsEntry:
    """A name that the network's DNS knows."""

    ip: str
    name: str

    @property
    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset((("ip", self.ip), ("name", self.name)))


Entry = TypeVar("Entry", DhcpEntry, DnsEntry)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a network is made of, as far as we asked for it."""

    bridge: str
    mode: str
    address: str
    domain: str
    ranges: frozenset[str]
    dhcp: frozenset[DhcpEntry]
    dns: frozenset[DnsEntry]


@dataclass(frozen=True, slots=True)
class HostChanges:
    """Entries to take out of a network and to put into it."""

    dhcp_out: tuple[DhcpEntry, ...]
    dhcp_in: tuple[DhcpEntry, ...]
    dns_out: tuple[DnsEntry, ...]
    dns_in: tuple[DnsEntry, ...]

    def __bool__(self) -> bool:
        return bool(self.dhcp_out or self.dhcp_in or self.dns_out or self.dns_in)


@dataclass(frozen=True, slots=True)
class Drift:
    """How a network that is there differs: as it runs, and as it is defined."""

    live: tuple[str, ...]
    defined: tuple[str, ...]
    hosts: tuple[str, ...]
    """The nodes that its DHCP or DNS does not know as it should."""

    @property
    def told(self) -> tuple[str, ...]:
        """All of it in words."""
        shape = dict.fromkeys((*self.live, *self.defined))
        hosts = ", ".join(self.hosts)
        return *shape, *([f"DHCP and DNS do not know {hosts} as they should"] if hosts else [])


def read_network_facts(xml: str) -> NetworkFacts:
    """The facts of a network's XML. Raises HostError for what is not XML."""
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


def facts_of(shape: NetworkShape) -> NetworkFacts:
    """The facts of a network that we ask for."""
    return NetworkFacts(
        bridge=shape.bridge,
        mode=shape.mode,
        address=f"{shape.gateway}/{shape.subnet.prefixlen}",
        domain=shape.domain,
        ranges=frozenset(),
        dhcp=frozenset(dhcp_entries(shape.hosts)),
        dns=frozenset(dns_entries(shape.hosts)),
    )


def dhcp_entries(hosts: Collection[NetworkHost]) -> tuple[DhcpEntry, ...]:
    return tuple(DhcpEntry(one.mac.lower(), one.name, str(one.ip)) for one in hosts)


def dns_entries(hosts: Collection[NetworkHost]) -> tuple[DnsEntry, ...]:
    return tuple(DnsEntry(str(one.ip), one.name) for one in hosts)


def find_drift(shape: NetworkShape, seen: NetworkSeen) -> Drift:
    """How the network that is there differs from what was asked for."""
    wanted = facts_of(shape)
    live = read_network_facts(seen.xml)
    defined = read_network_facts(seen.defined_xml) if seen.defined_xml else live
    is_lost = seen.is_active and not seen.is_persistent
    changed = _changed_hosts(shape.hosts, live) | _changed_hosts(shape.hosts, defined)
    return Drift(
        live=tuple(_shape_differences(wanted, live)),
        defined=(
            *(["it is defined no more"] if is_lost else []),
            *_shape_differences(wanted, defined),
        ),
        hosts=tuple(one.name for one in shape.hosts if one.name in changed),
    )


def find_host_changes(hosts: Collection[NetworkHost], facts: NetworkFacts) -> HostChanges:
    """What makes a network know these hosts; what it knows besides them is left alone."""
    dhcp, dns = dhcp_entries(hosts), dns_entries(hosts)
    return HostChanges(
        dhcp_out=_in_the_way(facts.dhcp, dhcp),
        dhcp_in=tuple(one for one in dhcp if one not in facts.dhcp),
        dns_out=_in_the_way(facts.dns, dns),
        dns_in=tuple(one for one in dns if one not in facts.dns),
    )


def find_host_removals(hosts: Collection[NetworkHost], facts: NetworkFacts) -> HostChanges:
    """What makes a network forget these very hosts."""
    return HostChanges(
        dhcp_out=tuple(one for one in dhcp_entries(hosts) if one in facts.dhcp),
        dhcp_in=(),
        dns_out=tuple(one for one in dns_entries(hosts) if one in facts.dns),
        dns_in=(),
    )


def find_new_hosts(shape: NetworkShape, seen: NetworkSeen) -> tuple[NetworkHost, ...]:
    """The hosts of which the network knows nothing at all yet."""
    every = [read_network_facts(xml) for xml in (seen.xml, seen.defined_xml) if xml]
    macs = {one.mac for facts in every for one in facts.dhcp}
    names = {one.name for facts in every for one in facts.dns}
    return tuple(
        one for one in shape.hosts if one.mac.lower() not in macs and one.name not in names
    )


def read_bridge_mac(xml: str) -> str:
    """The MAC address that libvirt gives a network's bridge; empty where it tells none."""
    return _attribute(read_xml(xml), "./mac", "address").lower()


def uses_network(domain_xml: str, network: NetworkSeen | None) -> bool:
    """Whether a VM has an interface on that network, by its name or straight on its bridge."""
    return network is not None and any(_interfaces_on(domain_xml, network))


def find_taps(domain_xml: str, network: NetworkSeen) -> tuple[str, ...]:
    """The host's ends of a running VM's interfaces on that network."""
    targets = [one.find("./target") for one in _interfaces_on(domain_xml, network)]
    names = [one.get("dev") for one in targets if one is not None]
    return tuple(name for name in names if name)


def _interfaces_on(domain_xml: str, network: NetworkSeen) -> list[ET.Element]:
    try:
        interfaces = read_xml(domain_xml).findall("./devices/interface")
    except HostError:
        return []  # another's XML, however broken, is in nobody's way
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
    """The entries that are not ours and claim what is."""
    own, claimed = frozenset(ours), _claims_of(ours)
    return tuple(one for one in there if one not in own and one.claims & claimed)


def _changed_hosts(hosts: Collection[NetworkHost], facts: NetworkFacts) -> frozenset[str]:
    """The names of those that the network does not know, or knows otherwise."""
    changes = find_host_changes(hosts, facts)
    missing = {one.name for one in changes.dhcp_in} | {one.name for one in changes.dns_in}
    lost = _claims_of(changes.dhcp_out) | _claims_of(changes.dns_out)
    return frozenset(
        one.name for one in dhcp_entries(hosts) if one.name in missing or one.claims & lost
    )


def _claims_of(entries: Collection[DhcpEntry | DnsEntry]) -> frozenset[tuple[str, str]]:
    return frozenset(claim for one in entries for claim in one.claims)


def _shape_differences(wanted: NetworkFacts, found: NetworkFacts) -> Iterator[str]:
    for what, ours, theirs in (
        ("bridge", wanted.bridge, found.bridge),
        ("forward mode", wanted.mode, found.mode),
        ("address", wanted.address, found.address),
        ("domain", wanted.domain, found.domain),
        ("DHCP range", _listed(wanted.ranges), _listed(found.ranges)),
    ):
        if ours != theirs:
            yield f"its {what} is {theirs}, not {ours}"


def _listed(values: frozenset[str]) -> str:
    return ", ".join(sorted(values)) or "none"


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
