"""Which name servers a host asks, what is said of them, and what a host keeps to be seen inside."""

import socket
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.errors import ToolError
from ai_how.host import name_proxy, outside
from ai_how.host.checks import Status
from ai_how.host.facts import HostFacts
from ai_how.host.guest_rules import NO_PASTA, NO_USER_NAMESPACES
from ai_how.host.name_checks import check_names
from ai_how.host.private_world import follow
from ai_how.host.resolver import Resolver, find_servers, read_resolver
from ai_how.host.uplink import NOT_RUNNING
from ai_how.waiting import Deadline, wait_until

STUB = "   1: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000\n"
EVERY = "  22: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000\n"
OTHER_PORT = "   3: 0100007F:0043 00000000:0000 07 00000000:00000000 00:00000000\n"
OF_IPV6 = f"   4: {'0' * 24}01000000:0035 {'0' * 32}:0000 07 00000000:00000000\n"
FACTS = HostFacts(user="me", is_root=False, resolver=Resolver(("10.0.0.1",)))
QUESTION = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x03www\x03org\x00\x00\x01\x00\x01"


def host(root: Path, resolv_conf: str | None, *, udp: str = "", udp6: str = "") -> Resolver:
    for name, text in (("udp", udp), ("udp6", udp6)):
        path = root / "proc/net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"  sl  local_address rem_address\n{text}")
    (root / "etc").mkdir()
    if resolv_conf is not None:
        (root / "etc/resolv.conf").write_text(resolv_conf)
    return read_resolver(root)


def test_every_family_is_read_and_what_is_no_address_is_not():
    lines = ("10.0.0.1", "fe80::1%eth0", "x")
    text = "#nameserver 1.1.1.1\nsearch a\n" + "".join(f"nameserver {one}\n" for one in lines)
    assert find_servers(text) == ["10.0.0.1", "fe80::1%eth0"]


@pytest.mark.parametrize(
    ("server", "udp", "udp6", "is_silent"),
    [
        ("127.0.0.53", STUB, "", False),
        ("127.0.0.53", EVERY, "", False),
        ("127.0.0.53", OTHER_PORT, "", True),
        ("127.0.0.1", STUB, "", True),
        ("127.0.0.1", STUB, OF_IPV6, True),
        ("::1", STUB, OF_IPV6, False),
        ("::1", EVERY, "", True),
        ("10.0.0.1", "", "", False),
    ],
)
def test_a_server_on_loopback_is_silent_where_nobody_listens(
    tmp_path, server, udp, udp6, is_silent
):
    seen = host(tmp_path, f"nameserver {server}\n", udp=udp, udp6=udp6)
    assert seen.servers == (server,)
    assert seen.silent == ((server,) if is_silent else ())


def test_without_a_server_it_is_the_machine_itself(tmp_path):
    assert host(tmp_path, None) == Resolver(("127.0.0.1",), ("127.0.0.1",), has_file=False)


@pytest.mark.parametrize(
    ("changed", "status", "found"),
    [
        ({}, Status.OK, "guests use the name servers of this host: 10.0.0.1"),
        ({"no_uplink": NO_PASTA}, Status.HINT, "no DNS: pasta is not installed"),
        ({"no_uplink": NO_USER_NAMESPACES}, Status.HINT, NO_USER_NAMESPACES),
        ({"no_uplink": NOT_RUNNING}, Status.HINT, "the process of the uplink is not running"),
        ({"resolver": None}, Status.WARNING, "not known"),
        (
            {"resolver": Resolver(("127.0.0.53",), ("127.0.0.53",))},
            Status.WARNING,
            "none: this host uses 127.0.0.53, where no name server listens",
        ),
        (
            {"resolver": Resolver(("127.0.0.53", "10.0.0.1"), ("127.0.0.53",))},
            Status.OK,
            "guests use the name servers of this host: 127.0.0.53, 10.0.0.1",
        ),
    ],
)
def test_doctor_says_what_guests_use_for_names(changed, status, found):
    check = check_names(replace(FACTS, **changed))
    assert check.status is status
    assert check.found.endswith(found)


