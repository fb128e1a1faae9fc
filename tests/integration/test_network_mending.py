"""A network that somebody changed, took down or cut under running guests: said, then mended."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ai_how.libvirt_client.network_xml import read_network_facts
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.vm_management.networks.definition import define_network
from ai_how.vm_management.networks.drift import facts_of
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.networks.links import find_ports
from ai_how.waiting import Deadline, wait_until
from decoys import virsh
from leaks import pids_inside
from tiny_cluster import TinyHome, state_of, steps
from tiny_guest import remove_tiny_guest, render_tiny_guest, start_tiny_guest

pytestmark = pytest.mark.libvirt

NODES = ("controller", "compute-01", "compute-02")
PLUGS = [f"plug/hpc-{name}" for name in NODES]
# A query for one address (RFC 1035), by hand: the answer's last four bytes are the address.
ASK_DNS = """
import socket, struct, sys
server, name = sys.argv[1:]
label = bytes([len(name)]) + name.encode() + b"\\0"
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(20)
query = struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + label + struct.pack(">2H", 1, 1)
link.sendto(query, (server, 53))
answer = link.recv(512)
if struct.unpack(">H", answer[6:8])[0]:
    print(socket.inet_ntoa(answer[-4:]))
"""
OFF_NETWORK = {name: ["not on the network"] for name in NODES}


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    """A cluster that runs."""
    steps(tiny_home)
    yield tiny_home
    gone = tiny_home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said


def troubles(home: TinyHome) -> tuple[list[str], dict[str, list[str]]]:
    """What status says is wrong with the network, and with the nodes that something is wrong with.

    It exits 0 whatever it finds.
    """
    done = home.call("--json", "hpc", "status")
    assert done.code == 0, done.said
    told = json.loads(done.out)
    nodes = {one["name"]: one["problems"] for one in told["nodes"] if one["problems"]}
    return told["network_problems"], nodes


def networks(home: TinyHome) -> HostNetworks:
    return HostNetworks(tuple(home.host.enter([])))


def ports(home: TinyHome) -> int:
    return len(find_ports(networks(home).links(), state_of(home).network.bridge))


def resolve(home: TinyHome, name: str) -> str:
    """What the network's own DNS says; empty where it does not know that name."""
    words = [sys.executable, "-c", ASK_DNS, str(state_of(home).network.gateway), name]
    return run(home.host.enter(words)).stdout.strip()


def check_named(home: TinyHome) -> None:
    for node in state_of(home).nodes:
        assert resolve(home, node.name) == str(node.ip)


def check_mended(home: TinyHome) -> None:
    """Nothing is wrong, nothing is left to do, and the network is what was asked for."""
    state = state_of(home)
    assert troubles(home) == ([], {})
    assert ports(home) == len(NODES)
    assert networks(home).is_dns_served(state.network.gateway)
    check_named(home)
    with home.client() as client:
        seen = client.find_network(state.network.uuid)
    assert seen is not None
    assert seen.is_persistent
    wanted = facts_of(define_network(state))
    assert read_network_facts(seen.xml) == wanted
    assert read_network_facts(seen.defined_xml) == wanted
    assert steps(home) == []


def restart(home: TinyHome) -> None:
    virsh(home.host, "net-destroy", "hpc")
    virsh(home.host, "net-start", "hpc")


@pytest.mark.fault("F55", "net-destroy and net-start under running guests")
def test_guests_of_a_network_that_was_restarted_are_plugged_in_again(home: TinyHome) -> None:
    before = pids_inside(home.host, "qemu-system-x86")
    restart(home)
    assert ports(home) == 0
    assert troubles(home) == ([], OFF_NETWORK)
    assert steps(home) == PLUGS
    check_mended(home)
    assert pids_inside(home.host, "qemu-system-x86") == before


