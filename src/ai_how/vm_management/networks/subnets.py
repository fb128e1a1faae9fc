"""The IPv4 subnets and interfaces in use on a host, and the choice of a free subnet (pure)."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

from ai_how.errors import HostError
from ai_how.libvirt_client.xml import read_xml

# In the order of preference: the largest block has the fewest collisions.
PRIVATE = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"))
AUTO_PREFIX = 24

# A wider route is a default route, or one of the halves into which a VPN splits it. Every subnet is
# part of it, and a narrower route takes precedence over it: it is no collision.
WIDEST_ROUTE = min(block.prefixlen for block in PRIVATE)

_NAMESERVER = re.compile(r"^\s*nameserver\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TakenSubnet:
    """A subnet that the host uses; `by` names its user, for messages."""

    subnet: IPv4Network
    by: str


@dataclass(frozen=True, slots=True)
class TakenLink:
    """An interface name in use, or reserved by a libvirt network; `by` names its user."""

    name: str
    by: str


def choose_subnet(
    asked: IPv4Network | None,
    taken: Iterable[TakenSubnet],
    cluster_id: UUID,
    *,
    node_count: int = 0,
) -> IPv4Network:
    """The `asked` subnet, or a free one: deterministic for the same cluster and host.

    A free subnet is a /24, or larger if `node_count` nodes need it. Raises HostError that lists the
    collisions and suggests a free subnet of the same size.
    """
    taken = tuple(taken)
    if asked is None:
        from ai_how.spec.nodes import longest_prefix_for  # noqa: PLC0415  seldom needed

        prefix = min(AUTO_PREFIX, longest_prefix_for(node_count))
        if free := _find_free(prefix, taken, cluster_id):
            return free
        raise HostError(
            f"no private /{prefix} is free on this host",
            details=_listed(taken),
            hint="ip -4 route show table all",
        )
    if not (colliding := [t for t in taken if t.subnet.overlaps(asked)]):
        return asked
    free = _find_free(asked.prefixlen, taken, cluster_id)
    raise HostError(
        f"the subnet {asked} is in use on this host",
        details=_listed(colliding),
        hint=f"set network.subnet to {free or 'auto'}",
    )


def find_taken_subnets(
    routes_json: str,
    addresses_json: str,
    network_xmls: Iterable[str],
    resolv_conf: str = "",
    *,
    own_bridge: str | None = None,
) -> tuple[TakenSubnet, ...]:
    """All IPv4 subnets of the host, except those of `own_bridge`.

    Takes the output of `ip -j route show table all` and `ip -j addr`, the XML of libvirt's networks
    and resolv.conf. Raises HostError if one of them cannot be parsed.
    """
    taken: dict[TakenSubnet, None] = {}
    for route in read_records(routes_json, "ip -j route"):
        if own_bridge is None or route.get("dev") != own_bridge:
            taken |= dict.fromkeys(_of_route(route))
    for link in read_records(addresses_json, "ip -j addr"):
        if own_bridge is None or link.get("ifname") != own_bridge:
            taken |= dict.fromkeys(_of_link(link))
    for root in map(read_xml, network_xmls):
        if own_bridge is None or _bridge_of(root) != own_bridge:
            taken |= dict.fromkeys(_of_network(root))
    for nameserver in _NAMESERVER.findall(resolv_conf):
        taken |= dict.fromkeys(_taken(nameserver, "a nameserver in resolv.conf"))
    return tuple(taken)


def find_taken_links(addresses_json: str, network_xmls: Iterable[str]) -> tuple[TakenLink, ...]:
    """The names of the host's interfaces, and of the bridges of libvirt's networks."""
    links = [
        TakenLink(str(link["ifname"]), "an interface of this host")
        for link in read_records(addresses_json, "ip -j addr")
        if link.get("ifname")
    ]
    bridges = [
        TakenLink(bridge, _network_label(root))
        for root in map(read_xml, network_xmls)
        if (bridge := _bridge_of(root))
    ]
    return (*links, *bridges)


def check_bridge(name: str, taken: Iterable[TakenLink]) -> None:
    """Raises HostError if the name of a new bridge is in use."""
    if holders := sorted({link.by for link in taken if link.name == name}):
        raise HostError(
            f"the bridge name {name} is in use on this host",
            details="\n".join(f"{name}: {by}" for by in holders),
            hint="leave network.bridge out: a free name is chosen then",
        )


def _find_free(prefix: int, taken: tuple[TakenSubnet, ...], cluster_id: UUID) -> IPv4Network | None:
    """The first free subnet, from a start position that derives from the cluster's id."""
    position = int.from_bytes(hashlib.sha256(cluster_id.bytes).digest()[:8])
    for block in PRIVATE:
        inside = [t.subnet for t in taken if t.subnet.overlaps(block)]
        if any(block.subnet_of(subnet) for subnet in inside) or prefix < block.prefixlen:
            continue
        count, size = 1 << (prefix - block.prefixlen), 1 << (32 - prefix)
        for step in range(count):
            base = int(block.network_address) + (position + step) % count * size
            candidate = IPv4Network((base, prefix))
            if not any(candidate.overlaps(subnet) for subnet in inside):
                return candidate
    return None


def _listed(taken: Iterable[TakenSubnet]) -> str:
    return "\n".join(f"{t.subnet}: {t.by}" for t in taken)


def read_records(text: str, source: str) -> list[dict[str, Any]]:
    """A JSON list of objects; an empty output counts as an empty list, as `ip` prints it."""
    try:
        records = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise HostError(f"the output of `{source}` is not JSON", details=str(error)) from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise HostError(f"the output of `{source}` is not a list of objects", details=text[:200])
    return records


def _taken(text: object, by: str) -> list[TakenSubnet]:
    """Zero or one subnet: IPv6, `default` and wide routes do not collide."""
    try:
        subnet = IPv4Network(str(text), strict=False)
    except ValueError:
        return []
    return [TakenSubnet(subnet, by)] if subnet.prefixlen >= WIDEST_ROUTE else []


def _of_route(route: dict[str, Any]) -> list[TakenSubnet]:
    label = f"a route through {route['dev']}" if route.get("dev") else "a route"
    return [*_taken(route.get("dst"), label), *_taken(route.get("gateway"), "a gateway")]


def _of_link(link: dict[str, Any]) -> list[TakenSubnet]:
    entries = link.get("addr_info")
    label = f"an address of {link.get('ifname', 'an interface')}"
    return [
        subnet
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
        for subnet in _taken(f"{entry.get('local')}/{entry.get('prefixlen', 32)}", label)
    ]


def _of_network(root: ET.Element) -> list[TakenSubnet]:
    elements = [*root.findall("ip"), *root.findall("route")]
    return [
        subnet for element in elements for subnet in _taken(_cidr(element), _network_label(root))
    ]


def _cidr(element: ET.Element) -> str:
    size = element.get("prefix") or element.get("netmask") or "32"
    return f"{element.get('address')}/{size}"


def _bridge_of(root: ET.Element) -> str | None:
    bridge = root.find("bridge")
    return bridge.get("name") if bridge is not None else None


def _network_label(root: ET.Element) -> str:
    return f"the libvirt network {root.findtext('name', 'without a name')!r}"
