"""The host's IPv4 network as `ip`, nft and iptables report it; unknown facts are None."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from ai_how.errors import ToolError
from ai_how.host.reading import read_text
from ai_how.process import find_tool, get_tool, run

ASK_TIMEOUT_S = 5
IPTABLES_CHAIN = "ip filter FORWARD"  # how nft shows the chain that iptables edits


@dataclass(frozen=True, slots=True)
class Route:
    """The interface for packets to a subnet, or of an address in that subnet."""

    subnet: IPv4Network
    device: str | None = None

    @property
    def is_default(self) -> bool:
        """The default route, or one of the halves by which a VPN replaces it."""
        return self.subnet.prefixlen <= 1


@dataclass(frozen=True, slots=True)
class DroppingChain:
    """A chain for forwarded packets with the policy drop, and the tool that edits it."""

    tool: str  # nft, iptables, iptables-legacy
    chain: str  # for nft: "FAMILY TABLE CHAIN"


@dataclass(frozen=True, slots=True)
class Firewall:
    """What blocks forwarded packets."""

    dropping_chains: tuple[DroppingChain, ...] = ()
    has_docker: bool = False


def read_routes() -> tuple[Route, ...] | None:
    """The IPv4 routes of the main table."""
    items = _ask_json("ip", "-j", "-4", "route")
    if items is None:
        return None
    routes = []
    for item in items:
        destination = item.get("dst")
        subnet = _network("0.0.0.0/0" if destination == "default" else destination)
        if subnet:
            routes.append(Route(subnet, _text(item.get("dev"))))
    return tuple(routes)


def read_kernel_routes(root: Path) -> tuple[Route, ...]:
    """The same as /proc/net/route has them, for what runs no program; `root` contains /proc.

    `Iface Destination Gateway Flags RefCnt Use Metric Mask`: addresses as the machine's own numbers
    in hexadecimal (fib_route_seq_show in the kernel's fib_trie.c).
    """
    routes = []
    for line in (read_text(root / "proc/net/route") or "").splitlines()[1:]:
        try:
            device, destination, _, _, _, _, _, mask = line.split()[:8]
            address = IPv4Address(int(destination, 16).to_bytes(4, sys.byteorder))
            subnet = IPv4Network((address, int(mask, 16).bit_count()))
        except (ValueError, OverflowError):
            continue
        routes.append(Route(subnet, device))
    return tuple(routes)


def uplinks_of(routes: Iterable[Route]) -> frozenset[str]:
    """The interfaces of default routes."""
    return frozenset(route.device for route in routes if route.is_default and route.device)


def read_addresses() -> tuple[Route, ...] | None:
    """The subnets of the interfaces' IPv4 addresses, without loopback."""
    items = _ask_json("ip", "-j", "-4", "addr")
    if items is None:
        return None
    found = []
    for item in items:
        for address in _objects(item.get("addr_info") or []):
            subnet = _network(f"{address.get('local')}/{address.get('prefixlen')}")
            if subnet and not subnet.is_loopback:
                found.append(Route(subnet, _text(item.get("ifname"))))
    return tuple(found)


def read_own_addresses() -> tuple[str, ...]:
    """Every IPv4 address of this host, without loopback. Raises ToolError if `ip` fails."""
    told = run([get_tool("ip", package="iproute2"), "-j", "-4", "addr"], timeout_s=ASK_TIMEOUT_S)
    found = [
        str(address.get("local"))
        for link in _objects(json.loads(told.stdout))
        for address in _objects(link.get("addr_info") or [])
    ]
    return tuple(one for one in found if (subnet := _network(one)) and not subnet.is_loopback)


def read_nameservers(root: Path) -> tuple[IPv4Address, ...]:
    """The IPv4 name servers of resolv.conf."""
    found = []
    for line in (read_text(root / "etc/resolv.conf") or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            subnet = _network(words[1])
            if subnet:
                found.append(subnet.network_address)
    return tuple(found)


def read_firewall(root: Path) -> Firewall | None:
    """The chains that forwarded packets must pass; None if we cannot read them (not root).

    A packet must pass every table of both backends, so one accept elsewhere does not help.
    """
    legacy = read_text(root / "proc/net/ip_tables_names")
    seen = [
        _firewall_of_nft(_ask_json("nft", "-j", "list", "chains", inside="nftables")),
        _firewall_of_iptables("iptables"),
        _firewall_of_iptables("iptables-legacy") if legacy else None,
    ]
    known = [firewall for firewall in seen if firewall]
    if not known:
        return None
    chains = {chain: None for firewall in known for chain in firewall.dropping_chains}
    return Firewall(tuple(chains), any(firewall.has_docker for firewall in known))


def _firewall_of_nft(objects: list[dict[str, Any]] | None) -> Firewall | None:
    if not objects:
        return None
    chains = list(_objects([item.get("chain") for item in objects]))
    names = [
        f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    ]
    return Firewall(
        dropping_chains=tuple(
            DroppingChain("nft", name)
            for name in names
            if name.startswith(("ip ", "inet ")) and name != IPTABLES_CHAIN
        ),
        has_docker=any(str(chain.get("name")).startswith("DOCKER") for chain in chains),
    )


def _firewall_of_iptables(tool: str) -> Firewall | None:
    lines = _ask(tool, "-S")
    if lines is None:
        return None
    seen = lines.splitlines()
    return Firewall(
        dropping_chains=(DroppingChain(tool, "FORWARD"),) if "-P FORWARD DROP" in seen else (),
        has_docker=any(line.startswith("-N DOCKER") for line in seen),
    )


def _ask(tool: str, *arguments: str) -> str | None:
    """The output of a program that exits with 0, else None."""
    path = find_tool(tool)
    if path is None:
        return None
    try:
        return run([path, *arguments], timeout_s=ASK_TIMEOUT_S).stdout
    except (ToolError, OSError):
        return None


def _ask_json(tool: str, *arguments: str, inside: str | None = None) -> list[dict[str, Any]] | None:
    """The objects of a list that a program prints as JSON."""
    text = _ask(tool, *arguments)
    try:
        answer = json.loads(text) if text else None
    except ValueError:
        return None
    if inside:
        answer = answer.get(inside) if isinstance(answer, dict) else None
    return list(_objects(answer)) if isinstance(answer, list) else None


def _objects(items: list[Any]) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict))


def _network(text: object) -> IPv4Network | None:
    try:
        return IPv4Network(str(text), strict=False)
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
