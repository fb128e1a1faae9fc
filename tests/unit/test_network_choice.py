"""The subnet that a cluster gets, what a host already uses, and the network's XML."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.libvirt_client.xml import read_xml
from ai_how.vm_management.networks.definition import ForwardMode, render_network
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.networks.links import find_bridge_problem, find_ports, read_links
from ai_how.vm_management.networks.subnets import (
    PRIVATE,
    TakenLink,
    TakenSubnet,
    check_bridge,
    choose_subnet,
    find_taken_links,
    find_taken_subnets,
)
from shapes import CLUSTER, NETWORK

ROUTES = json.dumps(
    [
        {"dst": "default", "gateway": "192.168.7.1", "dev": "eth0", "flags": []},
        {"dst": "0.0.0.0/1", "dev": "tun0"},
        {"dst": "172.20.0.0/16", "dev": "br-docker", "scope": "link"},
        {"type": "local", "dst": "10.9.0.3", "dev": "eth1", "table": "local"},
        {"type": "blackhole", "dst": "10.64.0.0/10"},
        {"dst": "fd00::/64", "dev": "eth0"},
        {"dst": "10.7.0.0/24", "dev": "ahours"},
    ]
)
ADDRESSES = json.dumps(
    [
        {
            "ifname": "eth1",
            "addr_info": [
                {"family": "inet", "local": "10.9.0.3", "prefixlen": 22},
                {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
            ],
        },
        {"ifname": "ahours", "addr_info": [{"local": "10.7.0.1", "prefixlen": 24}]},
        {"ifname": "veth0"},
    ]
)
NETWORKS = (
    """<network><name>default</name><bridge name='virbr0'/>
    <ip address='192.168.122.1' netmask='255.255.255.0'/>
    <ip family='ipv6' address='fd01::1' prefix='64'/></network>""",
    "<network><name>lab</name><forward mode='bridge'/><bridge name='br0'/></network>",
    """<network><name>ours</name><bridge name='ahours'/><ip address='10.7.0.1' prefix='24'/>
    <route address='10.30.0.0' prefix='16' gateway='10.7.0.2'/></network>""",
)

private_subnets = st.builds(
    lambda block, prefix, at: IPv4Network(
        (int(block.network_address) + at % block.num_addresses, max(prefix, block.prefixlen)),
        strict=False,
    ),
    st.sampled_from(PRIVATE),
    st.integers(13, 30),  # a dozen of them leave room
    st.integers(0, 2**24 - 1),
)
taken_subnets = st.lists(
    st.builds(TakenSubnet, private_subnets, st.sampled_from(["a route", "an address of eth0"])),
    max_size=12,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dst", "dev", "gateway", "ifname", "addr_info", "local", "prefixlen"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(taken_subnets, st.uuids())
def test_an_automatic_subnet_is_private_free_and_the_same_again(taken, cluster_id):
    chosen = choose_subnet(None, taken, cluster_id)
    assert chosen.prefixlen == 24
    assert any(chosen.subnet_of(block) for block in PRIVATE)
    assert not [t for t in taken if t.subnet.overlaps(chosen)]
    assert choose_subnet(None, reversed(taken), cluster_id) == chosen


@pytest.mark.fault("S28", "arbitrary subnets that are taken")
@given(private_subnets, taken_subnets)
def test_an_asked_subnet_is_taken_as_it_is_or_refused_by_name(asked, taken):
    in_the_way = [t for t in taken if t.subnet.overlaps(asked)]
    if not in_the_way:
        assert choose_subnet(asked, taken, CLUSTER) == asked
        return
    with pytest.raises(HostError) as refused:
        choose_subnet(asked, taken, CLUSTER)
    assert str(asked) in refused.value.brief
    for collision in in_the_way:
        assert f"{collision.subnet}: {collision.by}" in (refused.value.details or "")


def test_a_collision_proposes_a_free_subnet_of_the_same_size():
    taken = [TakenSubnet(IPv4Network("192.168.122.0/24"), "the libvirt network 'default'")]
    with pytest.raises(HostError, match=r"192\.168\.122\.0/23 is in use on this host") as refused:
        choose_subnet(IPv4Network("192.168.122.0/23"), taken, CLUSTER)
    proposal = IPv4Network((refused.value.hint or "").rsplit(" ", 1)[1])
    assert proposal.prefixlen == 23
    assert choose_subnet(proposal, taken, CLUSTER) == proposal


@pytest.mark.parametrize(("node_count", "prefix"), [(3, 24), (253, 24), (254, 23), (1025, 21)])
def test_an_automatic_subnet_has_room_for_all_nodes(node_count, prefix):
    chosen = choose_subnet(None, [], CLUSTER, node_count=node_count)
    assert chosen.prefixlen == prefix
    assert chosen.num_addresses >= node_count + 3


def test_clusters_of_one_host_start_from_different_places():
    assert len({choose_subnet(None, [], uuid4()) for _ in range(50)}) > 45


def test_a_host_without_any_free_private_subnet_is_told_so():
    taken = [TakenSubnet(block, "a route through wg0") for block in PRIVATE]
    with pytest.raises(HostError, match="no private /24 is free") as refused:
        choose_subnet(None, taken, CLUSTER)
    assert "10.0.0.0/8: a route through wg0" in (refused.value.details or "")


def test_when_the_first_block_is_routed_away_the_next_is_used():
    taken = [TakenSubnet(PRIVATE[0], "a route through wg0")]
    assert choose_subnet(None, taken, CLUSTER).subnet_of(PRIVATE[1])


def test_all_that_a_host_uses_is_found_and_named():
    taken = find_taken_subnets(
        ROUTES, ADDRESSES, NETWORKS, "search lan\nnameserver 10.5.5.5\nnameserver fd00::53\n"
    )
    assert {(str(t.subnet), t.by) for t in taken} == {
        ("192.168.7.1/32", "a gateway"),
        ("172.20.0.0/16", "a route through br-docker"),
        ("10.9.0.3/32", "a route through eth1"),
        ("10.64.0.0/10", "a route"),
        ("10.7.0.0/24", "a route through ahours"),
        ("10.9.0.0/22", "an address of eth1"),
        ("10.7.0.0/24", "an address of ahours"),
        ("192.168.122.0/24", "the libvirt network 'default'"),
        ("10.7.0.0/24", "the libvirt network 'ours'"),
        ("10.30.0.0/16", "the libvirt network 'ours'"),
        ("10.5.5.5/32", "a nameserver in resolv.conf"),
    }


def test_our_own_network_is_not_in_its_own_way():
    taken = find_taken_subnets(ROUTES, ADDRESSES, NETWORKS, own_bridge="ahours")
    assert not [t for t in taken if t.subnet.overlaps(IPv4Network("10.7.0.0/24"))]
    assert any(t.by == "the libvirt network 'default'" for t in taken)


def test_a_default_route_and_its_halves_are_in_nobodys_way():
    routes = [{"dst": dst, "dev": "tun0"} for dst in ("default", "0.0.0.0/0", "128.0.0.0/1")]
    assert find_taken_subnets(json.dumps(routes), "[]", []) == ()


def test_a_host_that_lists_nothing_uses_nothing():
    assert find_taken_subnets("", "\n", []) == ()


@pytest.mark.fault("S31", "arbitrary JSON of ip")
@given(json_values, json_values)
def test_whatever_ip_prints_is_understood_or_refused(routes, addresses):
    try:
        taken = find_taken_subnets(json.dumps(routes), json.dumps(addresses), [])
    except HostError as error:
        assert "is not a list of objects" in error.brief  # noqa: PT017  it need not raise
    else:
        assert all(t.subnet.prefixlen >= 8 for t in taken)


@given(st.text())
def test_text_that_is_not_json_is_refused_in_words(text):
    try:
        find_taken_subnets(text, "[]", [])
    except HostError as error:
        assert "the output of `ip -j route` is not" in error.brief  # noqa: PT017


@pytest.mark.fault("S31", "arbitrary XML of a network")
@given(st.text() | st.text().map(lambda text: f"<network><name>{text}</name></network>"))
def test_network_xml_is_understood_or_refused(text):
    try:
        find_taken_subnets("[]", "[]", [text])
    except HostError as error:
        assert "XML" in error.brief  # noqa: PT017


@pytest.mark.fault("S31", "a DOCTYPE")
def test_network_xml_with_a_doctype_is_refused():
    bomb = "<!DOCTYPE n [<!ENTITY a 'x'>]><network><name>&a;</name></network>"
    with pytest.raises(HostError, match=r"XML with a DOCTYPE \(n\) is refused"):
        find_taken_subnets("[]", "[]", [bomb])


def test_a_bridge_name_that_is_in_use_is_refused_with_its_holder():
    taken = find_taken_links(ADDRESSES, NETWORKS)
    assert TakenLink("veth0", "an interface of this host") in taken
    check_bridge("ah0123456789", taken)
    with pytest.raises(HostError, match="virbr0 is in use on this host") as refused:
        check_bridge("virbr0", taken)
    assert "the libvirt network 'default'" in (refused.value.details or "")


def test_a_host_is_asked_for_its_networks_where_the_guests_run(tmp_path):
    entered = tmp_path / "enter"
    entered.write_text(
        f"#!/bin/sh\ncase \"$3\" in route) echo '{ROUTES}';; addr) echo '{ADDRESSES}';; esac\n"
    )
    entered.chmod(0o755)
    host = HostNetworks(enter=(str(entered),), resolv_conf=tmp_path / "absent")
    seen = host.observe(NETWORKS)
    assert seen.subnets == find_taken_subnets(ROUTES, ADDRESSES, NETWORKS)
    assert seen.links == find_taken_links(ADDRESSES, NETWORKS)


@pytest.mark.fault("S33", "the DHCP of a network")
def test_a_network_knows_its_nodes_and_hands_out_no_other_address():
    root = read_xml(render_network(NETWORK))
    assert root.find("ip/dhcp/range") is None
    assert [host.attrib for host in root.iterfind("ip/dhcp/host")] == [
        {"mac": "52:54:aa:00:00:01", "name": "controller", "ip": "10.11.12.10"},
        {"mac": "52:54:aa:00:00:02", "name": "compute-01", "ip": "10.11.12.11"},
    ]
    assert [(host.get("ip"), host.findtext("hostname")) for host in root.iterfind("dns/host")] == [
        ("10.11.12.10", "controller"),
        ("10.11.12.11", "compute-01"),
    ]


@pytest.mark.fault("S33", "an isolated network")
def test_an_isolated_network_has_no_way_out():
    root = read_xml(render_network(replace(NETWORK, mode=ForwardMode.ISOLATED)))
    assert root.find("forward") is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bridge": "a" * 16}, "the bridge name aaaaaaaaaaaaaaaa is longer than 15 characters"),
        ({"gateway": IPv4Address("10.0.0.1")}, "not in the subnet 10.11.12.0/24: 10.0.0.1"),
        (
            {"hosts": (NetworkHost("52:54:00:00:00:01", "a", IPv4Address("10.11.12.1")),)},
            "two nodes of demo have the same address",
        ),
        (
            {
                "hosts": tuple(
                    NetworkHost("52:54:00:00:00:01", name, IPv4Address(ip))
                    for name, ip in (("a", "10.11.12.2"), ("b", "10.11.12.3"))
                )
            },
            "two nodes of demo have the same MAC address",
        ),
    ],
)
def test_a_network_that_would_not_work_is_refused(changes, problem):
    with pytest.raises(SpecError, match=problem):
        replace(NETWORK, **changes)


def host_that_says(tmp_path, **answers: tuple[int, str]) -> HostNetworks:
    """A host where each program exits so and prints that; any other is not installed."""
    cases = "".join(
        f"{name.replace('_', '-')}) cat <<'END'\n{text}\nEND\nexit {code};;\n"
        for name, (code, text) in answers.items()
    )
    entered = tmp_path / "enter"
    entered.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}*) exit 127;;\nesac\n')
    entered.chmod(0o755)
    return HostNetworks(enter=(str(entered),))


RULE = "-A LIBVIRT_PRT -s 10.11.12.0/24 ! -d 10.11.12.0/24 -j MASQUERADE"
GONE = "its firewall rules are gone: guests reach no other network until libvirtd is restarted"


@pytest.mark.fault("F57", "forwarding off, rules gone, as `iptables-save` and nft tell it")
@pytest.mark.parametrize(
    ("answers", "trouble"),
    [
        ({"cat": (0, "0")}, "IPv4 forwarding is off, so guests reach no other network"),
        ({"cat": (0, "1"), "iptables_save": (0, RULE)}, None),
        ({"cat": (0, "1"), "iptables_save": (0, ""), "nft": (0, "ip saddr 10.11.12.0/24")}, None),
        ({"cat": (0, "1"), "iptables_save": (0, "-P"), "nft": (1, "not permitted")}, GONE),
        ({"cat": (0, "1"), "nft": (0, "ip saddr 10.11.13.0/24")}, GONE),
        ({"cat": (0, "1"), "iptables_save": (4, "Permission denied"), "nft": (1, "")}, None),
        ({"cat": (0, "1")}, None),
    ],
)
def test_guests_without_a_way_out_are_known_where_one_may_look(tmp_path, answers, trouble):
    host = host_that_says(tmp_path, **answers)
    assert host.find_uplink_problem(NETWORK.subnet) == trouble


LISTENERS = """\
udp UNCONN 0 0 10.11.12.1:53 0.0.0.0:*
udp UNCONN 0 0 0.0.0.0%ah0123456789:67 0.0.0.0:*
tcp LISTEN 0 32 10.11.12.1:53 0.0.0.0:*"""


@pytest.mark.fault("F43", "ports on every address, and on others' alone, as `ss` tells it")
@pytest.mark.parametrize(
    ("line", "takers"),
    [
        ("", ()),
        ("udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*", ()),
        ("udp UNCONN 0 0 0.0.0.0:53 0.0.0.0:*", ("port 53",)),
        ("udp UNCONN 0 0 *:67 *:*", ("port 67",)),
        ("tcp LISTEN 0 5 [::]:53 [::]:*", ("port 53",)),
    ],
)
def test_who_has_dnsmasqs_ports_on_every_address_is_known(tmp_path, line, takers):
    host = host_that_says(tmp_path, ss=(0, f"{LISTENERS}\n{line}"))
    assert host.find_used_ports() == takers
    assert host.is_dns_served(NETWORK.gateway)
    assert not host.is_dns_served(IPv4Address("10.11.12.2"))


def test_where_ss_is_missing_no_port_is_said_to_be_taken(tmp_path):
    assert host_that_says(tmp_path).find_used_ports() == ()


LINKS = """[
 {"ifname": "br", "address": "52:54:00:AA:00:01", "flags": ["BROADCAST", "UP"],
  "addr_info": [{"family": "inet", "local": "10.11.12.1", "prefixlen": 24}, "odd"]},
 {"ifname": "vnet0", "master": "br", "flags": ["UP"], "addr_info": []},
 {"ifname": "vnet1", "master": "other", "flags": []},
 {"ifname": "down", "flags": ["BROADCAST"], "addr_info": null}, {"flags": ["UP"]}]"""


def test_the_links_of_a_host_are_read_from_what_ip_says(tmp_path):
    links = host_that_says(tmp_path, ip=(0, LINKS)).links()
    assert set(links) == {"br", "vnet0", "vnet1", "down"}
    assert links["br"].mac == "52:54:00:aa:00:01"
    assert [name for name, link in links.items() if link.is_up] == ["br", "vnet0"]
    assert find_ports(links, "br") == {"vnet0"}
    assert find_ports(links, "none") == frozenset()


@pytest.mark.fault("H15", "the bridge is gone, down or without its address, as `ip` tells it")
@pytest.mark.parametrize(
    ("bridge", "address", "trouble"),
    [
        ("br", "10.11.12.1/24", None),
        ("gone", "10.11.12.1/24", "its bridge gone is gone"),
        ("down", "10.11.12.1/24", "its bridge down is down"),
        ("br", "10.11.12.1/25", "its bridge br has lost its address 10.11.12.1/25"),
    ],
)
def test_what_is_wrong_with_a_bridge_is_told(bridge, address, trouble):
    assert find_bridge_problem(read_links(LINKS), bridge, address) == trouble


@pytest.mark.fault("H15", "the interface of a guest is down on a host that is root's alone")
def test_a_change_that_takes_root_names_its_command(tmp_path):
    with pytest.raises(HostError) as caught:
        host_that_says(tmp_path, ip=(2, "not permitted")).set_up("vnet0")
    assert caught.value.brief == "the interface vnet0 is down"
    assert caught.value.hint == "sudo ip link set vnet0 up"


@pytest.mark.fault("H15", "a bridge of our network's name that libvirt did not make")
def test_a_bridge_with_another_mac_address_is_not_taken_for_a_leftover(tmp_path):
    host = host_that_says(tmp_path, ss=(0, ""), ip=(0, LINKS))
    assert not host.remove_left("hpc", "br", "52:54:00:bb:00:01")
    assert not host.remove_left("hpc", "br", "")
    assert not host.remove_left("hpc", "gone", "52:54:00:aa:00:01")
    assert host.remove_left("hpc", "br", "52:54:00:aa:00:01")
