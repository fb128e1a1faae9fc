"""Looks up the nodes that a user names."""

from collections.abc import Collection

from ai_how.errors import SpecError
from ai_how.state.models import ClusterState, NodeState


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
