"""What a guest reaches on this host, seen from a guest's place; prints it as JSON.

The guest is a network namespace on the bridge of a cluster's network: it sends what any guest
could, and needs no system. `guests_view.py` is run in a small world.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.host.embedded import EmbeddedHost
from ai_how.host.uplink import Relays
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.process import get_tool, run, start_daemon
from ai_how.vm_management.networks.definition import (
    ForwardMode,
    NetworkDefinition,
    render_network,
)
from ai_how.waiting import Deadline, wait_until
from leaks import private_host, process_name, uplink_of
from shapes import NETWORK
from small_world import (
    BLOCK_BYTES,
    FILE,
    HOST,
    LATER,
    LONG,
    LOOPBACK_PORT,
    NAME,
    OF_CONTAINERS,
    OUTSIDE,
    PORT,
    SECOND,
    WISHES,
)

OTHER = replace(
    NETWORK,
    name="other",
    uuid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f003"),
    bridge="ah9876543210",
    subnet=IPv4Network("10.11.13.0/24"),
    gateway=IPv4Address("10.11.13.1"),
    domain="other.internal",
    hosts=(NetworkHost("52:54:aa:00:01:02", "compute-01", IPv4Address("10.11.13.11")),),
    mode=ForwardMode.ISOLATED,
)
SILENT_S = 2.0  # what is dropped is never answered


def question_for(name: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"


def address_of(server: str, name: str) -> str:
    """The address that a server gives of a name with one address."""
    with socket.socket(type=socket.SOCK_DGRAM) as way:
        way.settimeout(10)
        way.sendto(question_for(name), (server, 53))
        return socket.inet_ntoa(way.recv(65535)[-4:])


def ask(server: str, name: str, *, is_stream: bool = False, timeout_s: float = 10) -> int:
    """How many addresses a server gives of a name; -1 where it refuses, -2 where none answers."""
    question = question_for(name)
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


def reaches(address: str, port: int = PORT) -> bool:
    try:
        with socket.create_connection((address, port), timeout=SILENT_S) as way:
            return way.recv(4) == b"here"
    except OSError:
        return False


def fetch(server: str, name: str) -> dict[str, object]:
    """Fetch the large file of the web server with that name: bytes, digest, and MB/s."""
    began = time.monotonic()
    digest, size = hashlib.sha256(), 0
    with http_connection(address_of(server, name)) as way:
        way.request("GET", FILE, headers={"Host": name})
        answer = way.getresponse()
        while block := answer.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    rate = size / 1e6 / (time.monotonic() - began)
    sys.stderr.write(f"{name}: {size} bytes at {rate:.0f} MB/s\n")
    return {"bytes": size, "sha256": digest.hexdigest()}


@contextmanager
def http_connection(address: str) -> Iterator[HTTPConnection]:
    way = HTTPConnection(address, timeout=60)
    try:
        yield way
    finally:
        way.close()


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
        "the host's loopback": [
            connects(address, LOOPBACK_PORT) for address in (own, HOST, OUTSIDE, "127.0.0.1")
        ],
        "a file": fetch(own, NAME),
    }
    sys.stdout.write(json.dumps(seen))


def fetch_again() -> None:
    """In the guest."""
    sys.stdout.write(json.dumps(fetch(str(NETWORK.gateway), NAME)))


def look_at_relay() -> None:
    """In the guest: the port that is relayed to the host's loopback, and the same elsewhere."""
    own, other = str(NETWORK.gateway), str(OTHER.gateway)
    wait = Deadline.after(60)
    with suppress(Exception):
        wait_until(lambda: reaches(own, LOOPBACK_PORT), wait, "the relay", interval_s=0.5)
    places = {"own": own, "other": other, "host": HOST}
    seen = {name: reaches(one, LOOPBACK_PORT) for name, one in places.items()}
    sys.stdout.write(json.dumps(seen | {"another port": reaches(own)}))


def look_at_others_relay() -> None:
    """In the guest of a network that has none."""
    sys.stdout.write(json.dumps(reaches(str(OTHER.gateway), LOOPBACK_PORT)))


