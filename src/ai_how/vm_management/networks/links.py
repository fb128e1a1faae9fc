"""The network interfaces of a host, and the problems of a network's bridge (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ai_how.vm_management.networks.subnets import read_records

ADDRESSES = ("ip", "-j", "addr")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface of a host; each of `addresses` has its prefix length."""

    name: str
    mac: str
    master: str | None
    is_up: bool
    addresses: frozenset[str]


def read_links(text: str) -> Mapping[str, Link]:
    """The interfaces by name, from the output of `ip -j addr`."""
    records = read_records(text, " ".join(ADDRESSES))
    return {str(record["ifname"]): _read_link(record) for record in records if record.get("ifname")}


def find_bridge_problem(links: Mapping[str, Link], bridge: str, address: str) -> str | None:
    """Why the bridge of an active network carries no traffic; None if there is no problem.

    `address` is the bridge's address with its prefix length.
    """
    link = links.get(bridge)
    if link is None:
        return f"its bridge {bridge} is gone"
    if not link.is_up:
        return f"its bridge {bridge} is down"
    if address not in link.addresses:
        return f"its bridge {bridge} has lost its address {address}"
    return None


def find_ports(links: Mapping[str, Link], bridge: str) -> frozenset[str]:
    """The interfaces attached to a bridge; empty for a missing bridge."""
    return frozenset(link.name for link in links.values() if link.master == bridge)


def _read_link(record: dict[str, Any]) -> Link:
    entries, flags, master = (record.get(key) for key in ("addr_info", "flags", "master"))
    return Link(
        name=str(record["ifname"]),
        mac=str(record.get("address", "")).lower(),
        master=str(master) if master else None,
        is_up="UP" in flags if isinstance(flags, list) else False,
        addresses=frozenset(
            f"{entry.get('local')}/{entry.get('prefixlen')}"
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict)
        ),
    )