@pytest.mark.fault("F55", "net-destroy alone; net-undefine as well")
@pytest.mark.parametrize(
    ("undefined", "told", "made"),
    [
        (False, "it is down, but VMs are running", ["network-up/hpc"]),
        (True, "it does not exist, but VMs are running", ["network/hpc", "network-up/hpc"]),
    ],
)
def test_a_network_that_went_down_under_guests_comes_back_with_them(
    home: TinyHome, undefined: bool, told: str, made: list[str]
) -> None:
    virsh(home.host, "net-destroy", "hpc")
    if undefined:
        virsh(home.host, "net-undefine", "hpc")
    assert troubles(home)[0] == [told]
    assert steps(home) == [*made, *PLUGS]
    check_mended(home)


@pytest.mark.fault("F55", "a guest's tap is taken out of the bridge")
def test_a_single_guest_that_was_cut_off_is_plugged_in_and_the_others_left(home: TinyHome) -> None:
    node = state_of(home).get_node("compute-02")
    with home.client() as client:
        tap = re.search("<target dev='(vnet[0-9]+)'/>", client.domain_xml(node.uuid))
    assert tap is not None
    run(home.host.enter(["ip", "link", "set", tap[1], "nomaster"]))
    assert troubles(home) == ([], {"compute-02": ["not on the network"]})
    assert steps(home) == ["plug/hpc-compute-02"]
    check_mended(home)


def kill_dnsmasq(home: TinyHome) -> None:
    """The one of our network; it has a helper, which ends with it."""
    for pid in pids_inside(home.host, "dnsmasq"):
        with suppress(OSError):
            if b"/hpc.conf" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, 9)
    gateway = state_of(home).network.gateway
    wait_until(
        lambda: not networks(home).is_dns_served(gateway), Deadline.after(60), "dnsmasq's end"
    )


def redefine(home: TinyHome, old: str, new: str, *, live: bool = True) -> None:
    """As `virsh net-edit` does it."""
    xml = virsh(home.host, "net-dumpxml", "--inactive", "hpc")
    assert re.search(old, xml), xml
    with home.client() as client:
        client.define_network(re.sub(old, new, xml))
    if live:
        restart(home)


def remove_lease(home: TinyHome) -> None:
    mac = state_of(home).get_node("compute-01").mac
    host = f"<host mac='{mac}'/>"
    words = ("hpc", "delete", "ip-dhcp-host", host, "--live", "--config")
    virsh(home.host, "net-update", *words)


def remove_name(home: TinyHome) -> None:
    ip = state_of(home).get_node("compute-01").ip
    virsh(home.host, "net-update", "hpc", "delete", "dns-host", f"<host ip='{ip}'/>", "--live")


OTHER_RANGE = (r"\b10\.\d+\.\d+\.(\d+)'", r"10.254.7.\1'")
UNKNOWN = "its DHCP or DNS entries of compute-01 are missing or wrong"
CHANGES: dict[str, tuple[Callable[[TinyHome], None], str, list[str]]] = {
    "another range, and restarted": (
        lambda home: redefine(home, *OTHER_RANGE),
        "its address is 10.254.7.1/24, not ",
        ["network/hpc", "network-anew/hpc", "network-hosts/hpc", *PLUGS],
    ),
    "another range, not yet in force": (
        lambda home: redefine(home, *OTHER_RANGE, live=False),
        "its address is 10.254.7.1/24, not ",
        ["network/hpc", "network-hosts/hpc"],
    ),
    "isolated": (
        lambda home: redefine(home, "<forward mode='nat'/>", ""),
        "its forward mode is none, not nat",
        ["network/hpc", "network-anew/hpc", *PLUGS],
    ),
    "a lease removed": (remove_lease, UNKNOWN, ["network-hosts/hpc"]),
    "a name removed while it runs": (remove_name, UNKNOWN, ["network-hosts/hpc"]),
    "undefined while it runs": (
        lambda home: virsh(home.host, "net-undefine", "hpc"),
        "its persistent definition is gone",
        ["network/hpc"],
    ),
    "dnsmasq killed": (
        kill_dnsmasq,
        "its DHCP and DNS server is not running",
        ["network-dhcp/hpc"],
    ),
}


