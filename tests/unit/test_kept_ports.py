"""Ports that a verb opens for a cluster, and that each start opens again."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_seen import seen

from ai_how.clusters.kept_ports import keep_port, openable, read_kept
from ai_how.clusters.manager import ClusterManager
from ai_how.errors import LockedError
from ai_how.host.ports import Port, WayIn, close_ports, find_ports, listen, open_ports
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.roles import Role
from ai_how.state.cluster_state import write_state
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import Roots, default_roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc
from sockets import free_port

ANSWER_S = 30.0


class World:
    """Clusters on the test driver, whose nodes are all on this host's loopback."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.roots: Roots = default_roots(home / "state")

    def cluster(self, name: str) -> ClusterManager:
        paths = self.roots.cluster(name)
        ensure_private_directory(paths.root)
        state = draft_of(read_hpc(name=name), storage=self.home / "storage").state
        nodes = tuple(
            one.model_copy(update={"ip": f"127.0.0.{number}"})
            for number, one in enumerate(state.nodes, 1)
        )
        host = {"host_uri": "test:///default", "nodes": nodes}
        write_state(paths, state.model_copy(update=host))
        return ClusterManager(kind=SLURM, roots=self.roots, name=name)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for name in made.roots.cluster_names():
        close_ports(made.roots.cluster(name))


@pytest.fixture
def is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    on = replace(seen("<domain/>"), state=VmState.RUNNING)
    monkeypatch.setattr(LibvirtClient, "find_domain", lambda client, uuid: on)


def state_of(cluster: ClusterManager) -> ClusterState:
    return cluster.get_state()


def node_of(cluster: ClusterManager) -> NodeState:
    return state_of(cluster).get_node("controller")


def places(cluster: ClusterManager) -> list[tuple[str, int, int]]:
    there = find_ports(cluster.paths)
    assert there is None or there.is_current
    return [(one.node, one.port, one.host_port) for one in (there.ports if there else ())]


def test_a_port_is_open_and_leads_to_the_node(world: World, is_on: None) -> None:
    cluster = world.cluster("demo")
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        port = keep_port(cluster, node_of(cluster), number)
        assert (port.address, port.node, port.port) == ("127.0.0.1", "controller", number)
        assert port.host_port != number, "that is taken"
        with (
            socket.create_connection((port.address, port.host_port)) as line,
            server.accept()[0] as answer,
        ):
            answer.sendall(b"here")
            assert line.recv(4) == b"here"


def test_the_port_of_one_control_plane_leads_to_the_others(world: World, is_on: None) -> None:
    cluster = world.cluster("demo")
    leads = {"role": Role.CONTROLLER}
    first, *others = (
        # Not where the port is opened: it would lead to itself.
        one.model_copy(update={**leads, "ip": f"127.0.0.{number}"})
        for number, one in enumerate(state_of(cluster).nodes, 2)
    )
    write_state(cluster.paths, state_of(cluster).model_copy(update={"nodes": (first, *others)}))
    with socket.create_server((str(others[0].ip), 0)) as server:
        server.settimeout(ANSWER_S)
        port = keep_port(cluster, first, server.getsockname()[1])
        assert port.spare_addresses == tuple(str(one.ip) for one in others)
        with (
            socket.create_connection((port.address, port.host_port), timeout=ANSWER_S) as line,
            server.accept()[0] as answer,
        ):
            answer.sendall(b"here")
            assert line.recv(4) == b"here"
    assert read_kept(cluster.paths, state_of(cluster)) == (port,)


def test_it_keeps_its_number_and_is_not_opened_anew(world: World, is_on: None) -> None:
    cluster, number = world.cluster("demo"), free_port()
    port = keep_port(cluster, node_of(cluster), number)
    assert port.host_port == number
    first = find_ports(cluster.paths)
    assert keep_port(cluster, node_of(cluster), number) == port
    assert find_ports(cluster.paths) == first, "the same process serves it"
    close_ports(cluster.paths)
    assert keep_port(cluster, node_of(cluster), number) == port
    assert read_kept(cluster.paths, state_of(cluster)) == (port,)


def test_a_number_that_another_program_took_is_replaced(world: World, is_on: None) -> None:
    cluster, number = world.cluster("demo"), free_port()
    first = keep_port(cluster, node_of(cluster), number)
    close_ports(cluster.paths)
    with listen(first.address, first.host_port):
        second = keep_port(cluster, node_of(cluster), number)
    assert second.host_port != first.host_port
    assert read_kept(cluster.paths, state_of(cluster)) == (second,)


def test_what_the_file_exposes_stays_open_beside_it(world: World, is_on: None) -> None:
    cluster = world.cluster("demo")
    exposed = Port("compute-01", 80, "127.0.0.1", free_port(), "127.0.0.2")
    open_ports(cluster.paths, WayIn(), (exposed,))
    keep_port(cluster, node_of(cluster), 22)
    other = keep_port(cluster, node_of(cluster), 23)
    assert [one[:2] for one in places(cluster)] == [
        ("compute-01", 80),
        ("controller", 22),
        ("controller", 23),
    ]
    assert keep_port(cluster, node_of(cluster), 23) == other


def test_a_node_that_is_off_has_its_port_with_the_next_start(world: World) -> None:
    cluster = world.cluster("demo")
    port = keep_port(cluster, node_of(cluster), free_port())
    assert places(cluster) == []
    assert read_kept(cluster.paths, state_of(cluster)) == (port,)


def test_two_clusters_keep_two_numbers_though_both_are_off(world: World) -> None:
    number = free_port()
    kept = [keep_port(one, node_of(one), number) for one in map(world.cluster, ("one", "two"))]
    assert kept[0].host_port == number != kept[1].host_port


def test_a_start_opens_what_it_can_and_tells_the_others(world: World) -> None:
    cluster = world.cluster("demo")
    mine = keep_port(cluster, node_of(cluster), free_port())
    said: list[str] = []
    assert openable([mine], [], None, said.append) == (mine,)
    assert said == []
    with listen(mine.address, mine.host_port):
        assert openable([mine], [], None, said.append) == ()
    exposed = replace(mine, node="compute-01")
    assert openable([mine], [exposed], None, said.append) == ()
    place = f"127.0.0.1:{mine.host_port} is in use"
    assert said == [f"{place}: controller:{mine.port} is not reached there now"] * 2


def test_the_port_of_a_node_that_is_gone_is_forgotten(world: World) -> None:
    cluster = world.cluster("demo")
    keep_port(cluster, node_of(cluster), free_port())
    state = state_of(cluster)
    assert read_kept(cluster.paths, state.model_copy(update={"nodes": state.nodes[1:]})) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ports": [{}]}', '{"ports": 7}'])
def test_a_damaged_file_keeps_nothing(world: World, text: str) -> None:
    cluster = world.cluster("demo")
    cluster.paths.kept_ports.write_text(text)
    assert read_kept(cluster.paths, state_of(cluster)) == ()
    assert keep_port(cluster, node_of(cluster), free_port())


def test_it_waits_for_no_verb_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_how.clusters.kept_ports._WAIT_S", 0.0)
    cluster = world.cluster("demo")
    with held_lock(cluster.paths.lock, doing="hpc start"), pytest.raises(LockedError):
        keep_port(cluster, node_of(cluster), 22)
