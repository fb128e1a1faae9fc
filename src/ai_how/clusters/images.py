"""The images that a start needs and that are not built yet."""

from collections.abc import Sequence

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.preflight.node_images import catalogue_of
from ai_how.images.build import Watcher
from ai_how.spec.models import ClusterFile
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots


def find_missing_images(
    kind: ClusterKind, spec: ClusterFile, state: ClusterState | None, roots: Roots
) -> tuple[str, ...]:
    """What `build_images` must build before a start: the images of new nodes."""
    known = {one.name for one in state.nodes} if state else set[str]()
    nodes = kind.nodes_of(kind.section_of(spec))
    new = {node.base_image for node in nodes if node.name not in known}
    return catalogue_of(roots, spec).missing(new) if new else ()


def build_images(spec: ClusterFile, names: Sequence[str], roots: Roots, watch: Watcher) -> None:
    """Build these images of the file, each in about a minute; `watch` is told the progress."""
    catalogue_of(roots, spec).build(names, watch=watch)
