"""The name servers of guests on the embedded host, or why they have none."""

from ai_how.host.checks import Check, Status, install
from ai_how.host.facts import HostFacts
from ai_how.host.guest_rules import NO_PASTA
from ai_how.host.uplink import uplink_remedy

CHECK = "names"
LOOK = "cat /etc/resolv.conf"


def check_names(facts: HostFacts) -> Check:
    """Guests use this host as their resolver, so they get the names that it gets."""
    if facts.no_uplink:
        is_missing = facts.no_uplink == NO_PASTA
        advice = install("pasta") if is_missing else uplink_remedy(facts.no_uplink)
        found = f"guests on the embedded host have no uplink and no DNS: {facts.no_uplink}"
        return Check(CHECK, Status.HINT, found, advice)
    resolver = facts.resolver
    if resolver is None:
        return Check(CHECK, Status.WARNING, "not known", LOOK)
    servers = ", ".join(resolver.servers)
    if not set(resolver.servers) - set(resolver.silent):
        why = "" if resolver.has_file else " (there is no /etc/resolv.conf)"
        found = f"none: this host uses {servers}{why}, where no name server listens"
        return Check(CHECK, Status.WARNING, found, LOOK)
    return Check(CHECK, Status.OK, f"guests use the name servers of this host: {servers}")
