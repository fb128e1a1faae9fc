"""All clusters of a user: a damaged state of one does not hide the others."""

from collections.abc import Mapping

from ai_how.errors import StateError
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots


def read_every_state(roots: Roots) -> dict[str, ClusterState | StateError]:
    """The state of each cluster by name, or why it cannot be read."""
    found: dict[str, ClusterState | StateError] = {}
    for name in roots.cluster_names():
        try:
            state = read_state(roots.cluster(name))
        except StateError as error:
            found[name] = error
        else:
            if state is not None:
                found[name] = state
    return found


def users_of_image(states: Mapping[str, ClusterState | StateError], digest: str) -> dict[str, str]:
    """The clusters with a node of this image and the kind of each, as far as states can be read."""
    return {
        name: state.kind
        for name, state in states.items()
        if not isinstance(state, StateError)
        and any(node.image_digest == digest for node in state.nodes)
    }
