"""How this host reaches the outside: its proxies, apt's settings, and certificates of its own.

Guests and image builds are given the same. Values may contain a password: they are never logged.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ai_how.errors import ToolError
from ai_how.process import find_tool, run

ASK_TIMEOUT_S = 5
# The variables that curl, apt, git, pip and wget read, in lower case.
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
NO_PROXY = "no_proxy"
DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
# Where an administrator adds certificate authorities: Debian, Fedora, Arch, SUSE.
CERTIFICATES = (
    ("usr/local/share/ca-certificates", "*.crt"),
    ("etc/pki/ca-trust/source/anchors", "*"),
    ("etc/ca-certificates/trust-source/anchors", "*"),
    ("etc/pki/trust/anchors", "*"),
)
LARGEST_BYTES = 1 << 20
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?")
_APT = re.compile(r'^(Acquire::(?:http|https|ftp)::Proxy(?:::[\w.-]+)?) "([^"\n]*)";$', re.M)


@dataclass(frozen=True, slots=True)
class OutsideAccess:
    """What is to be set where the outside is to be reached as from this host."""

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """URLs by variable, in lower case."""
    no_proxy: str = ""
    apt: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Options of apt: `Acquire::http::Proxy` and the like."""
    certificates: tuple[str, ...] = field(default=(), repr=False)
    """Certificate authorities of the administrator's, each in PEM."""
    own: frozenset[str] = frozenset()
    """Names and addresses of this host besides loopback, at which guests may not connect."""

    def __bool__(self) -> bool:
        return bool(self.proxies or self.apt or self.certificates)

    @property
    def local_ports(self) -> frozenset[int]:
        """The ports of this host at which one of the proxies listens."""
        urls = (*self.proxies.values(), *self.apt.values())
        return frozenset(port for url in urls if (port := self._local_port(url)))

    def by_gateway(self, address: str) -> "OutsideAccess":
        """The same for guests: a proxy on this host is at `address`."""

        def moved(url: str) -> str:
            port = self._local_port(url)
            return _moved(url, f"{address}:{port}") if port else url

        return replace(
            self,
            proxies={name: moved(url) for name, url in self.proxies.items()},
            apt={name: moved(url) for name, url in self.apt.items()},
        )

    def without_local(self) -> "OutsideAccess":
        """The same without the proxies on this host, which guests cannot reach."""
        return replace(
            self,
            proxies={name: url for name, url in self.proxies.items() if not self._local_port(url)},
            apt={name: url for name, url in self.apt.items() if not self._local_port(url)},
        )

    def _local_port(self, url: str) -> int | None:
        """The port of a proxy on this host, None for any other."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host = parts.hostname or ""
            if host != "localhost" and host not in self.own and not ip_address(host).is_loopback:
                return None
            return parts.port or DEFAULT_PORTS.get(parts.scheme, 80)
        except ValueError:
            return None

    def environment(self, own: Iterable[str] = ()) -> dict[str, str]:
        """The variables, in both cases; `own` are names and networks for which none is used."""
        if not self.proxies:
            return {}
        besides = dict.fromkeys(["localhost", "127.0.0.1", *self.no_proxy.split(","), *own])
        values = {**self.proxies, NO_PROXY: ",".join(word for word in besides if word)}
        return values | {name.upper(): value for name, value in values.items()}

    def for_builds(self) -> dict[str, str]:
        """The variables for a program of this host; a proxy that only apt has serves all."""
        of_apt = {
            f"{scheme}_proxy": url
            for scheme in ("http", "https", "ftp")
            if (url := self.apt.get(f"Acquire::{scheme}::Proxy", "DIRECT")) != "DIRECT"
        }
        return replace(self, proxies={**of_apt, **self.proxies}).environment()


def read_outside_access(
    environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> OutsideAccess:
    """What this host has. What cannot be read is left out: it only helps."""
    told = {name: environ.get(name) or environ.get(name.upper()) or "" for name in PROXIES}
    proxies = {name: url for name, url in told.items() if _is_usable(url)}
    no_proxy = environ.get(NO_PROXY) or environ.get(NO_PROXY.upper()) or ""
    apt = _apt_settings()
    return OutsideAccess(
        proxies,
        ",".join(_words(no_proxy)),
        apt,
        read_certificates(root),
        _own() if proxies or apt else frozenset(),
    )


def _is_usable(url: str) -> bool:
    """Whether a variable holds one URL, and nothing that a file of settings could not hold."""
    if not url.isprintable() or re.search(r"[\s\"'\\$`]", url):
        return False
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _words(text: str) -> Sequence[str]:
    return [word for word in re.split(r"[,\s]+", text) if re.fullmatch(r"[\w.*:/\[\]-]+", word)]


def _apt_settings() -> dict[str, str]:
    tool = find_tool("apt-config")
    if tool is None:
        return {}
    try:
        told = run([tool, "dump"], timeout_s=ASK_TIMEOUT_S).stdout
    except ToolError:
        return {}
    found = dict(_APT.findall(told))
    return {name: url for name, url in found.items() if url == "DIRECT" or _is_usable(url)}


def read_certificates(root: Path = Path("/")) -> tuple[str, ...]:
    """The certificate authorities that an administrator added to this host, each in PEM."""
    return tuple(dict.fromkeys(_certificates(root)))


def _certificates(root: Path) -> Iterable[str]:
    for directory, pattern in CERTIFICATES:
        for path in sorted((root / directory).rglob(pattern)):
            try:
                if path.is_file() and path.stat().st_size <= LARGEST_BYTES:
                    text = path.read_text(errors="replace").replace("\r", "")
                    yield from (f"{one.strip()}\n" for one in _PEM.findall(text))
            except OSError:
                continue


def _own() -> frozenset[str]:
    """The names and addresses of this host, as far as they are known without asking anybody."""
    name = socket.gethostname().lower()
    tool = find_tool("ip")
    try:
        told = json.loads(run([tool or "ip", "-j", "addr"], timeout_s=ASK_TIMEOUT_S).stdout)
        addresses = [one["local"] for link in told for one in link.get("addr_info", ())]
    except (ToolError, ValueError, KeyError, TypeError):
        addresses = []
    return frozenset((name, name.partition(".")[0], *addresses))


def _moved(url: str, place: str) -> str:
    """The same URL at another host and port."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{place}"))
