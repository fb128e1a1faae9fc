"""What a guest reaches on this host, seen from a guest's place; prints it as JSON.

The guest is a network namespace on the bridge of a cluster's network: it sends what any guest
could, and needs no system. `guests_view.py` is run in a small world.
"""

import json
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.process import get_tool, run, start_daemon
from ai_how.vm_management.networks.definition import render_network
from ai_how.waiting import Deadline, wait_until
from leaks import private_host
from shapes import NETWORK
from small_world import HOST, LATER, LONG, NAME, OF_CONTAINERS, OUTSIDE, PORT, SECOND, WISHES

OTHER = replace(
    NETWORK,
    name="other",
    uuid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f003"),
    bridge="ah9876543210",
    subnet=IPv4Network("10.11.13.0/24"),
    gateway=IPv4Address("10.11.13.1"),
    domain="other.internal",
    hosts=(NetworkHost("52:54:aa:00:01:02", "compute-01", IPv4Address("10.11.13.11")),),
)
GUEST = NETWORK.hosts[0].ip
SILENT_S = 2.0  # what is dropped is never answered


def ask(server: str, name: str, *, is_stream: bool = False, timeout_s: float = 10) -> int:
    """How many addresses a server gives of a name; -1 where it refuses, -2 where none answers."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    try:
        with socket.socket(type=kind) as way:
            way.settimeout(timeout_s)
            way.connect((server, 53))
            way.sendall((struct.pack("!H", len(question)) if is_stream else b"") + question)
            answer = way.makefile("rb").read(20)[2:] if is_stream else way.recv(65535)
    except OSError:
        return -2
    if len(answer) < 12:
        return -2
    flags, _, count = struct.unpack_from("!HHH", answer, 2)
    return -1 if flags & 15 else count


def connects(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=SILENT_S):
            return True
    except OSError:
        return False


def reaches(address: str) -> bool:
    try:
        with socket.create_connection((address, PORT), timeout=SILENT_S) as way:
            return way.recv(4) == b"here"
    except OSError:
        return False


def look() -> None:
    """In the guest."""
    own, other = str(NETWORK.gateway), str(OTHER.gateway)
    wait = Deadline.after(60)
    with suppress(Exception):
        wait_until(lambda: reaches(OUTSIDE), wait, "the outside", interval_s=0.5)
    seen = {
        "a name": ask(own, NAME),
        "a long name": ask(own, LONG, is_stream=True),
        "a node": ask(own, "controller.demo.internal"),
        "a name by the other gateway": ask(other, "compute-01.other.internal", timeout_s=SILENT_S),
        "the other gateway": connects(other, 53),
        **{address: reaches(address) for address in sys.argv[2:]},
    }
    sys.stdout.write(json.dumps(seen))


def plug_guest(host: EmbeddedHost) -> Sequence[str | Path]:
    """A guest on the bridge; the command that enters it."""
    enter = host.enter([])
    ip = [*enter, str(get_tool("ip", package="iproute2"))]
    guest = start_daemon(
        [*enter, get_tool("unshare", package="util-linux"), "--net", get_tool("sleep"), "infinity"],
        log=host.paths.root / "guest.log",
    )
    net, there = Path(f"/proc/{guest.pid}/ns/net"), host.find_supervisor()
    assert there is not None
    nets = {Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in ("self", there.pid)}
    wait_until(lambda: net.stat().st_ino not in nets, Deadline.after(60), "a guest")
    run([*ip, "link", "add", "g0", "type", "veth", "peer", "name", "e0", "netns", str(guest.pid)])
    run([*ip, "link", "set", "g0", "master", NETWORK.bridge, "up"])
    user = ["-U", "--preserve-credentials"] if host.needs_user_namespace else []
    inside = [get_tool("nsenter", package="util-linux"), "-t", str(guest.pid), *user, "-n", "--"]
    for words in (
        ("addr", "add", f"{GUEST}/24", "dev", "e0"),
        ("link", "set", "e0", "up"),
        ("route", "add", "default", "via", str(NETWORK.gateway)),
    ):
        run([*inside, get_tool("ip"), *words])
    return inside


def give_later_address(host: EmbeddedHost) -> None:
    """Have the host get one more address, and wait until the embedded host knows."""
    rules = host.enter([str(get_tool("iptables", package="iptables")), "-t", "mangle", "-S"])

    def is_shut(address: str) -> bool:
        return f"-d {address}/32" in run(rules).stdout

    wait_until(lambda: is_shut(HOST), Deadline.after(60), "the rules")
    with socket.socket(type=socket.SOCK_DGRAM) as way:

        def is_given_and_shut() -> bool:
            way.sendto(b"", (HOST, WISHES))  # a datagram may be lost
            return is_shut(LATER)

        wait_until(is_given_and_shut, Deadline.after(120), "one more rule", interval_s=0.5)


def main() -> None:
    with private_host() as host:
        host.up(with_kvm=False)
        with LibvirtClient(host.uri) as client:
            for network in (NETWORK, OTHER):
                client.define_network(render_network(network))
                client.start_network(network.uuid)
            inside = plug_guest(host)
            give_later_address(host)
            places = (OUTSIDE, HOST, SECOND, OF_CONTAINERS, LATER)
            words = [sys.executable, __file__, "look", *places]
            path = {"PYTHONPATH": ":".join(sys.path)}
            sys.stdout.write(run([*inside, *words], timeout_s=240, env=path).stdout)


if __name__ == "__main__":
    look() if sys.argv[1:2] == ["look"] else main()
