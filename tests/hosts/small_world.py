"""A host's network with an outside, both of ours: become a program in it.

Run as root in fresh network, mount and PID namespaces: `small_world.py RESOLVER PROGRAM…`. The host
has 192.0.2.2, a second address beside it and one on another link, as of a container bridge; outside
is 192.0.2.1. On each of these somebody answers at port 8080 by TCP, and on the host's loopback
alone at port 8081. A web server outside has a name. RESOLVER is the name server that the host asks:
on its own loopback, or outside.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from ai_how.process import become, get_tool, run, start_daemon
from ai_how.waiting import Deadline, wait_until
from stock_hosts import SERVER

OUTSIDE, HOST, SECOND, OF_CONTAINERS = "192.0.2.1", "192.0.2.2", "192.0.2.77", "198.18.0.1"
NAME, ADDRESS = "www.example.org", "203.0.113.7"
LONG, MANY = "long.example.org", 60  # a name with more addresses than a datagram takes
MANY_RECORDS = [f"--host-record={LONG},203.0.113.{number}" for number in range(100, 100 + MANY)]
LATER, WISHES = "198.18.5.1", 9999  # an address that the host gets when this UDP port is told
PORT, LOOPBACK_PORT = 8080, 8081
FILE, BLOCKS, BLOCK_BYTES = "/large", 200, 1_000_000  # of the web server
WEB = f"""
import hashlib, http.server
class Large(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", {BLOCKS * BLOCK_BYTES})
        self.end_headers()
        for number in range({BLOCKS}):
            self.wfile.write(bytes([number]) * {BLOCK_BYTES})
http.server.ThreadingHTTPServer(("{ADDRESS}", 80), Large).serve_forever()
"""
ECHO = f"""
import socketserver
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"here")
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", {PORT}), Answer).serve_forever()
"""
LOOPBACK_ECHO = ECHO.replace(f'("", {PORT})', f'("127.0.0.1", {LOOPBACK_PORT})')

GIVE_LATER = f"""
import socket, sys, subprocess
with socket.socket(type=socket.SOCK_DGRAM) as way:
    way.bind(("", {WISHES}))
    way.recv(1)
subprocess.run([*sys.argv[1:], "addr", "add", "{LATER}/24", "dev", "docker0"])
"""


def ip(*words: str) -> None:
    run([get_tool("ip", package="iproute2"), *words])


def answer_names(address: str, *words: str, prefix: Sequence[str | Path] = ()) -> None:
    """Have a real dnsmasq answer there, with nothing but what it is told."""
    log = Path(tempfile.mkdtemp(prefix="names-", dir="/mnt")) / "dnsmasq.log"
    start_daemon(
        [
            *(*prefix, get_tool("dnsmasq", package="dnsmasq-base"), "--keep-in-foreground"),
            *("--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--bind-interfaces"),
            *("--pid-file=", f"--listen-address={address}", *words),
            *("--user=root", "--log-facility=-"),
        ],
        log=log,
    )


def make_outside() -> None:
    """A machine next to the host, where its default route leads."""
    log = Path("/mnt/outside.log")
    unshare = get_tool("unshare", package="util-linux")
    there = start_daemon([unshare, "--net", get_tool("sleep"), "infinity"], log=log)
    ours = Path("/proc/self/ns/net").stat().st_ino
    net = Path(f"/proc/{there.pid}/ns/net")
    wait_until(lambda: net.stat().st_ino != ours, Deadline.after(60), "a network outside")
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(there.pid))
    enter = (get_tool("nsenter", package="util-linux"), "-t", str(there.pid), "-n", "--")
    for words in (("addr", "add", f"{OUTSIDE}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        run([*enter, get_tool("ip"), *words])
    run([*enter, get_tool("ip"), "link", "set", "lo", "up"])
    run([*enter, get_tool("ip"), "addr", "add", SERVER, "dev", "eth0"])
    run([*enter, get_tool("ip"), "addr", "add", f"{ADDRESS}/32", "dev", "lo"])
    start_daemon([*enter, sys.executable, "-c", WEB], log=log)
    for address in (OUTSIDE, SERVER):
        answer_names(address, f"--address=/{NAME}/{ADDRESS}", *MANY_RECORDS, prefix=enter)
    start_daemon([*enter, sys.executable, "-c", ECHO], log=log)


def main(resolver: str, *program: str) -> None:
    run([get_tool("mount"), "-t", "tmpfs", "tmpfs", "/mnt"])
    ip("link", "set", "lo", "up")
    make_outside()
    ip("link", "add", "docker0", "type", "bridge")
    for address, link in ((HOST, "eth0"), (SECOND, "eth0"), (OF_CONTAINERS, "docker0")):
        ip("addr", "add", f"{address}/24", "dev", link)
        ip("link", "set", link, "up")
    ip("route", "add", "default", "via", OUTSIDE)
    for code in (ECHO, LOOPBACK_ECHO):
        start_daemon([sys.executable, "-c", code], log=Path("/mnt/host.log"))
    words = [sys.executable, "-c", GIVE_LATER, get_tool("ip")]
    start_daemon(words, log=Path("/mnt/later.log"))
    if ip_address(resolver).is_loopback:
        answer_names(resolver, f"--server={OUTSIDE}")
    become(program, env={"PYTHONPATH": os.environ["PYTHONPATH"]})


if __name__ == "__main__":
    main(*sys.argv[1:])
