"""The images that a start needs and that are not built yet."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.preflight.node_images import catalogue_of
from ai_how.clusters.prepare_images import ImagePreparer
from ai_how.host.place import HypervisorHost
from ai_how.images.build import USUAL, BuildOptions, Watcher
from ai_how.images.manifest import Image
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


def build_images(
    kind: ClusterKind,
    spec: ClusterFile,
    names: Sequence[str],
    roots: Roots,
    find_place: Callable[[], HypervisorHost],
    *,
    watch: Watcher,
    warn: Callable[[str], None],
    options: BuildOptions = USUAL,
) -> tuple[Image, ...]:
    """Build these images, each in about a minute; `watch` is told the progress.

    Imported disks are prepared on the host that `find_place` returns, which takes minutes.
    """

    def prepare(image: Image, watch: Watcher) -> Image:
        preparer = ImagePreparer(kind.section_of(spec), find_place(), roots, warn)
        return preparer.prepare(image, watch)

    catalogue = replace(catalogue_of(roots, spec), preparer=prepare)
    return catalogue.build(names, watch=watch, options=options)
