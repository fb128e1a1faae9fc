"""What the networks of a host look like from where its VMs run; changes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ai_how.errors import AiHowError, ToolError
from ai_how.process import run
from ai_how.vm_management.subnets import (
    TakenLink,
    TakenSubnet,
    find_ports,
    find_taken_links,
    find_taken_subnets,
)

ASK_TIMEOUT_S = 20
DNS_PORT, DHCP_PORT = 53, 67
EVERY_ADDRESS = ("0.0.0.0", "*", "[::]")  # noqa: S104  how ss writes them; nothing is bound
LOCAL = 4  # the column of ss with our end


@dataclass(frozen=True, slots=True)
class SeenNetworks:
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
    ) -> SeenNetworks:
        """What is in use, besides a network of ours that is already there on `own_bridge`."""
        xmls = tuple(network_xmls)
        routes = self._ask("ip", "-j", "route", "show", "table", "all")
        addresses = self._ask("ip", "-j", "addr")
        nameservers = self.resolv_conf.read_text("utf-8", "replace") if self._has_resolver() else ""
        return SeenNetworks(
            subnets=find_taken_subnets(routes, addresses, xmls, nameservers, own_bridge=own_bridge),
            links=find_taken_links(addresses, xmls),
        )

    def bridge_ports(self, bridge: str) -> frozenset[str]:
        """The links that are plugged into a bridge; none of one that is not there."""
        return find_ports(self._ask("ip", "-j", "link"), bridge)

    def is_dns_served(self, address: IPv4Address) -> bool:
        """Whether something answers names at that address: the dnsmasq of a network, there."""
        return f"{address}:{DNS_PORT}" in self._listeners()

    def find_port_takers(self) -> tuple[str, ...]:
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

    def find_uplink_trouble(self, subnet: IPv4Network) -> str | None:
        """Why guests of a NAT network reach nothing outside; None also where we may not see it."""
        if self._ask("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0":
            return "IPv4 forwarding is off, so guests reach no other network"
        told = [
            text
            for words in (("iptables-save", "-t", "nat"), ("nft", "list", "ruleset"))
            if (text := self._ask_if_allowed(*words)) is not None
        ]
        if not told or any(str(subnet) in text for text in told):
            return None
        # libvirt makes its rules when a network starts, and its chains when the daemon does.
        return (
            "its firewall rules are gone: guests reach no other network until libvirtd is restarted"
        )

    def _listeners(self) -> frozenset[str]:
        """Where programs listen, each as address:port, the address with its device if bound."""
        lines = self._ask("ss", "-H", "-lntu").splitlines()
        return frozenset(words[LOCAL] for line in lines if len(words := line.split()) > LOCAL)

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
