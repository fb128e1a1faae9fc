"""Updates of a running network: its hosts, and the guests on it. Part of LibvirtClient.

All changes apply to running networks and guests, and disconnect nobody.
"""

from collections.abc import Callable, Collection
from uuid import UUID
from xml.etree import ElementTree as ET

import libvirt

from ai_how.libvirt_client.conversion import unless_gone, with_first_known
from ai_how.libvirt_client.domains import find_raw_domain
from ai_how.libvirt_client.network_xml import (
    DhcpEntry,
    DnsEntry,
    HostChanges,
    NetworkFacts,
    NetworkHost,
    find_host_changes,
    find_host_removals,
    read_network_facts,
)
from ai_how.libvirt_client.networks import Networks, find_raw_network
from ai_how.libvirt_client.xml import read_xml

ADD = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
DELETE = libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
DHCP = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
DNS = libvirt.VIR_NETWORK_SECTION_DNS_HOST
ANY_ADDRESS = -1  # the first <ip> with DHCP


class NetworkUpdates(Networks):
    """The part of a client that changes networks in use."""

    def ensure_network_hosts(self, uuid: UUID, hosts: Collection[NetworkHost]) -> None:
        """Add these hosts to the network's DHCP and DNS, now and in its definition."""
        self._change_hosts(uuid, lambda facts: find_host_changes(hosts, facts))

    def forget_network_hosts(self, uuid: UUID, hosts: Collection[NetworkHost]) -> None:
        """Remove these hosts from the network. An absent network is success."""
        unless_gone(
            lambda: self._change_hosts(uuid, lambda facts: find_host_removals(hosts, facts))
        )

    def renew_dhcp(self, uuid: UUID) -> None:
        """Restart a network's DHCP server if it died; a running one rereads its file."""

        def ask(raw: libvirt.virConnect) -> None:
            network = find_raw_network(raw, uuid)
            known = read_xml(network.XMLDesc(0)).find("./ip/dhcp/host")
            # libvirt checks the server when a host is changed, even to the same values.
            if known is not None:
                network.update(
                    libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY,
                    DHCP,
                    ANY_ADDRESS,
                    ET.tostring(known, encoding="unicode"),
                    libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE,
                )

        self._link.change(f"renewing the DHCP server of network {uuid}", ask)

    def plug_in(self, uuid: UUID, network_uuid: UUID) -> None:
        """Reattach the guest's interfaces on that network to its bridge; safe to repeat."""

        def ask(raw: libvirt.virConnect) -> None:
            domain, network = find_raw_domain(raw, uuid), find_raw_network(raw, network_uuid)
            name, bridge = network.name(), network.bridgeName()
            for interface in read_xml(domain.XMLDesc(0)).iterfind("./devices/interface"):
                source = interface.find("./source")
                if source is None:
                    continue
                if name == source.get("network") or bridge == source.get("bridge"):
                    _plug(domain, interface, source, name=name, bridge=bridge)

        self._link.change(f"plugging VM {uuid} into network {network_uuid}", ask)

    def _change_hosts(self, uuid: UUID, find: Callable[[NetworkFacts], HostChanges]) -> None:
        def ask(raw: libvirt.virConnect) -> None:
            network = find_raw_network(raw, uuid)
            config = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
            live = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
            for scope in (config, live) if network.isActive() else (config,):
                inactive = libvirt.VIR_NETWORK_XML_INACTIVE if scope == config else 0
                xml = with_first_known(network.XMLDesc, inactive, 0)
                _update(network, find(read_network_facts(xml)), scope)

        self._link.change(f"updating the hosts of network {uuid}", ask)


def _update(network: libvirt.virNetwork, changes: HostChanges, scope: int) -> None:
    # Conflicting entries go first: libvirt refuses a second entry with the same address.
    for dhcp in changes.dhcp_out:
        network.update(DELETE, DHCP, ANY_ADDRESS, _dhcp_xml(dhcp), scope)
    for dns in changes.dns_out:
        network.update(DELETE, DNS, ANY_ADDRESS, _dns_xml(dns), scope)
    for dhcp in changes.dhcp_in:
        network.update(ADD, DHCP, ANY_ADDRESS, _dhcp_xml(dhcp), scope)
    for dns in changes.dns_in:
        network.update(ADD, DNS, ANY_ADDRESS, _dns_xml(dns), scope)


def _plug(
    domain: libvirt.virDomain,
    interface: ET.Element,
    source: ET.Element,
    *,
    name: str,
    bridge: str,
) -> None:
    """Change the kind of source and back: libvirt ignores an update without a change."""
    for kind, value in (("bridge", bridge), ("network", name)):
        interface.set("type", kind)
        source.attrib.clear()
        source.set(kind, value)
        xml = ET.tostring(interface, encoding="unicode")
        domain.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _dhcp_xml(entry: DhcpEntry) -> str:
    known = {"mac": entry.mac, "name": entry.name, "ip": entry.ip}
    element = ET.Element("host", {key: value for key, value in known.items() if value})
    return ET.tostring(element, encoding="unicode")


def _dns_xml(entry: DnsEntry) -> str:
    element = ET.Element("host", {"ip": entry.ip})
    ET.SubElement(element, "hostname").text = entry.name
    return ET.tostring(element, encoding="unicode")
