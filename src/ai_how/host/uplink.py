"""The uplink of the embedded host: pasta, if it is installed."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ai_how.process import find_tool, get_tool, run, start_detached

# The embedded host's uplink interface; outside.py blocks what must not be reached.
LINK = "uplink"
# The addresses of DNS inside. Most hosts' /etc/resolv.conf also has the first one, so a host's file
# in place of ours works as well.
NAME_SERVERS = ("127.0.0.53", "127.0.0.1")
NAMES_PORT = 53
KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
MANY_SOCKETS = len(NAME_SERVERS) * len(KINDS)
HOST_CHAIN = "AI_HOW_HOST"
# A libvirtd that starts at the same time may hold the lock of older iptables.
RESTORING = ("--noflush", "-w", "5")
# A guest may send to the outside, to its own network, and to that network's DHCP and DNS: not to
# the gateway of another network, nor to any other address in here.
OWN_GATEWAY_ONLY = """\
*mangle
-A PREROUTING ! -i lo -m addrtype --dst-type LOCAL \
-m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP
COMMIT
"""
# The host's own addresses; outside.py updates the chain when they change.
NOT_THE_HOST = f"""\
*mangle
:{HOST_CHAIN} - [0:0]
-A FORWARD -o {LINK} -j {HOST_CHAIN}
COMMIT
"""
NO_NAMES = "# no uplink, so no names from outside\n"
NO_PASTA = "pasta is not installed"
NOT_FOR_ROOT = "pasta is not used for root"


def why_no_uplink() -> str | None:
    """Why guests have no uplink; None if they have one.

    Also correct inside, where a user's host has a user namespace and looks like root's.
    """
    if find_tool("pasta") is None:
        return NO_PASTA
    return NOT_FOR_ROOT if os.geteuid() == 0 and _is_first_user_namespace() else None


def resolv_conf_inside() -> str:
    """The /etc/resolv.conf inside the host: outside.py answers the questions.

    Without an uplink it names no server, as a question without an answer takes 20 seconds.
    """
    return NO_NAMES if why_no_uplink() else f"nameserver {NAME_SERVERS[0]}\n"


def pasta_argv(pid: int) -> list[str | Path]:
    """The command line of pasta for the network of that process; nothing can come in by it."""
    closed = [word for way in ("-t", "-u", "-T", "-U") for word in (way, "none")]
    quiet = ("--foreground", "--config-net", "--quiet")
    return ["pasta", *quiet, "--no-map-gw", "--ns-ifname", LINK, *closed, str(pid)]


def give_uplink(pid: int, link: socket.socket, *, log: Path, scope: Sequence[str] = ()) -> None:
    """Give the guests of the host with that PID 1 an uplink; they also work without.

    The supervisor holds the other end of `link` until it ends, and outside.py ends with it. `scope`
    is the prefix with which the host was started, to survive a logout.
    """
    if why_no_uplink():
        return
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)  # only sockets are sent over it now
    start_detached(
        [*scope, sys.executable, "-I", "-m", "ai_how.host.outside", log, str(pid)],
        log=log,
        stdin=link.fileno(),
    )


def take_uplink(link: int) -> None:
    """Inside, as PID 1: block what guests must not reach, then let outside.py start.

    Raises AiHowError if the rules cannot be set; then there is no uplink.
    """
    restore = get_tool("iptables-restore", package="iptables")
    run([restore, *RESTORING], stdin=OWN_GATEWAY_ONLY)
    if why_no_uplink():
        return
    run([restore, *RESTORING], stdin=NOT_THE_HOST)
    lines = [socket.socket(type=kind) for _ in NAME_SERVERS for kind in KINDS]
    for number, line in enumerate(lines):
        line.bind((NAME_SERVERS[number // len(KINDS)], NAMES_PORT))
        if line.type is socket.SOCK_STREAM:
            line.listen()
    with socket.socket(fileno=os.dup(link)) as way, suppress(OSError):
        socket.send_fds(way, [b"\n"], [line.fileno() for line in lines])
    for line in lines:
        line.close()


def _is_first_user_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
