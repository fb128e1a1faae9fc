"""The name servers of this host, and whether the local ones are running."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ai_how.host.reading import read_text

# resolv.conf(5): without a nameserver line, the one on the local machine.
DEFAULT = "127.0.0.1"
PORT_HEX = "0035"


@dataclass(frozen=True, slots=True)
class Resolver:
    """`silent` are servers on this host at whose addresses no process listens."""

    servers: tuple[str, ...]
    silent: tuple[str, ...] = ()
    has_file: bool = True


def read_resolver(root: Path) -> Resolver:
    """The current content of resolv.conf, through any link."""
    text = read_text(root / "etc/resolv.conf")
    servers = tuple(find_servers(text or "")) or (DEFAULT,)
    listening = _listeners(root)
    return Resolver(
        servers=servers,
        silent=tuple(one for one in servers if not _is_served(one, listening)),
        has_file=text is not None,
    )


def find_servers(resolv_conf: str) -> list[str]:
    """The addresses of name servers, a link-local one with its interface: fe80::1%eth0."""
    lines = (line.split() for line in resolv_conf.splitlines())
    named = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [one for one in named if _address(one)]


def _is_served(server: str, listening: frozenset[str] | None) -> bool:
    address = _address(server)
    # Only a question would tell whether a remote address is served.
    if listening is None or address is None or not address.is_loopback:
        return True
    # A process that listens at all IPv6 addresses mostly accepts IPv4, too.
    every = {"::"} if isinstance(address, IPv6Address) else {"::", "0.0.0.0"}  # noqa: S104
    return bool(listening & {str(address), *every})


def _listeners(root: Path) -> frozenset[str] | None:
    """The addresses at which a process listens; None if unknown."""
    tables = [read_text(root / "proc/net" / name) for name in ("udp", "udp6")]
    if tables == [None, None]:
        return None
    text = "\n".join(table or "" for table in tables)
    return frozenset(
        _address_of(packed)
        for packed in re.findall(rf"^\s*\d+: ([0-9A-F]+):{PORT_HEX} ", text, re.MULTILINE)
    )


def _address_of(packed: str) -> str:
    """An address of /proc/net: words of four bytes, each written as a number of this machine."""
    words = [bytes.fromhex(packed[at : at + 8])[::-1] for at in range(0, len(packed), 8)]
    return str(ip_address(b"".join(words)))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
