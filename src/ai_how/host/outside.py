"""The part of an embedded host that runs outside: pasta, and the DNS proxy for its guests.

uplink.py runs it as `python -m ai_how.host.outside ROOT PID TICKS RELAY…`, with the directory of
the host, its supervisor, and the relays. It restarts pasta, and ends with the supervisor.
"""

import resource
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from ai_how.errors import AiHowError
from ai_how.host.daemon_log import say
from ai_how.host.guest_rules import (
    HOST_CHAIN,
    NO_BROKEN_SEGMENTS,
    NOT_THE_HOST,
    OWN_GATEWAY_ONLY,
    WAITING,
    ensure_rule,
)
from ai_how.host.listening import open_inside
from ai_how.host.name_proxy import serve_names
from ai_how.host.network_facts import read_own_addresses
from ai_how.host.pasta import Uplink
from ai_how.host.port_relay import serve_relays
from ai_how.process import Argument, get_tool, run
from ai_how.state.embedded_paths import EmbeddedPaths

RTMGRP_IPV4_IFADDR = 0x10  # rtnetlink(7): a message whenever an address changes
LONGEST = 65535
REFRESH_S = 60.0
AGAIN_S = 2.0


def shut_addresses(pid: int) -> None:
    """Block guests' access to this host's addresses: pasta would connect to them as our user."""
    rules = "".join(f"-A {HOST_CHAIN} -d {address} -j DROP\n" for address in read_own_addresses())
    restore = get_tool("iptables-restore", package="iptables")
    run(
        [*enter(pid), restore, "--noflush", *WAITING],
        stdin=f"*mangle\n:{HOST_CHAIN} - [0:0]\n{rules}COMMIT\n",
    )


def enter(pid: int) -> list[Argument]:
    """The prefix of a command that runs in the network of the host, and with its lock files."""
    # The supervisor of root, also in a container, has no user namespace of its own.
    user = ["-U", "--preserve-credentials"] if _user_namespace(pid) != _user_namespace() else []
    nsenter = get_tool("nsenter", package="util-linux")
    return [nsenter, "-t", str(pid), *user, "-m", "-n", "--"]


def watch_addresses(pid: int, changes: socket.socket) -> None:
    """Block addresses that are added later."""
    while True:
        with suppress(OSError):  # timeout, or more messages than the buffer holds
            changes.recv(LONGEST)
        try:
            shut_addresses(pid)
            changes.settimeout(REFRESH_S)
        except (AiHowError, ValueError) as error:
            # Until then guests reach what was added.
            changes.settimeout(AGAIN_S)
            say(f"the addresses of this host could not be blocked for guests: {error}")


def _user_namespace(pid: int | str = "self") -> Path:
    return Path(f"/proc/{pid}/ns/user").readlink()


def main(paths: EmbeddedPaths, pid: int, ticks: int, relays: Sequence[str]) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        uplink = Uplink(paths, pid, ticks, relays)
    except ProcessLookupError:
        return
    if not uplink.take():
        return
    try:
        _give(uplink)
    except (AiHowError, OSError, ValueError) as error:
        reason = error.brief if isinstance(error, AiHowError) else str(error)
        uplink.note(reason)
        raise


def _give(uplink: Uplink) -> None:
    pid = uplink.pid
    names, relays = open_inside(enter(pid), uplink.relays, log=uplink.paths.supervisor_log)
    changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    changes.bind((0, RTMGRP_IPV4_IFADDR))
    changes.settimeout(REFRESH_S)
    ensure_rule(OWN_GATEWAY_ONLY, enter(pid))
    shut_addresses(pid)
    for rule in (NOT_THE_HOST, NO_BROKEN_SEGMENTS):
        ensure_rule(rule, enter(pid))
    serve_names(names)
    serve_relays(relays)
    Thread(target=watch_addresses, args=(pid, changes), daemon=True).start()
    uplink.keep_pasta()


if __name__ == "__main__":
    try:
        root, supervisor, started, *places = sys.argv[1:]
        main(EmbeddedPaths(Path(root)), int(supervisor), int(started), places)
    except (AiHowError, OSError, ValueError) as error:
        say(f"guests have no uplink: {error}")
        sys.exit(1)
