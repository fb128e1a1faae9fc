"""Checks of the ports of nodes that are reached at this host."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from ai_how.spec.expose import ExposedPort
from ai_how.spec.problems import Finding, Loc, error_at, render_path, render_value, warning_at

MOST = 100


def check_expose(
    ports: Sequence[ExposedPort], nodes: Sequence[str], kind: str
) -> Iterator[Finding]:
    """Yield what cannot be, and every address that other hosts reach; `nodes` are all nodes."""
    loc: Loc = ("clusters", kind, "expose")
    if len(ports) > MOST:
        yield error_at(f"found {len(ports)} ports; the maximum is {MOST}", loc)
    first_node, *others = nodes
    some = " to ".join(dict.fromkeys([*others[:1], *others[-1:]]))
    allowed = f"{first_node}, or {some}" if some else first_node
    for index, one in enumerate(ports):
        here = (*loc, index)
        if one.node not in nodes:
            yield error_at(
                f"found {render_value(one.node)}; allowed: {allowed}",
                (*here, "node"),
                ("clusters", kind, "compute_nodes" if kind == "hpc" else "worker_nodes"),
            )
        before = [at for at, other in enumerate(ports[:index]) if _collide(one, other)]
        if before:
            place = (*here, "host_port" if one.host_port else "port")
            first = (*loc, before[0])
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
