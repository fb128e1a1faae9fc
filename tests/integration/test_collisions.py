"""Names, links, addresses and ports that others have already: refused or avoided, never touched."""

import os
import re
import signal
import subprocess  # noqa: TID251  what holds a port is spoken to while it runs
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ai_how.process import run
from ai_how.state.cluster_state import read_state
from ai_how.waiting import Deadline, wait_until
from decoys import BRIDGE, virsh
from leaks import Lines, difference, files, look_at_objects
from tiny_cluster import Ended, TinyHome
from tiny_guest import TINY, remove_tiny_guest, render_tiny_guest, start_tiny_guest

pytestmark = pytest.mark.libvirt


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    """No cluster yet, and a cluster file that a test may change."""
    file = tiny_home.file("hpc")
    text = file.read_text()
    yield tiny_home
    file.write_text(text)
    gone = tiny_home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said


def look(home: TinyHome) -> Lines:
    """All that a start could leave; images are every cluster's."""
    disks = home.roots.embedded_storage.disks
    paths = [*disks.glob("*"), *(Path(one) for one in files(disks))]
    return look_at_objects(home.host) | {f"disk: {path}" for path in paths}


def ask_for(home: TinyHome, network: str) -> None:
    file = home.file("hpc")
    file.write_text(file.read_text().replace("name: hpc\n", f"name: hpc\n    network: {network}\n"))


def ip(home: TinyHome, *words: str) -> None:
    run(home.host.enter(["ip", *words]))


def refused(home: TinyHome, *, code: int, told: str) -> Ended:
    """A start that fails and says so, and leaves nothing."""
    before = look(home)
    ended = home.call("hpc", "start")
    assert ended.code == code, ended.said
    assert told in ended.err, ended.said
    assert difference(before, look(home)) == ""
    assert read_state(home.paths("hpc")) is None
    return ended


def start_and_meet(home: TinyHome, key: str, act: Callable[[], None]) -> Ended:
    """A start in the middle of which, before that step, somebody does something."""
    pids: list[int] = []
    ended = home.begin(
        "hpc", "start", at_any=[["before intent", key]], act="stop", on_pid=pids.append
    )
    stat = Path(f"/proc/{pids[0]}/stat")
    wait_until(lambda: ") T " in stat.read_text(), Deadline.after(120), f"the start at {key}")
    try:
        act()
    finally:
        os.kill(pids[0], signal.SIGCONT)
        done = ended()
    return done


@contextmanager
def link(home: TinyHome, name: str, *address: str) -> Iterator[None]:
    ip(home, "link", "add", name, "type", "bridge")
    try:
        for one in address:
            ip(home, "addr", "add", one, "dev", name)
        ip(home, "link", "set", name, "up")
        yield
    finally:
        ip(home, "link", "delete", name)


@pytest.mark.fault("F40", "a foreign VM of a node's name, running and off")
@pytest.mark.parametrize("is_on", [True, False])
def test_a_foreign_vm_of_our_name_is_refused_and_left(home: TinyHome, is_on: bool) -> None:
    xml = render_tiny_guest().replace("<name>tiny<", "<name>hpc-compute-01<")
    with home.client() as client:
        start_tiny_guest(client, xml)
        if not is_on:
            client.destroy_domain(TINY)
        before = client.get_domain(TINY)
        refused(
            home,
            code=3,
            told="a VM named hpc-compute-01 exists, but does not belong to this cluster",
        )
        assert client.get_domain(TINY) == before
        remove_tiny_guest(client)


@pytest.mark.fault("F41", "the bridge that the file names is a link of others")
def test_a_bridge_that_is_anothers_is_refused(home: TinyHome) -> None:
    ask_for(home, f"{{bridge: {BRIDGE}}}")
    refused(home, code=3, told=f"the bridge name {BRIDGE} is in use on this host")


@pytest.mark.fault("F41", "a link of the bridge's name comes up before the network is started")
def test_a_link_that_takes_the_bridges_name_in_between_is_left(home: TinyHome) -> None:
    ask_for(home, "{bridge: ahmine}")
    before = look(home)
    ended = start_and_meet(
        home, "network-up/hpc", lambda: ip(home, "link", "add", "ahmine", "type", "bridge")
    )
    assert ended.code == 4, ended.said
    assert "ahmine" in ended.err
    assert difference(before, look(home)) == "left behind: link inside: ahmine"
    ip(home, "link", "delete", "ahmine")


