"""Checks of the ports of nodes that are reached at this host."""

from collections.abc import Iterator
from ipaddress import ip_address

from ai_how.spec.expose import ExposedPort
from ai_how.spec.models import HpcSpec
from ai_how.spec.node_specs import MAX_NODES
from ai_how.spec.nodes import Role, compute_name, count_of
from ai_how.spec.problems import Finding, Loc, error_at, render_path, render_value, warning_at

MOST = 100
_LOC: Loc = ("clusters", "hpc", "expose")


def check_expose(hpc: HpcSpec) -> Iterator[Finding]:
    """Yield what cannot be, and every address that other hosts reach."""
    if len(hpc.expose) > MOST:
        yield error_at(f"found {len(hpc.expose)} ports; the maximum is {MOST}", _LOC)
    count = min(sum(map(count_of, hpc.compute_nodes)), MAX_NODES)
    computes = [compute_name(number) for number in range(1, count + 1)]
    some = " to ".join(dict.fromkeys([*computes[:1], *computes[-1:]]))
    for index, one in enumerate(hpc.expose):
        here = (*_LOC, index)
        if one.node not in (Role.CONTROLLER.value, *computes):
            yield error_at(
                f"found {render_value(one.node)}; allowed: {Role.CONTROLLER}, or {some}",
                (*here, "node"),
                ("clusters", "hpc", "compute_nodes"),
            )
        before = [at for at, other in enumerate(hpc.expose[:index]) if _collide(one, other)]
        if before:
            place = (*here, "host_port" if one.host_port else "port")
            first = (*_LOC, before[0])
            yield error_at(f"{one.place[1]} is also the port of {render_path(first)}", place, first)
        if not ip_address(one.address).is_loopback:
            yield warning_at(
                f"every host that reaches {one.address} reaches port {one.port} of {one.node}",
                (*here, "address"),
            )


def _collide(one: ExposedPort, other: ExposedPort) -> bool:
    addresses = [ip_address(each.address) for each in (one, other)]
    if one.place[1] != other.place[1] or addresses[0].version != addresses[1].version:
        return False
    return addresses[0] == addresses[1] or any(each.is_unspecified for each in addresses)