def look_from_an_isolated_network() -> None:
    """In a guest of the other network, which has no uplink."""
    own = str(OTHER.gateway)
    seen = {
        "a name": ask(own, NAME),
        "a node": ask(own, "compute-01.other.internal"),
        OUTSIDE: reaches(OUTSIDE),
        HOST: reaches(HOST),
    }
    sys.stdout.write(json.dumps(seen))


def plug_guest(host: EmbeddedHost, network: NetworkDefinition) -> Sequence[str | Path]:
    """A guest on the bridge of a network; the command that enters it."""
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
    end = f"{network.name}0"
    run([*ip, "link", "add", end, "type", "veth", "peer", "name", "e0", "netns", str(guest.pid)])
    run([*ip, "link", "set", end, "master", network.bridge, "up"])
    user = ["-U", "--preserve-credentials"] if host.needs_user_namespace else []
    inside = [get_tool("nsenter", package="util-linux"), "-t", str(guest.pid), *user, "-n", "--"]
    for words in (
        ("addr", "add", f"{network.hosts[0].ip}/24", "dev", "e0"),
        ("link", "set", "e0", "up"),
        ("route", "add", "default", "via", str(network.gateway)),
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


def lose_uplink(host: EmbeddedHost, fetch_again: Callable[[], bool]) -> dict[str, object]:
    """End pasta, then the process that keeps it; what is said of the uplink meanwhile and after."""
    there = host.find_supervisor()
    assert there is not None
    keeper, first = uplink_of(there.pid)
    said: dict[str, object] = {}
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: host.uplink_trouble, Deadline.after(60), "what is said of it")
    said["pasta was killed"] = host.uplink_trouble
    wait_until(lambda: host.uplink_trouble is None, Deadline.after(60), "pasta again")
    said["fetched after pasta"] = fetch_again()
    [_, second] = uplink_of(there.pid)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: host.uplink_trouble, Deadline.after(60), "what is said of it")
    said["its process was killed"] = host.uplink_trouble
    wait_until(lambda: not process_name(second), Deadline.after(60), "the end of pasta")
    host.ensure_uplink()
    wait_until(lambda: host.uplink_trouble is None, Deadline.after(60), "the uplink again")
    said["fetched after its process"] = fetch_again()
    return said


def main() -> None:
    with private_host() as host:
        host.up(with_kvm=False)
        with LibvirtClient(host.uri) as client:
            for network in (NETWORK, OTHER):
                client.define_network(render_network(network))
                client.start_network(network.uuid)
            inside, isolated = (plug_guest(host, network) for network in (NETWORK, OTHER))
            give_later_address(host)
            places = (OUTSIDE, HOST, SECOND, OF_CONTAINERS, LATER)

            def ask_in(guest: Sequence[str | Path], *words: str) -> dict[str, object]:
                done = run(
                    [*guest, sys.executable, __file__, *words],
                    timeout_s=240,
                    env={"PYTHONPATH": ":".join(sys.path)},
                )
                sys.stderr.write(done.stderr)
                return json.loads(done.stdout)

            seen = ask_in(inside, "look", *places)
            seen["without an uplink"] = ask_in(isolated, "isolated")
            if "lose-uplink" in sys.argv[1:]:
                whole = seen["a file"]
                seen |= lose_uplink(host, lambda: ask_in(inside, "fetch") == whole)
            host.ensure_uplink(Relays(str(NETWORK.gateway), frozenset({LOOPBACK_PORT})))
            seen["a proxy on loopback"] = ask_in(inside, "relay")
            seen["the same for another cluster"] = ask_in(isolated, "others-relay")
            sys.stdout.write(json.dumps(seen))


IN_A_GUEST = {
    "look": look,
    "fetch": fetch_again,
    "relay": look_at_relay,
    "others-relay": look_at_others_relay,
    "isolated": look_from_an_isolated_network,
}

if __name__ == "__main__":
    IN_A_GUEST.get("".join(sys.argv[1:2]), main)()