@pytest.mark.fault("F41", "a network of our name; files and a link where our disks would be")
@pytest.mark.parametrize("what", ["network", "file", "link"])
def test_what_stands_where_ours_would_be_is_refused_and_left(home: TinyHome, what: str) -> None:
    top = home.roots.embedded_storage.cluster("hpc")
    top.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if what == "network":
        xml = "<network><name>hpc</name><bridge name='theirs0'/></network>"
        file = home.root / "theirs.xml"
        file.write_text(xml)
        virsh(home.host, "net-define", str(file))
        refused(
            home, code=3, told="a network named hpc exists, but does not belong to this cluster"
        )
        virsh(home.host, "net-undefine", "hpc")
    elif what == "file":
        top.mkdir(mode=0o711)
        (top / "controller.qcow2").write_text("theirs")
        refused(home, code=3, told="has no mark of ai-how, and is not empty")
        assert (top / "controller.qcow2").read_text() == "theirs"
        (top / "controller.qcow2").unlink()
        top.rmdir()
    else:
        top.symlink_to(home.root)
        refused(home, code=3, told=f"{top} is not a directory")
        assert top.readlink() == home.root
        top.unlink()


@pytest.mark.fault("F41", "a file takes a disk's name before the disk is made")
def test_a_file_that_takes_a_disks_name_in_between_is_left(home: TinyHome) -> None:
    path = home.roots.embedded_storage.disk("hpc", "compute-02")
    before = look(home)
    ended = start_and_meet(home, "disk/hpc-compute-02", lambda: _write_theirs(path))
    assert ended.code == 5, ended.said
    assert f"{path} exists already" in ended.err
    assert path.read_text() == "theirs"
    left = difference(before, look(home)).splitlines()
    assert left
    assert all(str(path.parent) in line for line in left), left
    path.unlink()


def _write_theirs(path: Path) -> None:
    path.parent.mkdir(mode=0o711, exist_ok=True)
    path.write_text("theirs")


TAKEN = {
    "another network": (lambda _home: _nothing(), "10.254.253.0/24", "the libvirt network"),
    "a link": (
        lambda home: link(home, "theirs0", "10.44.0.9/16"),
        "10.44.7.0/24",
        "an address of theirs0",
    ),
    "Docker's bridge": (
        lambda home: link(home, "docker0", "172.17.0.1/16"),
        "172.17.5.0/24",
        "an address of docker0",
    ),
    "a route": (
        lambda home: _route(home, "10.45.0.0/20"),
        "10.45.1.0/24",
        "a route through theirs0",
    ),
}


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _route(home: TinyHome, subnet: str) -> Iterator[None]:
    with link(home, "theirs0"):
        ip(home, "route", "add", subnet, "dev", "theirs0")
        yield


@pytest.mark.fault("F42", "the asked subnet is another network's, a link's, Docker's, a route's")
@pytest.mark.parametrize("who", TAKEN)
def test_a_subnet_that_is_in_use_is_refused_and_who_uses_it_is_named(
    home: TinyHome, who: str
) -> None:
    take, subnet, told = TAKEN[who]
    if who == "another network":
        xml = virsh(home.host, "net-dumpxml", "hpc-2")
        address = re.search(r"<ip address='(\d+\.\d+\.\d+)\.\d+'", xml)
        assert address is not None, xml
        subnet = f"{address[1]}.0/24"
    with take(home):
        ask_for(home, f"{{subnet: {subnet}}}")
        ended = refused(home, code=3, told=f"the subnet {subnet} is in use on this host")
        assert told in ended.err
        assert "set network.subnet to" in ended.err


@pytest.mark.fault("F42", "all of 10.0.0.0/8 is routed elsewhere")
def test_another_subnet_is_chosen_where_one_is_free_to_choose(home: TinyHome) -> None:
    with _route(home, "10.0.0.0/8"):
        ended = home.call("hpc", "start")
        assert ended.code == 0, ended.said
        state = read_state(home.paths("hpc"))
        assert state is not None
        assert not state.network.subnet.overlaps(IPv4Network("10.0.0.0/8"))


@pytest.mark.fault("F42", "a link takes the subnet before the network is started")
def test_a_subnet_that_is_taken_in_between_leaves_no_definition(home: TinyHome) -> None:
    ask_for(home, "{subnet: 10.46.0.0/24}")
    before = look(home)
    with link(home, "theirs0"):
        ended = start_and_meet(
            home,
            "network-up/hpc",
            lambda: ip(home, "addr", "add", "10.46.0.200/24", "dev", "theirs0"),
        )
    assert ended.code == 4, ended.said
    assert "theirs0" in ended.err
    assert difference(before, look(home)) == ""


