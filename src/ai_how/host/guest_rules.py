"""What guests of the embedded host may reach, and whom they ask for names."""

from collections.abc import Sequence
from pathlib import Path

from ai_how.host.reading import read_text
from ai_how.process import Argument, find_tool, get_tool, run

# The embedded host's uplink interface; outside.py blocks what must not be reached.
LINK = "uplink"
# The addresses of DNS inside. Most hosts' /etc/resolv.conf also has the first one, so a host's file
# in place of ours works as well.
NAME_SERVERS = ("127.0.0.53", "127.0.0.1")
HOST_CHAIN = "AI_HOW_HOST"
# A guest may send to the outside, to its own network, and to that network's DHCP and DNS: not to
# the gateway of another network, nor to any other address in here.
OWN_GATEWAY_ONLY = (
    *("PREROUTING", "!", "-i", "lo", "-m", "addrtype", "--dst-type", "LOCAL"),
    *("-m", "addrtype", "!", "--dst-type", "LOCAL", "--limit-iface-in", "-j", "DROP"),
)
# The host's own addresses; outside.py updates the chain when they change.
NOT_THE_HOST = ("FORWARD", "-o", LINK, "-j", HOST_CHAIN)
# pasta of 2023 sends TCP segments without flags. Not translated back, they would be taken for ours
# and answered with RST, which ends the guest's connection.
NO_BROKEN_SEGMENTS = (
    *("PREROUTING", "-i", LINK, "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"),
)
# A libvirtd that starts at the same time may hold the lock of older iptables.
WAITING = ("-w", "5")
OUR_RESOLV_CONF = Path("/run/ai-how.resolv.conf")  # a name that no link of the real host has
NAMES_INSIDE = f"nameserver {NAME_SERVERS[0]}\n"
NO_NAMES = "# no uplink, so no names from outside\n"
OLD_HOST = "the embedded host was started by an earlier version; it needs a restart"
NO_PASTA = "pasta is not installed"
NO_USER_NAMESPACES = "user namespaces are switched off (user.max_user_namespaces is 0)"
MAX_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")


def why_no_uplink() -> str | None:
    """Why guests of this user can have no uplink; None if they can."""
    if find_tool("pasta") is None:
        return NO_PASTA
    if (read_text(MAX_USER_NAMESPACES) or "").strip() == "0":
        return NO_USER_NAMESPACES
    return None


def resolv_conf_inside() -> str:
    """The /etc/resolv.conf inside the host: outside.py answers the questions.

    Without an uplink it names no server, as a question without an answer takes 20 seconds.
    """
    return NO_NAMES if why_no_uplink() else NAMES_INSIDE


def ensure_rule(rule: Sequence[str], enter: Sequence[Argument] = ()) -> None:
    """Add a rule to a chain of the table `mangle`, unless it is there.

    `enter` is the prefix of a command that runs inside. Raises ToolError if it cannot be set.
    """
    tool = get_tool("iptables", package="iptables")
    words = [*enter, tool, *WAITING, "-t", "mangle"]
    if run([*words, "-C", *rule], check=False).returncode:
        run([*words, "-A", *rule])
