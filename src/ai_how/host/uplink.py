"""The way from the embedded host's network to the outside: pasta, where it is installed."""

import socket
from pathlib import Path

from ai_how.process import find_tool, start_detached


def give_uplink(pid: int, link: socket.socket, *, log: Path) -> None:
    """Let guests of the host with that PID 1 reach the outside; they work without.

    pasta would outlive the host; the supervisor holds the other end of `link` until it ends.
    """
    if (pasta := find_tool("pasta")) is None:
        return
    closed = [word for way in ("-t", "-u", "-T", "-U") for word in (way, "none")]
    link.settimeout(None)
    start_detached(
        [
            *("sh", "-c", '"$@" & cat >/dev/null; kill $! 2>/dev/null', "uplink", str(pasta)),
            *("--foreground", "--config-net", "--quiet", "--no-map-gw", *closed, str(pid)),
        ],
        log=log,
        stdin=link.fileno(),
    )
