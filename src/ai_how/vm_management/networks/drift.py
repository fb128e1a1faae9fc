"""How a network differs from the one that we asked for (pure).

Only what we asked for is compared: a host or an option that somebody added is theirs to keep, as
long as nothing of ours is changed by it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ai_how.libvirt_client.facts import NetworkInfo
from ai_how.libvirt_client.network_xml import (
    NetworkFacts,
    NetworkHost,
    _attribute,
    _claims_of,
    dhcp_entries,
    dns_entries,
    find_host_changes,
    read_network_facts,
)
from ai_how.libvirt_client.xml import read_xml
from ai_how.vm_management.networks.definition import NetworkDefinition


@dataclass(frozen=True, slots=True)
class Drift:
    """How a network that is there differs: as it runs, and as it is defined."""

    live: tuple[str, ...]
    defined: tuple[str, ...]
    hosts: tuple[str, ...]
    """The nodes that its DHCP or DNS does not know as it should."""

    @property
    def messages(self) -> tuple[str, ...]:
        """All of it in words."""
        differences = dict.fromkeys((*self.live, *self.defined))
        hosts = ", ".join(self.hosts)
        return *differences, *(
            [f"DHCP and DNS do not know {hosts} as they should"] if hosts else []
        )


def facts_of(definition: NetworkDefinition) -> NetworkFacts:
    """The facts of a network that we ask for."""
    return NetworkFacts(
        bridge=definition.bridge,
        mode=definition.mode,
        address=f"{definition.gateway}/{definition.subnet.prefixlen}",
        domain=definition.domain,
        ranges=frozenset(),
        dhcp=frozenset(dhcp_entries(definition.hosts)),
        dns=frozenset(dns_entries(definition.hosts)),
    )


def find_drift(definition: NetworkDefinition, seen: NetworkInfo) -> Drift:
    """How the network that is there differs from what was asked for."""
    wanted = facts_of(definition)
    live = read_network_facts(seen.xml)
    defined = read_network_facts(seen.defined_xml) if seen.defined_xml else live
    is_lost = seen.is_active and not seen.is_persistent
    changed = _changed_hosts(definition.hosts, live) | _changed_hosts(definition.hosts, defined)
    return Drift(
        live=tuple(_property_differences(wanted, live)),
        defined=(
            *(["it is defined no more"] if is_lost else []),
            *_property_differences(wanted, defined),
        ),
        hosts=tuple(one.name for one in definition.hosts if one.name in changed),
    )


def find_new_hosts(definition: NetworkDefinition, seen: NetworkInfo) -> tuple[NetworkHost, ...]:
    """The hosts of which the network knows nothing at all yet."""
    every = [read_network_facts(xml) for xml in (seen.xml, seen.defined_xml) if xml]
    macs = {one.mac for facts in every for one in facts.dhcp}
    names = {one.name for facts in every for one in facts.dns}
    return tuple(
        one for one in definition.hosts if one.mac.lower() not in macs and one.name not in names
    )


def read_bridge_mac(xml: str) -> str:
    """The MAC address that libvirt gives a network's bridge; empty where it tells none."""
    return _attribute(read_xml(xml), "./mac", "address").lower()


def _changed_hosts(hosts: Collection[NetworkHost], facts: NetworkFacts) -> frozenset[str]:
    """The names of those that the network does not know, or knows otherwise."""
    changes = find_host_changes(hosts, facts)
    missing = {one.name for one in changes.dhcp_in} | {one.name for one in changes.dns_in}
    lost = _claims_of(changes.dhcp_out) | _claims_of(changes.dns_out)
    return frozenset(
        one.name for one in dhcp_entries(hosts) if one.name in missing or one.claims & lost
    )


def _property_differences(wanted: NetworkFacts, found: NetworkFacts) -> Iterator[str]:
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
