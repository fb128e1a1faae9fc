"""The drift of a network from its definition (pure).

Only what the definition sets is compared: hosts and options that a user added are kept, as long as
they do not conflict with it.
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
    """The drift of the live and of the persistent definition of a network."""

    live: tuple[str, ...]
    defined: tuple[str, ...]
    hosts: tuple[str, ...]
    """The nodes whose DHCP or DNS entries are missing or wrong."""

    @property
    def messages(self) -> tuple[str, ...]:
        """One line per difference, for the user."""
        properties = dict.fromkeys((*self.live, *self.defined))
        hosts = ", ".join(self.hosts)
        return *properties, *(
            [f"its DHCP or DNS entries of {hosts} are missing or wrong"] if hosts else []
        )


def facts_of(definition: NetworkDefinition) -> NetworkFacts:
    """The facts that a network of this definition has."""
    return NetworkFacts(
        bridge=definition.bridge,
        mode=definition.mode,
        address=f"{definition.gateway}/{definition.subnet.prefixlen}",
        domain=definition.domain,
        ranges=frozenset(),
        dhcp=frozenset(dhcp_entries(definition.hosts)),
        dns=frozenset(dns_entries(definition.hosts)),
    )


def find_drift(definition: NetworkDefinition, info: NetworkInfo) -> Drift:
    """The drift of an existing network from its definition."""
    wanted = facts_of(definition)
    live = read_network_facts(info.xml)
    defined = read_network_facts(info.defined_xml) if info.defined_xml else live
    is_lost = info.is_active and not info.is_persistent
    changed = _changed_hosts(definition.hosts, live) | _changed_hosts(definition.hosts, defined)
    return Drift(
        live=tuple(_property_differences(wanted, live)),
        defined=(
            *(["its persistent definition is gone"] if is_lost else []),
            *_property_differences(wanted, defined),
        ),
        hosts=tuple(host.name for host in definition.hosts if host.name in changed),
    )


def find_new_hosts(definition: NetworkDefinition, info: NetworkInfo) -> tuple[NetworkHost, ...]:
    """The hosts without any DHCP or DNS entry in the network."""
    every = [read_network_facts(xml) for xml in (info.xml, info.defined_xml) if xml]
    macs = {host.mac for facts in every for host in facts.dhcp}
    names = {host.name for facts in every for host in facts.dns}
    return tuple(
        host for host in definition.hosts if host.mac.lower() not in macs and host.name not in names
    )


def read_bridge_mac(xml: str) -> str:
    """The MAC address of a network's bridge, from its XML; empty if there is none."""
    return _attribute(read_xml(xml), "./mac", "address").lower()


def _changed_hosts(hosts: Collection[NetworkHost], facts: NetworkFacts) -> frozenset[str]:
    """The names of the hosts whose entries are missing or wrong."""
    changes = find_host_changes(hosts, facts)
    missing = {host.name for host in changes.dhcp_in} | {host.name for host in changes.dns_in}
    lost = _claims_of(changes.dhcp_out) | _claims_of(changes.dns_out)
    return frozenset(
        host.name for host in dhcp_entries(hosts) if host.name in missing or host.claims & lost
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
