"""What the networks of a host look like from where its VMs run; changes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ai_how.process import run
from ai_how.vm_management.subnets import (
    TakenLink,
    TakenSubnet,
    find_taken_links,
    find_taken_subnets,
)

ASK_TIMEOUT_S = 20


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

    def _ask(self, *argv: str) -> str:
        return run([*self.enter, *argv], timeout_s=ASK_TIMEOUT_S).stdout

    def _has_resolver(self) -> bool:
        return self.resolv_conf.is_file()