@pytest.mark.fault("F56", "redefined, hosts removed, undefined, dnsmasq killed")
@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_was_changed_is_said_to_be_and_is_made_as_it_was(
    home: TinyHome, change: str
) -> None:
    make, told, made = CHANGES[change]
    before = pids_inside(home.host, "qemu-system-x86")
    make(home)
    assert any(problem.startswith(told) for problem in troubles(home)[0]), troubles(home)
    assert steps(home) == made
    check_mended(home)
    assert pids_inside(home.host, "qemu-system-x86") == before


@pytest.mark.fault("F56", "the mending of a changed network fails in the middle")
@pytest.mark.fault("F46", "the mending of a changed network fails in the middle")
@pytest.mark.parametrize("key", ["network/hpc", "network-anew/hpc", "network-hosts/hpc", PLUGS[0]])
def test_a_mending_that_fails_is_ended_by_the_next_start(home: TinyHome, key: str) -> None:
    before = pids_inside(home.host, "qemu-system-x86")
    redefine(home, *OTHER_RANGE)
    failed = home.call("hpc", "start", fail={key: ["after", "OSError"]})
    assert failed.code == 4, failed.said
    steps(home)
    check_mended(home)
    assert pids_inside(home.host, "qemu-system-x86") == before


@pytest.mark.fault("F44", "another's guest runs on our network when that must be restarted")
def test_a_network_on_which_others_run_is_not_restarted_under_them(home: TinyHome) -> None:
    redefine(home, "<forward mode='nat'/>", "")
    with home.client() as client:
        start_tiny_guest(client, render_tiny_guest(network="hpc"))
        refused = home.call("hpc", "start")
        assert refused.code == 4, refused.said
        assert "the network hpc was changed, and VMs of other users run on it" in refused.err
        assert "tiny" in refused.err
        remove_tiny_guest(client)
        states = {one.name: one.state for one in client.list_domains()}
        assert [states[f"hpc-{name}"] for name in NODES] == [VmState.RUNNING] * len(NODES)
    steps(home)
    check_mended(home)


@pytest.mark.fault("F60", "nodes added, and the start that adds them fails first")
def test_nodes_that_come_later_are_known_to_the_network(home: TinyHome) -> None:
    file = home.file("hpc")
    text = file.read_text()
    before = state_of(home)
    try:
        file.write_text(text.replace("count: 2", "count: 3"))
        failed = home.call("hpc", "start", fail={"boot/hpc-compute-03": ["before", "OSError"]})
        assert failed.code == 4, failed.said
        after = state_of(home)
        assert (after.nodes, after.network) == (before.nodes, before.network)
        assert after.config_digest == "", "the nodes that ran were told of it"
        assert "compute-03" not in virsh(home.host, "net-dumpxml", "hpc")
        assert "network-hosts/hpc" in steps(home)
        state = state_of(home)
        assert state.find_node("compute-03") is not None
        with home.client() as client:
            seen = client.find_network(state.network.uuid)
        assert seen is not None
        for xml in (seen.xml, seen.defined_xml):
            assert read_network_facts(xml) == facts_of(define_network(state))
        assert steps(home) == []
        assert troubles(home) == ([], {})
        check_named(home)
    finally:
        file.write_text(text)


@pytest.mark.fault("F57", "sysctl -w net.ipv4.ip_forward=0 inside")
def test_forwarding_that_is_off_is_said_and_set_right(home: TinyHome) -> None:
    run(home.host.enter(["sysctl", "-qw", "net.ipv4.ip_forward=0"]))
    told = "IPv4 forwarding is off, so guests reach no other network"
    assert troubles(home) == ([told], {})
    assert steps(home) == ["network-uplink/hpc"]
    check_mended(home)


@pytest.mark.fault("F57", "nft flush ruleset inside")
@pytest.mark.fault("H15", "nft flush ruleset inside, the bridge there or deleted as well")
@pytest.mark.parametrize("bridge", ["there", "deleted"])
def test_a_firewall_that_was_flushed_is_said_and_made_again(home: TinyHome, bridge: str) -> None:
    run(home.host.enter(["nft", "flush", "ruleset"]))
    told = "its firewall rules are gone: guests reach no other network until libvirtd is restarted"
    assert troubles(home) == ([told], {})
    made = ["network-uplink/hpc"]
    if bridge == "deleted":
        ip(home, "link", "delete", state_of(home).network.bridge)
        made += ["network-anew/hpc", *PLUGS]
    before = pids_inside(home.host, "qemu-system-x86")
    assert steps(home) == made
    check_mended(home)
    assert pids_inside(home.host, "qemu-system-x86") == before