def test_a_question_that_nobody_answers_is_said_to_have_failed_at_once(tmp_path, monkeypatch):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    monkeypatch.setattr(name_proxy, "RESOLV_CONF", resolv)
    with socket.socket(type=socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(name_proxy, "NAMES_PORT", unused.getsockname()[1])
    answer = name_proxy.ask(QUESTION)
    framed = len(QUESTION).to_bytes(2) + QUESTION
    assert name_proxy.ask_by_stream(framed) == len(answer).to_bytes(2) + answer
    assert answer[:2] == QUESTION[:2]
    assert answer[2] & 0x80
    assert answer[3] & 15 == 2
    assert answer[12:] == QUESTION[12:]


def test_the_next_server_is_asked_where_one_is_silent(tmp_path, monkeypatch):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.2\nnameserver 127.0.0.3\n")
    monkeypatch.setattr(name_proxy, "RESOLV_CONF", resolv)
    monkeypatch.setattr(name_proxy, "PATIENCE_S", 0.2)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as silent,
        socket.socket(type=socket.SOCK_DGRAM) as one,
    ):
        silent.bind(("127.0.0.2", 0))
        one.bind(("127.0.0.3", silent.getsockname()[1]))
        monkeypatch.setattr(name_proxy, "NAMES_PORT", silent.getsockname()[1])

        def answer() -> None:
            question, whom = one.recvfrom(512)
            one.sendto(question[:2] + b"other", whom)

        thread = threading.Thread(target=answer)
        thread.start()
        assert name_proxy.ask(QUESTION) == QUESTION[:2] + b"other"
        thread.join(60)


@pytest.mark.parametrize(
    "question", [b"\x12\x34", bytes(12), QUESTION[:20], b"\x12\x34\x01\x00" + b"\xff" * 60]
)
def test_no_question_is_too_odd_to_be_refused(question):
    assert name_proxy.failure(question.ljust(13, b"\0"))[:2] == question[:2]


def test_every_link_on_the_way_is_followed(tmp_path):
    top = tmp_path.resolve()
    (top / "store/bin").mkdir(parents=True)
    (top / "system").symlink_to("store")
    (top / "bin").symlink_to(top / "system/bin")
    (top / "loop").symlink_to("loop")
    (top / "up").symlink_to("store/../store/bin/nothing")
    assert list(follow(top / "bin")) == [top / "bin", top / "system", top / "store/bin"]
    assert list(follow(top / "up"))[-1] == top / "store/bin/nothing"
    assert list(follow(top / "loop"))[-1] == top / "loop"


class EnoughError(Exception):
    """The watch has no end of its own."""


@pytest.mark.fault("S33", "an address of the host that could not be blocked at once")
def test_what_could_not_be_blocked_is_blocked_soon_after(monkeypatch, capfd):
    paces = []

    def shut(_pid: int) -> None:
        paces.append(changes.gettimeout())
        if len(paces) == 1:
            raise ToolError("iptables-restore failed")
        if len(paces) == 3:
            raise EnoughError

    monkeypatch.setattr(outside, "shut_addresses", shut)
    monkeypatch.setattr(outside, "AGAIN_S", 0.05)
    changes, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with changes, kernel:

        def watch() -> None:
            with suppress(EnoughError):
                outside.watch_addresses(1, changes)

        watcher = threading.Thread(target=watch)
        watcher.start()
        kernel.send(b"an address was added")
        wait_until(lambda: len(paces) == 2, Deadline.after(60), "the second try")
        kernel.send(b"another one was")
        watcher.join()
    assert paces == [None, 0.05, outside.REFRESH_S]
    assert "could not be blocked for guests: iptables-restore failed" in capfd.readouterr().err
