"""Reads and repairs the networking of a host, in the network namespace of its VMs."""

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
EVERY_ADDRESS = ("0.0.0.0", "*", "[::]")  # noqa: S104  ss's notation; nothing is bound
LOCAL = 4  # the column "Local Address:Port" of ss
FORWARDING_OFF = "IPv4 forwarding is off, so guests reach no other network"
RULES_MISSING = (
    "its firewall rules are gone: guests reach no other network until libvirtd is restarted"
)
_DNSMASQ_PID = re.compile(r'"dnsmasq",pid=(\d+)')


@dataclass(frozen=True, slots=True)
class NetworksInUse:
    """The subnets and interface names in use on a host; a new network must avoid them."""

    subnets: tuple[TakenSubnet, ...]
    links: tuple[TakenLink, ...]


@dataclass(frozen=True, slots=True)
class HostNetworks:
    """The networking of a host; `enter` is the prefix of commands that run there.

    It is `nsenter …` for the embedded host, and empty for this host.
    """

    enter: tuple[str, ...] = ()
    resolv_conf: Path = Path("/etc/resolv.conf")

    def observe(
        self, network_xmls: Iterable[str], *, own_bridge: str | None = None
    ) -> NetworksInUse:
        """The subnets and interfaces in use, except those of our own network on `own_bridge`."""
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
        """Whether only libvirt and our guests use the namespace, so that we may change it."""
        return bool(self.enter)

    def links(self) -> Mapping[str, Link]:
        """The interfaces of that host, by name."""
        return read_links(self._ask(*ADDRESSES))

    def set_up(self, link: str) -> None:
        """Set an interface up. Raises HostError, with the command as hint, if not permitted."""
        self._change(f"the interface {link} is down", "ip", "link", "set", link, "up")

    def remove_left(self, network: str, bridge: str, mac: str) -> bool:
        """Remove what a killed libvirtd left behind of an inactive network.

        That is a dnsmasq with libvirt's settings of this network, and a bridge with the MAC address
        of its XML. Returns whether there was any. Raises HostError, with the command as hint, if
        not permitted.
        """
        pids = self._find_dnsmasqs(network)
        for pid in pids:
            why = f"an old dnsmasq uses the addresses of the network {network}"
            self._change(why, "sh", "-c", f"kill -KILL {pid}")
        link = self.links().get(bridge)
        is_ours = link is not None and link.mac == mac.lower() != ""
        if is_ours:
            self._change(f"an old bridge {bridge} is in the way", "ip", "link", "delete", bridge)
        return bool(pids) or is_ours

    def forward(self) -> None:
        """Enable IPv4 forwarding. Raises HostError, with the command as hint, if not permitted."""
        self._change(FORWARDING_OFF, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def is_dns_served(self, address: IPv4Address) -> bool:
        """Whether a DNS server listens on that address, such as the dnsmasq of its network."""
        return f"{address}:{DNS_PORT}" in self._listeners()

    def find_used_ports(self) -> tuple[str, ...]:
        """The ports of dnsmasq that another program uses on all addresses: `port 53`, `port 67`."""
        try:
            listeners = self._listeners()
        except AiHowError:
            return ()
        return tuple(
            f"port {port}"
            for port in (DNS_PORT, DHCP_PORT)
            if any(f"{every}:{port}" in listeners for every in EVERY_ADDRESS)
        )

    def find_uplink_problem(self, subnet: IPv4Network) -> str | None:
        """Why guests of a NAT network have no uplink; None if there is no problem, or no access."""
        if self._ask("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0":
            return FORWARDING_OFF
        outputs = [
            text
            for words in (("iptables-save", "-t", "nat"), ("nft", "list", "ruleset"))
            if (text := self._ask_if_allowed(*words)) is not None
        ]
        if not outputs or any(str(subnet) in text for text in outputs):
            return None
        # libvirt creates its chains when libvirtd starts, and the rules when a network starts.
        return RULES_MISSING

    def _find_dnsmasqs(self, network: str) -> tuple[int, ...]:
        """The pids of listening dnsmasqs with libvirt's settings of that network."""
        try:
            output = self._ask("ss", "-H", "-lnup")
        except ToolError:
            return ()
        pids = dict.fromkeys(int(pid) for pid in _DNSMASQ_PID.findall(output))
        return tuple(pid for pid in pids if _is_dnsmasq_of(pid, network))

    def _listeners(self) -> frozenset[str]:
        """The listening sockets, as address:port; the address may have a `%interface`."""
        lines = self._ask("ss", "-H", "-lntu").splitlines()
        return frozenset(words[LOCAL] for line in lines if len(words := line.split()) > LOCAL)

    def _change(self, what: str, *argv: str) -> None:
        try:
            self._ask(*argv)
        except ToolError as error:
            command = f"sudo {shlex.join(argv)}"
            raise HostError(what, details=error.details, hint=command) from error

    def _ask_if_allowed(self, *argv: str) -> str | None:
        """The output. None if the program is missing, or is for root only."""
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