def ip(home: TinyHome, *words: str) -> None:
    run(home.host.enter(["ip", *words]))


BRIDGES = {
    "deleted": (["link", "delete"], "is gone", OFF_NETWORK),
    "down": (["link", "set", "down", "dev"], "is down", {}),
    "without its address": (["addr", "flush", "dev"], "has lost its address", {}),
}


@pytest.mark.fault("H15", "the bridge is deleted, set down, or loses its address")
@pytest.mark.parametrize("how", BRIDGES)
def test_a_bridge_that_is_not_as_libvirt_says_is_named_and_made_anew(
    home: TinyHome, how: str
) -> None:
    words, told, off = BRIDGES[how]
    before = pids_inside(home.host, "qemu-system-x86")
    bridge = state_of(home).network.bridge
    ip(home, *words, bridge)
    [problem], nodes = troubles(home)
    assert problem.startswith(f"its bridge {bridge} {told}")
    assert problem.endswith("nodes cannot reach each other; to repair it: ai-how hpc start")
    assert nodes == off
    assert steps(home) == ["network-anew/hpc", *PLUGS]
    check_mended(home)
    assert pids_inside(home.host, "qemu-system-x86") == before


@pytest.mark.fault("H15", "the bridge is deleted, and libvirtd restarted: its dnsmasq is left")
def test_what_a_libvirtd_without_a_bridge_left_is_in_nobodys_way(home: TinyHome) -> None:
    ip(home, "link", "delete", state_of(home).network.bridge)
    home.host.restart_daemon()
    assert troubles(home)[0] == ["it is down, but VMs are running"]
    assert steps(home) == ["network-up/hpc", *PLUGS]
    check_mended(home)


@pytest.mark.fault("H15", "the network is down, and its bridge there with ports")
def test_a_bridge_that_a_network_left_is_removed_and_made_anew(home: TinyHome) -> None:
    bridge = state_of(home).network.bridge
    mac = networks(home).links()[bridge].mac
    virsh(home.host, "net-destroy", "hpc")
    ip(home, "link", "add", bridge, "address", mac, "type", "bridge")
    assert troubles(home)[0] == ["it is down, but VMs are running"]
    assert steps(home) == ["network-up/hpc", *PLUGS]
    check_mended(home)


def tap_of(home: TinyHome, node: str) -> str:
    with home.client() as client:
        xml = client.domain_xml(state_of(home).get_node(node).uuid)
    found = re.search("<target dev='(vnet[0-9]+)'/>", xml)
    assert found is not None
    return found[1]


@pytest.mark.fault("H15", "a guest's tap is set down")
def test_an_interface_that_is_down_is_set_up(home: TinyHome) -> None:
    tap = tap_of(home, "compute-02")
    ip(home, "link", "set", "down", "dev", tap)
    assert troubles(home) == ([], {"compute-02": [f"its network interface {tap} is down"]})
    assert steps(home) == ["plug/hpc-compute-02"]
    check_mended(home)


@pytest.mark.fault("H15", "a guest's tap is deleted")
def test_an_interface_that_was_deleted_is_named_and_a_reboot_of_its_node_gives_another(
    home: TinyHome,
) -> None:
    tap = tap_of(home, "compute-02")
    ip(home, "link", "delete", tap)
    again = "ai-how hpc stop compute-02 && ai-how hpc start compute-02"
    told = f"its network interface {tap} was deleted; to create a new one: {again}"
    assert troubles(home) == ([], {"compute-02": [told]})
    refused = home.call("hpc", "start")
    assert refused.code == 3, refused.said
    assert f"compute-02 has lost its network interface: {tap} was deleted" in refused.err
    stopped = home.call("hpc", "stop", "compute-02")
    assert stopped.code == 0, stopped.said
    assert "boot/hpc-compute-02" in steps(home)
    check_mended(home)
