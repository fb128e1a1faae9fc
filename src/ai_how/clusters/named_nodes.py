"""Looks up the cluster and the nodes that a user names."""

from collections.abc import Collection, Mapping

from ai_how.errors import HostError, SpecError, StateError
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.state.models import ClusterState, NodeState


def no_such_cluster(
    kind: str, name: str, there: Mapping[str, str], *, is_named: bool
) -> StateError:
    """The error for a cluster that is not there; `is_named` if no file has its name.

    `there` has the kinds of the clusters that there are. Without its file `start` would make
    another cluster.
    """
    hint = f"ai-how {kind} start"
    if is_named:
        other = min(there, key=lambda one: there[one] != kind, default=None)
        hint = f"ai-how {there[other]} status --cluster {other}" if other else f"{hint} FILE"
    return StateError(
        f"there is no cluster {name}",
        details=f"clusters of this user: {', '.join(there) or 'none'}",
        hint=hint,
    )


def check_nodes(cluster: str, there: Collection[str], asked: Collection[str]) -> None:
    """Raises SpecError for the first name that is not a node of the cluster."""
    for name in asked:
        if name not in there:
            raise SpecError(
                f"cluster {cluster} has no node {name}",
                details=f"it has: {', '.join(there) or 'none'}",
            )


def get_named(state: ClusterState, name: str) -> NodeState:
    """A node by its name, or by the name of its VM. Raises SpecError if there is none."""
    named = {one.domain_name: one for one in state.nodes} | {one.name: one for one in state.nodes}
    if name not in named:
        check_nodes(state.name, [one.name for one in state.nodes], [name])
    return named[name]


def require_on(client: LibvirtClient, node: NodeState, kind: str) -> None:
    """Raises HostError if the node's VM is off, suspended or gone. `kind` is the verb group."""
    seen = client.find_domain(node.uuid)
    if seen is None:
        raise HostError(f"{node.name} has no VM", hint=f"ai-how {kind} start {node.name}")
    if seen.has_managed_save:
        raise HostError(f"{node.name} is suspended", hint=f"ai-how {kind} start")
    if seen.state is VmState.SHUT_OFF:
        raise HostError(f"{node.name} is off", hint=f"ai-how {kind} start {node.name}")
