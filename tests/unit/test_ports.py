"""Ports of this host that lead to ports of nodes: who listens, and until when."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from ai_how.clusters.plans.ports import check_ports, with_ports
from ai_how.errors import HostError
from ai_how.host import port_server
from ai_how.host.port_server import Target, Way
from ai_how.host.ports import (
    Port,
    ServedPorts,
    WayIn,
    close_ports,
    find_ports,
    listen,
    open_ports,
    place_of,
)
from ai_how.plan.step import Plan
from ai_how.process import run
from ai_how.state.paths import ClusterPaths, Roots, default_roots
from ai_how.vm_management.steps.ports import OpenPorts
from ai_how.waiting import Deadline, wait_until
from sockets import free_port

LARGE = os.urandom(3_000_000)
HERE = WayIn()


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return default_roots(tmp_path / "state")


@pytest.fixture
def paths(roots: Roots) -> Iterator[ClusterPaths]:
    there = roots.cluster("demo")
    there.root.mkdir(parents=True)
    yield there
    close_ports(there)


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back all that it got."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def serve(server: socket.socket) -> None:
    while True:
        try:
            line, _ = server.accept()
        except OSError:
            return
        with line:
            line.sendall(read_all(line))


def read_all(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65536), b""))


def port_to(node_port: int) -> Port:
    return Port("controller", node_port, "127.0.0.1", free_port(), "127.0.0.1")


def sent(port: Port, data: bytes) -> bytes:
    with socket.create_connection((port.address, port.host_port), timeout=30) as line:
        Thread(target=send, args=(line, data), daemon=True).start()
        return read_all(line)


def send(line: socket.socket, data: bytes) -> None:
    line.sendall(data)
    line.shutdown(socket.SHUT_WR)


def is_refused(port: Port) -> bool:
    try:
        with socket.create_connection((port.address, port.host_port), timeout=30):
            return False
    except ConnectionRefusedError:
        return True


@contextmanager
def opened(paths: ClusterPaths, *ports: Port) -> Iterator[ServedPorts]:
    open_ports(paths, HERE, ports)
    there = find_ports(paths)
    assert there is not None
    assert there.is_current
    yield there
    close_ports(paths)


def test_all_that_is_sent_comes_back_and_the_port_is_closed_in_the_end(
    paths: ClusterPaths, echo: int
) -> None:
    port = port_to(echo)
    with opened(paths, port) as there:
        assert there.ports == (port,)
        assert sent(port, LARGE) == LARGE
        open_ports(paths, HERE, [port])
        same = find_ports(paths)
        assert same is not None
        assert same.pid == there.pid, "what is open stays as it is"
        other = port_to(echo)
        open_ports(paths, HERE, [other])
        assert is_refused(port)
        assert sent(other, b"again") == b"again"
    assert is_refused(other)
    assert not paths.ports.exists()


def test_a_connection_to_a_node_that_is_off_is_reset(paths: ClusterPaths) -> None:
    # Nothing is sent: a reset is told once, to whichever of two threads asks first.
    with opened(paths, port := port_to(free_port())), pytest.raises(ConnectionResetError):  # noqa: SIM117
        with socket.create_connection((port.address, port.host_port), timeout=30) as line:
            read_all(line)


def test_a_killed_process_is_seen_and_replaced(paths: ClusterPaths, echo: int) -> None:
    with opened(paths, port := port_to(echo)) as there:
        os.kill(there.pid, signal.SIGKILL)
        wait_until(
            lambda: (seen := find_ports(paths)) and not seen.is_current,
            Deadline.after(60),
            "the end of the process",
        )
        assert is_refused(port)
        step = with_ports(Plan("start", ()), (port,), find_ports(paths), host=None, cluster="demo")
        assert [one.describe() for one in step.steps] == [f"open the ports {port}"]
        open_ports(paths, HERE, [port])
        assert sent(port, b"again") == b"again"


def test_the_process_ends_if_the_directory_of_its_cluster_is_removed(
    paths: ClusterPaths, echo: int
) -> None:
    with opened(paths, port := port_to(echo)):
        paths.ports.unlink()
        wait_until(lambda: is_refused(port), Deadline.after(60), "the end of the process")


def test_a_process_whose_host_has_ended_is_not_started(paths: ClusterPaths, echo: int) -> None:
    with pytest.raises(HostError, match="ended"):
        open_ports(paths, WayIn((), (os.getpid(), 1)), [port := port_to(echo)])
    assert is_refused(port)


def test_a_port_that_is_in_use_is_a_plain_error_and_opens_no_other(
    paths: ClusterPaths, echo: int
) -> None:
    port = port_to(echo)
    taken = Port("controller", 80, "127.0.0.1", echo, "127.0.0.1")
    with pytest.raises(HostError) as caught:
        open_ports(paths, HERE, [port, taken])
    assert caught.value.brief == f"127.0.0.1:{echo} is in use on this host"
    assert is_refused(port)


@pytest.mark.parametrize(
    ("address", "said"),
    [("192.0.2.1", "192.0.2.1 is not an address of this host"), ("2001:db8::1", "2001:db8::1 is")],
)
def test_an_address_of_another_host_is_refused(address: str, said: str) -> None:
    with pytest.raises(HostError, match=said):
        listen(address, 0)


def test_an_ordinary_user_is_told_where_their_ports_begin() -> None:
    code = "from ai_how.host.ports import listen; listen('127.0.0.1', 7)"
    drop = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
    user = [*drop, "--ambient-caps=-all"] if os.geteuid() == 0 else []
    done = run([*user, sys.executable, "-c", code], check=False)
    assert "only root may listen on 127.0.0.1:7; your ports begin at 1024" in done.stderr


def test_places_are_written_as_in_urls() -> None:
    assert place_of("127.0.0.1", 80) == "127.0.0.1:80"
    assert place_of("::1", 80) == "[::1]:80"


def test_the_port_of_another_cluster_is_refused_by_its_name(
    roots: Roots, paths: ClusterPaths, echo: int
) -> None:
    wanted = port_to(echo)
    plan = with_ports(Plan("start", ()), (wanted,), None, host=None, cluster="demo")
    check_ports(plan, roots, "demo")
    other = roots.cluster("other")
    other.root.mkdir()
    with opened(other, wanted), pytest.raises(HostError) as caught:
        check_ports(plan, roots, "demo")
    assert caught.value.brief == f"{wanted.place} is a port of the cluster other"
    assert "controller" in (caught.value.details or "")
    with opened(paths, wanted) as there:
        changed = (wanted, port_to(echo))
        plan = with_ports(Plan("start", ()), changed, there, host=None, cluster="demo")
        check_ports(plan, roots, "demo")


def test_a_plan_opens_ports_last_and_only_if_they_are_not_open() -> None:
    port = port_to(80)
    wanted = Plan("start", (OpenPorts("demo", (port,)),))
    there = ServedPorts((port,), 1, None)
    same = with_ports(wanted, (port,), there, host=None, cluster="demo")
    assert same == wanted
    closed = with_ports(Plan("start", ()), (), there, host=None, cluster="demo")
    assert [one.describe() for one in closed.steps] == [f"close the ports {port}"]
    stale = replace(there, is_current=False)
    [forgotten] = with_ports(Plan("start", ()), (), stale, host=None, cluster="demo").steps
    assert forgotten.describe() == "close the ports"
    moved = with_ports(Plan("start", ()), (port,), there, host=(1, 1), cluster="demo")
    assert [one.describe() for one in moved.steps] == [f"open the ports {port}"]


def test_a_port_leads_to_the_next_node_when_the_first_refuses(
    paths: ClusterPaths, echo: int
) -> None:
    port = replace(port_to(echo), node_address="127.0.0.2", spare_addresses=("127.0.0.1",))
    with opened(paths, port) as there:
        assert there.ports == (port,), "read as it was written"
        for _ in range(2):
            assert sent(port, b"hello") == b"hello"


def test_a_node_that_is_silent_is_passed_over_once(
    echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_server, "SPARE_S", 0.3)
    # The kernel answers to no more connections than the server may leave waiting.
    with socket.create_server(("127.0.0.2", echo), backlog=0), ExitStack() as waiting:
        for _ in range(2):
            line = waiting.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(("127.0.0.2", echo))
        way = Way(Target(("127.0.0.2", "127.0.0.1"), echo, "api"))
        begun = time.monotonic()
        way.connect().close()
        assert time.monotonic() - begun >= port_server.SPARE_S
        monkeypatch.setattr(port_server, "SPARE_S", 60.0)
        way.connect().close()
        assert time.monotonic() - begun < port_server.SPARE_S


def test_the_last_node_says_why_none_answers() -> None:
    way = Way(Target(("127.0.0.2", "127.0.0.3"), free_port(), "api"))
    with pytest.raises(ConnectionRefusedError):
        way.connect()
