"""What the networks of a host look like from where its VMs run; changes nothing."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ai_how.errors import AiHowError, HostError, ToolError
from ai_how.process import run
from ai_how.vm_management.networks.links import ADDRESSES, Link, read_links
from ai_how.vm_management.networks.subnets import (
    TakenLink,
    TakenSubnet,
    find_taken_links,
    find_taken_subnets,
)

ASK_TIMEOUT_S = 20
DNS_PORT, DHCP_PORT = 53, 67
EVERY_ADDRESS = ("0.0.0.0", "*", "[::]")  # noqa: S104  how ss writes them; nothing is bound
LOCAL = 4  # the column of ss with our end
FORWARDING_OFF = "IPv4 forwarding is off, so guests reach no other network"
RULES_MISSING = (
    "its firewall rules are gone: guests reach no other network until libvirtd is restarted"
)
_DNSMASQ_PID = re.compile(r'"dnsmasq",pid=(\d+)')


@dataclass(frozen=True, slots=True)
class NetworksInUse:
    """What is in use on a host: neither a subnet nor a bridge of ours may be among it."""

    subnets: tuple[TakenSubnet, ...]
    links: tuple[TakenLink, ...]


@dataclass(frozen=True, slots=True)
class HostNetworks:
    """Asks a host for its networks; `enter` is the command by which one gets into it.

    That is `nsenter …` for the embedded host, `ssh …` for a remote one, nothing for this one.
    """

    enter: tuple[str, ...] = ()
    resolv_conf: Path = Path("/etc/resolv.conf")

    def observe(
        self, network_xmls: Iterable[str], *, own_bridge: str | None = None
    ) -> NetworksInUse:
        """What is in use, besides a network of ours that is already there on `own_bridge`."""
        xmls = tuple(network_xmls)
        routes = self._ask("ip", "-j", "route", "show", "table", "all")
        addresses = self._ask(*ADDRESSES)
        nameservers = self.resolv_conf.read_text("utf-8", "replace") if self._has_resolver() else ""
        return NetworksInUse(
            subnets=find_taken_subnets(routes, addresses, xmls, nameservers, own_bridge=own_bridge),
            links=find_taken_links(addresses, xmls),
        )

    @property
    def is_private(self) -> bool:
        """Whether nobody but libvirt and our guests lives there, so that its settings are ours."""
        return bool(self.enter)

    def links(self) -> Mapping[str, Link]:
        """Every interface of that host, by its name."""
        return read_links(self._ask(*ADDRESSES))

    def set_up(self, link: str) -> None:
        """Have an interface pass frames. Raises HostError with the command, where we may not."""
        self._change(f"the interface {link} is down", "ip", "link", "set", link, "up")

    def remove_left(self, network: str, bridge: str, mac: str) -> bool:
        """Remove what a libvirt that ended has left of a network that is down now.

        That is a dnsmasq of its settings, and a bridge with the very MAC address that libvirt gave
        it. Whether there was anything. Raises HostError with the command, where we may not.
        """
        pids = self._find_dnsmasqs(network)
        for pid in pids:
            why = f"an old dnsmasq has the addresses of the network {network}"
            self._change(why, "sh", "-c", f"kill -KILL {pid}")
        link = self.links().get(bridge)
        is_ours = link is not None and link.mac == mac.lower() != ""
        if is_ours:
            self._change(f"an old bridge {bridge} is in the way", "ip", "link", "delete", bridge)
        return bool(pids) or is_ours

    def forward(self) -> None:
        """Have the host pass packets on between its networks."""
        self._change(FORWARDING_OFF, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def is_dns_served(self, address: IPv4Address) -> bool:
        """Whether something answers names at that address: the dnsmasq of a network, there."""
        return f"{address}:{DNS_PORT}" in self._listeners()

    def find_used_ports(self) -> tuple[str, ...]:
        """What dnsmasq needs and another program has on every address: `port 53`, `port 67`."""
        try:
            seen = self._listeners()
        except AiHowError:
            return ()
        return tuple(
            f"port {port}"
            for port in (DNS_PORT, DHCP_PORT)
            if any(f"{every}:{port}" in seen for every in EVERY_ADDRESS)
        )

    def find_uplink_problem(self, subnet: IPv4Network) -> str | None:
        """Why guests of a NAT network reach nothing outside; None also where we may not see it."""
        if self._ask("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0":
            return FORWARDING_OFF
        told = [
            text
            for words in (("iptables-save", "-t", "nat"), ("nft", "list", "ruleset"))
            if (text := self._ask_if_allowed(*words)) is not None
        ]
        if not told or any(str(subnet) in text for text in told):
            return None
        # libvirt makes its rules when a network starts, and its chains when the daemon does.
        return RULES_MISSING

    def _find_dnsmasqs(self, network: str) -> tuple[int, ...]:
        """The processes that listen there and have libvirt's settings for that network."""
        try:
            told = self._ask("ss", "-H", "-lnup")
        except ToolError:
            return ()
        pids = dict.fromkeys(int(pid) for pid in _DNSMASQ_PID.findall(told))
        return tuple(pid for pid in pids if _is_dnsmasq_of(pid, network))

    def _listeners(self) -> frozenset[str]:
        """Where programs listen, each as address:port, the address with its device if bound."""
        lines = self._ask("ss", "-H", "-lntu").splitlines()
        return frozenset(words[LOCAL] for line in lines if len(words := line.split()) > LOCAL)

    def _change(self, what: str, *argv: str) -> None:
        try:
            self._ask(*argv)
        except ToolError as error:
            command = f"sudo {shlex.join(argv)}"
            raise HostError(what, details=error.details, hint=command) from error

    def _ask_if_allowed(self, *argv: str) -> str | None:
        """None where the program is missing, or only root may run it."""
        try:
            return self._ask(*argv)
        except ToolError:
            return None

    def _ask(self, *argv: str) -> str:
        return run([*self.enter, *argv], timeout_s=ASK_TIMEOUT_S).stdout

    def _has_resolver(self) -> bool:
        return self.resolv_conf.is_file()


def _is_dnsmasq_of(pid: int, network: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"/dnsmasq/{network}.conf".encode() in words
