"""A network that is there beside the one that was asked for."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from ai_how.libvirt_client.facts import NetworkInfo
from ai_how.libvirt_client.network_xml import (
    DhcpEntry,
    DnsEntry,
    NetworkHost,
    find_host_changes,
    find_host_removals,
    find_taps,
    read_network_facts,
    uses_network,
)
from ai_how.vm_management.networks.definition import NetworkDefinition, render_network
from ai_how.vm_management.networks.drift import facts_of, find_drift, find_new_hosts
from shapes import NETWORK, NETWORKS

XML = render_network(NETWORK)
CONTROLLER, COMPUTE = NETWORK.hosts
NEW = NetworkHost("52:54:aa:00:00:03", "compute-02", IPv4Address("10.11.12.12"))


def seen(xml: str = XML, **other: object) -> NetworkInfo:
    there = NetworkInfo(NETWORK.uuid, NETWORK.name, NETWORK.bridge, True, NETWORK.mark, xml)
    return replace(there, **other)


def interface(source: str, dev: str = "vnet0") -> str:
    body = f"<interface><source {source}/><target dev='{dev}'/></interface>"
    return f"<domain><devices>{body}</devices></domain>"


@pytest.mark.parametrize("shape", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_is_as_it_was_asked_for_differs_in_nothing(shape: NetworkDefinition) -> None:
    assert read_network_facts(render_network(shape)) == facts_of(shape)
    assert find_drift(shape, seen(render_network(shape))).messages == ()


def test_what_libvirt_adds_is_no_difference() -> None:
    xml = XML.replace("<forward mode='nat'/>", "<forward mode='nat'><nat/></forward><mac/>")
    xml = xml.replace("prefix='24'", "netmask='255.255.255.0'").replace("52:54:AA", "52:54:aa")
    assert find_drift(NETWORK, seen(xml)).messages == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name='ah0123456789'", "name='virbr9'", "its bridge is virbr9, not ah0123456789"),
        ("<forward mode='nat'/>", "", "its forward mode is none, not nat"),
        ("mode='nat'", "mode='route'", "its forward mode is route, not nat"),
        ("prefix='24'", "prefix='25'", "its address is 10.11.12.1/25, not 10.11.12.1/24"),
        ("10.11.12.1'", "10.9.9.1'", "its address is 10.9.9.1/24, not 10.11.12.1/24"),
        ("demo.internal", "other", "its domain is other, not demo.internal"),
        (
            "<dhcp>",
            "<dhcp><range start='10.11.12.100' end='10.11.12.200'/>",
            "its DHCP range is 10.11.12.100-10.11.12.200, not none",
        ),
    ],
)
def test_each_difference_is_told_with_both_values(old: str, new: str, told: str) -> None:
    assert old in XML
    changed = XML.replace(old, new)
    assert find_drift(NETWORK, seen(changed)).live == (told,)
    only_defined = find_drift(NETWORK, seen(defined_xml=changed))
    assert (only_defined.live, only_defined.defined) == ((), (told,))


def test_a_network_that_would_not_outlive_a_reboot_is_told() -> None:
    drift = find_drift(NETWORK, seen(is_persistent=False))
    assert drift.messages == ("its persistent definition is gone",)


def test_a_host_that_somebody_added_is_theirs() -> None:
    added = "<dhcp><host mac='52:54:00:99:99:99' name='theirs' ip='10.11.12.99'/>"
    xml = XML.replace("<dhcp>", added)
    assert find_drift(NETWORK, seen(xml)).messages == ()
    assert not find_host_changes(NETWORK.hosts, read_network_facts(xml))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mac='52:54:aa:00:00:02'", "mac='52:54:00:00:00:01'"),
        ("name='compute-01'", "name='other'"),
        ("name='compute-01' ip='10.11.12.11'", "name='compute-01' ip='10.11.12.77'"),
        ("mac='52:54:aa:00:00:02' name='compute-01'", "name='compute-01'"),
    ],
)
def test_an_entry_in_the_place_of_ours_makes_room(old: str, new: str) -> None:
    assert old in XML
    facts = read_network_facts(XML.replace(old, new))
    changes = find_host_changes(NETWORK.hosts, facts)
    assert changes.dhcp_in == (DhcpEntry(COMPUTE.mac, COMPUTE.name, str(COMPUTE.ip)),)
    assert [one for one in facts.dhcp if one.mac != CONTROLLER.mac] == list(changes.dhcp_out)
    assert (changes.dns_in, changes.dns_out) == ((), ())
    drift = find_drift(NETWORK, seen(defined_xml=XML.replace(old, new)))
    assert drift.hosts == ("compute-01",)
    assert drift.messages == ("its DHCP or DNS entries of compute-01 are missing or wrong",)


def test_a_name_that_leads_elsewhere_is_led_back() -> None:
    changed = XML.replace("<host ip='10.11.12.11'>", "<host ip='10.11.12.66'>")
    changes = find_host_changes(NETWORK.hosts, read_network_facts(changed))
    assert changes.dns_out == (DnsEntry("10.11.12.66", "compute-01"),)
    assert changes.dns_in == (DnsEntry("10.11.12.11", "compute-01"),)


def test_new_nodes_are_those_of_which_the_network_knows_nothing() -> None:
    larger = replace(NETWORK, hosts=(*NETWORK.hosts, NEW))
    assert find_new_hosts(larger, seen()) == (NEW,)
    assert find_new_hosts(larger, seen(defined_xml=render_network(larger))) == ()
    half = XML.replace(COMPUTE.mac, "52:54:00:00:00:01")
    assert find_new_hosts(larger, seen(half)) == (NEW,)


def test_only_what_is_exactly_ours_is_forgotten() -> None:
    facts = read_network_facts(XML)
    removed = find_host_removals([COMPUTE, NEW], facts)
    assert removed.dhcp_out == (DhcpEntry(COMPUTE.mac, "compute-01", "10.11.12.11"),)
    assert removed.dns_out == (DnsEntry("10.11.12.11", "compute-01"),)
    moved = replace(COMPUTE, ip=IPv4Address("10.11.12.50"))
    assert not find_host_removals([moved], facts)


@pytest.mark.parametrize(
    ("source", "is_used"),
    [
        ("network='demo'", True),
        ("bridge='ah0123456789'", True),
        ("network='demo-2'", False),
        ("bridge='virbr0'", False),
        ("dev='eth0'", False),
    ],
)
def test_a_vm_uses_a_network_by_its_name_or_by_its_bridge(source: str, is_used: bool) -> None:
    assert uses_network(interface(source), seen()) is is_used
    assert find_taps(interface(source), seen()) == (("vnet0",) if is_used else ())
    assert uses_network(interface("dev='eth0'"), seen(bridge=None)) is False


def test_the_broken_xml_of_anothers_vm_is_in_nobodys_way() -> None:
    assert uses_network("<domain", seen()) is False
