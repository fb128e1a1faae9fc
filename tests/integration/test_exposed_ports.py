"""Ports that a cluster exposes: open while it is up, on the real embedded host.

The guests have no system. An address of theirs is given to the loopback device inside, where a
server of the test answers.
"""

import json
import os
import re
import signal
import socket
import subprocess  # noqa: TID251  what serves and forwards is spoken to while it runs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network

import pytest

from ai_how.host.ports import find_ports
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from daemons import supervisor_of
from leaks import pids_inside, uplink_of
from sockets import SERVER, free_port
from tiny_cluster import Ended, TinyHome, state_of

pytestmark = pytest.mark.libvirt

SUBNET = IPv4Network("10.77.41.0/24")
PATIENCE_S = 120


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    """No cluster yet, and a cluster file that a test may change."""
    file = tiny_home.file("hpc")
    text = file.read_text()
    network = f"name: hpc\n    network: {{subnet: {SUBNET}}}\n"
    file.write_text(text.replace("name: hpc\n", network))
    yield tiny_home
    file.write_text(text)
    gone = tiny_home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said
    assert find_ports(tiny_home.paths("hpc")) is None


def expose(home: TinyHome, *host_ports: int) -> None:
    """Have the file ask for port 8000 of the controller at these ports of this host."""
    file = home.file("hpc")
    text = re.sub(r"    expose:.*\n", "", file.read_text())
    entries = (f"{{node: controller, port: 8000, host_port: {one}}}" for one in host_ports)
    file.write_text(f"{text}    expose: [{', '.join(entries)}]\n")


def start(home: TinyHome, **order: object) -> Ended:
    ended = home.call("hpc", "start", **order)
    assert ended.code == 0, ended.said
    return ended


@contextmanager
def serving(home: TinyHome) -> Iterator[None]:
    """A server at port 8000 of the controller's address."""
    address = str(state_of(home).get_controller().ip)
    run(home.host.enter(["ip", "address", "add", f"{address}/32", "dev", "lo"]))
    argv = home.host.enter([sys.executable, "-c", SERVER, address])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        try:
            yield
        finally:
            server.kill()
            run(home.host.enter(["ip", "address", "del", f"{address}/32", "dev", "lo"]))


def answer(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
        line.sendall(b"hello")
        return line.recv(100)


def is_refused(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) != 0


def ports_of(home: TinyHome) -> list[dict[str, object]]:
    return list(json.loads(home.call("hpc", "status", "--json").out)["ports"])


def test_a_port_is_open_from_start_to_stop(home: TinyHome) -> None:
    one, two = free_port(), free_port()
    expose(home, one)
    ended = start(home)
    assert f"open: 127.0.0.1:{one} -> controller:8000" in ended.out
    with serving(home):
        assert answer(one) == b"HELLO"
        # What the uplink and libvirtd do to it: nothing.
        for pid in (*uplink_of(supervisor_of(home.host)), *pids_inside(home.host, "libvirtd")):
            os.kill(pid, signal.SIGKILL)
        assert answer(one) == b"HELLO"
        expose(home, one, two)
        assert "open the ports" in home.call("hpc", "start", "--dry-run").out
        start(home)
        assert [answer(port) for port in (one, two)] == [b"HELLO"] * 2
        assert [seen["is_open"] for seen in ports_of(home)] == [True, True]
        expose(home, two)
        start(home)
        assert is_refused(one)
        assert answer(two) == b"HELLO"
    stopped = home.call("hpc", "stop")
    assert stopped.code == 0, stopped.said
    assert is_refused(two)
    assert ports_of(home) == []


def test_a_port_that_is_in_use_is_named_before_the_first_change(home: TinyHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expose(home, port)
        ended = home.call("hpc", "start")
    assert ended.code == 3, ended.said
    assert f"127.0.0.1:{port} is in use on this host" in ended.err
    assert "hpc exposes controller:8000 there (expose)" in ended.err
    assert not home.paths("hpc").state.exists()
    assert ended.boundaries == ()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_nothing_listens_after_a_start_that_failed(home: TinyHome, moment: str) -> None:
    expose(home, port := free_port())
    ended = home.call("hpc", "start", fail={"ports/hpc": [moment, "late"]})
    assert ended.code == 4, ended.said
    assert is_refused(port)


def test_a_change_that_failed_leaves_the_former_ports_open(home: TinyHome) -> None:
    one, two = free_port(), free_port()
    expose(home, one)
    start(home)
    expose(home, two)
    ended = home.call("hpc", "start", fail={"ports/hpc": ["after", "late"]})
    assert ended.code == 4, ended.said
    assert not is_refused(one)
    assert is_refused(two)


def test_a_start_that_was_killed_leaves_nothing_that_listens_once_it_is_recovered(
    home: TinyHome,
) -> None:
    expose(home, port := free_port())
    killed = home.call("hpc", "start", at_any=[["before done", "ports/hpc"]], act="kill")
    assert killed.code == -signal.SIGKILL, killed.said
    stopped = home.call("hpc", "stop")
    assert stopped.code == 0, stopped.said
    assert is_refused(port)


def test_the_ports_end_with_the_host_and_come_back_with_the_next_start(home: TinyHome) -> None:
    expose(home, port := free_port())
    start(home)
    supervisor = home.host.find_supervisor()
    assert supervisor is not None
    there = find_ports(home.paths("hpc"))
    assert there is not None
    os.kill(there.pid, signal.SIGKILL)
    wait_until(lambda: is_refused(port), Deadline.after(PATIENCE_S), "the end of the process")
    assert [seen["is_open"] for seen in ports_of(home)] == [False]
    assert "is not open; to open it: ai-how" in home.call("hpc", "status").out
    start(home)
    assert not is_refused(port)


@contextmanager
def forwarding(home: TinyHome, *words: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`hpc forward` that listens, and its first port."""
    argv = [sys.executable, "-m", "ai_how", *home.argv("hpc", "forward", "--json", *words)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forward:  # noqa: S603
        assert forward.stdout is not None
        decoder, text = json.JSONDecoder(), ""
        while "}\n" not in text or text.count("{") != text.count("}"):
            line = forward.stdout.readline()
            assert line, "it has ended"
            text += line
        told = decoder.decode(text)
        try:
            yield forward, told["ports"][0]["host_port"]
        finally:
            forward.kill()


def test_forward_goes_on_until_it_is_interrupted_and_leaves_no_process(home: TinyHome) -> None:
    start(home)
    for number, code in ((signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)):
        with forwarding(home, "0:controller:8000") as (forward, port):
            with serving(home):
                assert answer(port) == b"HELLO"
            forward.send_signal(number)
            assert forward.wait(PATIENCE_S) == code
            wait_until(lambda p=port: is_refused(p), Deadline.after(PATIENCE_S), "its child's end")
