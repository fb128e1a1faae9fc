"""The way from the embedded host's network to the outside: pasta, where it is installed."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ai_how.process import find_tool, get_tool, run, start_detached

# The interface of the embedded host that leads outside; outside.py shuts what must not be reached.
LINK = "uplink"
# Where names are asked for inside. The first is where most hosts' /etc/resolv.conf points, too: one
# of theirs that takes the place of ours is as good.
NAME_SERVERS = ("127.0.0.53", "127.0.0.1")
NAMES_PORT = 53
KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
MANY_SOCKETS = len(NAME_SERVERS) * len(KINDS)
HOST_CHAIN = "AI_HOW_HOST"
# The libvirtd that starts meanwhile may hold the lock of older iptables.
RESTORING = ("--noflush", "-w", "5")
# What a guest sends is for outside, for its own network, or for that network's own DHCP and DNS:
# not for the gateway of another network, nor for any other address in here.
OWN_GATEWAY_ONLY = """\
*mangle
-A PREROUTING ! -i lo -m addrtype --dst-type LOCAL \
-m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP
COMMIT
"""
# The host's own addresses, which outside.py writes into the chain as they come and go.
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
    """Why guests reach nothing outside; None where they do.

    Also true as seen from inside, where a user's host has a user namespace and seems to be root's.
    """
    if find_tool("pasta") is None:
        return NO_PASTA
    return NOT_FOR_ROOT if os.geteuid() == 0 and _is_first_user_namespace() else None


def resolv_conf_inside() -> str:
    """What /etc/resolv.conf says inside of the host: who asks there is answered by outside.py.

    Without an uplink nobody is named, as a question without an answer takes 20 seconds.
    """
    return NO_NAMES if why_no_uplink() else f"nameserver {NAME_SERVERS[0]}\n"


def pasta_argv(pid: int) -> list[str | Path]:
    """pasta for the network of that process; nothing can come in by it."""
    closed = [word for way in ("-t", "-u", "-T", "-U") for word in (way, "none")]
    quiet = ("--foreground", "--config-net", "--quiet")
    return ["pasta", *quiet, "--no-map-gw", "--ns-ifname", LINK, *closed, str(pid)]


def give_uplink(pid: int, link: socket.socket, *, log: Path, scope: Sequence[str] = ()) -> None:
    """Let guests of the host with that PID 1 reach the outside; they work without.

    The supervisor holds the other end of `link` until it ends, and outside.py ends with it; `scope`
    is what the host was started by, so as to outlive a logout.
    """
    if why_no_uplink():
        return
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)  # only sockets come by it now
    start_detached(
        [*scope, sys.executable, "-I", "-m", "ai_how.host.outside", log, str(pid)],
        log=log,
        stdin=link.fileno(),
    )


def take_uplink(link: int) -> None:
    """Inside, as PID 1: shut what guests must not reach, then have outside.py answer and begin.

    Raises AiHowError where the rules cannot be made; then there is no uplink.
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