# It comes up beside the dnsmasq of others, and lets nobody up beside itself.
HOLDER = """
import socket, sys
holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
holder.bind(("", int(sys.argv[1])))
holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
print("bound", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_port(home: TinyHome, port: int) -> Iterator[None]:
    """A program inside that has a UDP port on every address."""
    argv = home.host.enter([sys.executable, "-c", HOLDER, str(port)])
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as holder:  # noqa: S603
        try:
            assert holder.stdout.readline() == "bound\n"
            yield
        finally:
            holder.stdin.close()


@pytest.mark.fault("F43", "a program inside is bound to 0.0.0.0:53, or to 0.0.0.0:67")
@pytest.mark.parametrize("port", [53, 67])
def test_a_port_that_is_taken_is_named_and_nothing_is_left(home: TinyHome, port: int) -> None:
    with held_port(home, port):
        told = f"the network hpc cannot start: port {port} in use on this host"
        ended = refused(home, code=4, told=told)
        assert "Address already in use" in ended.err
    again = home.call("hpc", "start")
    assert again.code == 0, again.said


@pytest.mark.fault("F44", "a foreign VM on our network by its name, or by its bridge")
@pytest.mark.parametrize("by", ["network", "bridge"])
def test_a_network_that_a_foreign_vm_uses_stays_until_it_is_free(home: TinyHome, by: str) -> None:
    assert home.call("hpc", "start").code == 0
    state = read_state(home.paths("hpc"))
    assert state is not None
    xml = render_tiny_guest(network="hpc")
    if by == "bridge":
        xml = xml.replace("type='network'", "type='bridge'")
        xml = xml.replace("network='hpc'", f"bridge='{state.network.bridge}'")
    with home.client() as client:
        start_tiny_guest(client, xml)
        before = client.get_domain(TINY)
        left = home.call("hpc", "destroy", "--force")
        assert left.code in (4, 5), left.said
        assert "the network hpc is used by VMs that are not of this cluster" in left.err
        assert "tiny" in left.err
        assert client.get_domain(TINY) == before
        assert client.find_network(state.network.uuid) is not None
        remove_tiny_guest(client)
    gone = home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said
    assert not home.paths("hpc").state.exists()


@pytest.mark.fault("F44", "a foreign file in the directory of our disks")
def test_a_foreign_file_among_our_disks_stays_and_is_named(home: TinyHome) -> None:
    assert home.call("hpc", "start").code == 0
    theirs = home.roots.embedded_storage.cluster("hpc") / "theirs.qcow2"
    theirs.write_text("theirs")
    left = home.call("hpc", "destroy", "--force")
    assert left.code in (4, 5), left.said
    assert "contains files that ai-how did not create" in left.err
    assert "theirs.qcow2" in left.err
    assert theirs.read_text() == "theirs"
    theirs.unlink()
    gone = home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said
    assert not theirs.parent.exists()


@pytest.mark.fault("F45", "a foreign VM has the UUID of our node, and another name")
def test_our_uuid_under_another_name_is_refused_and_left(home: TinyHome) -> None:
    assert home.call("hpc", "start").code == 0
    assert home.call("hpc", "stop").code == 0
    state = read_state(home.paths("hpc"))
    assert state is not None
    uuid = state.get_node("compute-01").uuid
    with home.client() as client:
        client.undefine_domain(uuid, snapshots_too=False)
        client.define_domain(render_tiny_guest().replace(str(TINY), str(uuid)))
        before = client.get_domain(uuid)
        for words in (["start"], ["destroy", "--force"]):
            ended = home.call("hpc", *words)
            assert ended.code == 3, ended.said
            assert (
                "the VM tiny has the UUID of a node, but not the mark of this cluster" in ended.err
            )
            assert client.get_domain(uuid) == before
        client.undefine_domain(uuid, snapshots_too=False)


@pytest.mark.fault("F45", "clusters whose names differ by a hyphen, or extend each other")
def test_clusters_whose_names_look_alike_share_nothing(home: TinyHome) -> None:
    names = ("hpc", "hpc1", "hpc-1")
    file = home.file("hpc").read_text().replace("count: 2", "count: 1")
    for name in names:
        home.file(name).write_text(file.replace("name: hpc", f"name: {name}"))
    started = home.crowd(*([["hpc", "start"]] * 3), names=names)
    try:
        assert [one.code for one in started] == [0, 0, 0], [one.said for one in started]
        states = [read_state(home.paths(name)) for name in names]
        for what in (
            {one.network.bridge for one in states},
            {one.network.subnet for one in states},
            {one.network.uuid for one in states},
        ):
            assert len(what) == len(names)
        assert len({node.mac for one in states for node in one.nodes}) == 2 * len(names)
        assert home.call("hpc", "destroy", "--force", name="hpc").code == 0
        with home.client() as client:
            there = {one.name for one in client.list_domains()}
        assert {"hpc1-controller", "hpc1-compute-01", "hpc-1-controller"} <= there
        assert "hpc-controller" not in there
    finally:
        for name in names:
            assert home.call("hpc", "destroy", "--force", name=name).code == 0
            if name != "hpc":
                home.file(name).unlink()
