"""Ports of the host that a verb opened for a cluster, and that each start opens again.

They are beside those of the file (expose), on the loopback, and keep their numbers: what the user
has made with one goes on to work. That of a node which leads its cluster leads to any such node.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from ai_how.clusters.cluster_access import ClusterAccess, client_of
from ai_how.errors import HostError
from ai_how.host.ports import Port, ServedPorts, find_ports, listen, open_ports
from ai_how.spec.roles import Role
from ai_how.state.files import read_file, replaced_atomically
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths, Roots

LOOPBACK = "127.0.0.1"
LARGEST = 1 << 16
_WAIT_S = 10.0


def read_kept(paths: ClusterPaths, state: ClusterState) -> tuple[Port, ...]:
    """The ports that are kept, of nodes that there still are. A file that is damaged has none."""
    return tuple(
        _leading_to(state, node, one) for one in _read(paths) if (node := state.find_node(one.node))
    )


def openable(
    kept: Iterable[Port],
    exposed: Iterable[Port],
    there: ServedPorts | None,
    warn: Callable[[str], None],
) -> tuple[Port, ...]:
    """Those that a start can open; `warn` gets the others, which another program has.

    The file of the cluster goes first: what it exposes is `exposed`.
    """
    taken = {one.host_port for one in exposed}
    found = []
    for one in kept:
        if one.host_port in taken or not (_is_among(one, there) or _is_free(one.host_port)):
            warn(f"{one.place} is in use: {one.node}:{one.port} is not reached there now")
        else:
            found.append(one)
    return tuple(found)


def keep_port(access: ClusterAccess, node: NodeState, port: int) -> Port:
    """Have a port of the loopback lead to a port of a node, while the cluster is up.

    It is opened now if a node that it leads to is on, and by each start. Its number is that of the
    node if that is free, and stays the same until another program takes it. Raises LockedError
    while another verb is under way.
    """
    paths, place = access.paths, access.place()
    with held_lock(paths.lock, doing=f"{access.kind.name} port of {node.name}", wait_s=_WAIT_S):
        there = find_ports(paths)
        state = access.get_state()
        before = read_kept(paths, state)
        others = tuple(one for one in before if (one.node, one.port) != (node.name, port))
        mine = next((one for one in before if one not in others), None)
        if mine is None or not (_is_among(mine, there) or _is_free(mine.host_port)):
            number = _choose(access.roots, port)
            mine = _leading_to(state, node, Port(node.name, port, LOOPBACK, number, ""))
        _write(paths, (*others, mine))
        if place.is_up and _is_any_on(access, (node, *_spares(state, node))):
            exposed = (one for one in (there.ports if there else ()) if one not in before)
            open_ports(paths, place.way_in(), (*exposed, *others, mine))
    return mine


def _leading_to(state: ClusterState, node: NodeState, port: Port) -> Port:
    spares = tuple(str(one.ip) for one in _spares(state, node))
    return replace(port, node_address=str(node.ip), spare_addresses=spares)


def _spares(state: ClusterState, node: NodeState) -> tuple[NodeState, ...]:
    """The nodes that can answer for a node: those that lead the cluster as it does."""
    if node.role is not Role.CONTROLLER:
        return ()
    return tuple(
        one for one in state.nodes if one.role is Role.CONTROLLER and one.name != node.name
    )


def _read(paths: ClusterPaths) -> tuple[Port, ...]:
    with suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads(read_file(paths.kept_ports, largest=LARGEST))
        return tuple(
            Port(str(one["node"]), int(one["port"]), LOOPBACK, int(one["host_port"]), "")
            for one in told["ports"]
        )
    return ()


def _write(paths: ClusterPaths, ports: Iterable[Port]) -> None:
    told = [{"node": one.node, "port": one.port, "host_port": one.host_port} for one in ports]
    with replaced_atomically(paths.kept_ports) as draft:
        draft.write_text(json.dumps({"ports": told}))


def _choose(roots: Roots, port: int) -> int:
    """The same number if it is free, and no other cluster keeps it; else any that is free."""
    kept = {one.host_port for name in roots.cluster_names() for one in _read(roots.cluster(name))}
    if port not in kept and _is_free(port):
        return port
    while True:
        with listen(LOOPBACK, 0) as line:
            number = int(line.getsockname()[1])
        if number not in kept:
            return number


def _is_free(number: int) -> bool:
    try:
        listen(LOOPBACK, number).close()
    except HostError:
        return False
    return True


def _is_among(port: Port, there: ServedPorts | None) -> bool:
    """Whether the cluster has it open."""
    return there is not None and there.is_current and port in there.ports


def _is_any_on(access: ClusterAccess, nodes: Iterable[NodeState]) -> bool:
    with client_of(access.place()) as client:
        seen = [client.find_domain(one.uuid) for one in nodes]
    return any(one is not None and one.state.is_on for one in seen)
