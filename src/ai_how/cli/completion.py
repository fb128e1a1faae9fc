"""The names that a shell completes: clusters, nodes and images. A fault completes nothing."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ai_how.cli.kinds import HPC, KINDS

if TYPE_CHECKING:
    from ai_how.state.paths import Roots


def complete_cluster(ctx: typer.Context, incomplete: str) -> list[str]:
    """The clusters of the user, of the kind to whose group the verb belongs."""
    return [name for name in _clusters(ctx) if name.startswith(incomplete)]


def complete_node(ctx: typer.Context, incomplete: str) -> list[str]:
    """The nodes of the named cluster, else of all clusters that `complete_cluster` has."""
    roots = _roots(ctx)
    named = ctx.params.get("cluster") or os.environ.get("AI_HOW_CLUSTER")
    names = [named] if named else _clusters(ctx)
    found = {node for name in names for node in _nodes_of(roots.cluster(name).state)}
    return sorted(name for name in found if name.startswith(incomplete))


def complete_image(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the images in the store."""
    from ai_how.images.manifest import Image
    from ai_how.images.store import ImageStore

    images = ImageStore(_roots(ctx).images).list()
    names = {image.name for image in images if isinstance(image, Image)}
    return sorted(name for name in names if name.startswith(incomplete))


def _roots(ctx: typer.Context) -> "Roots":
    from ai_how.state.paths import default_roots

    state_dir = ctx.find_root().params.get("state_dir")
    return default_roots(Path(state_dir) if state_dir else None)


def _clusters(ctx: typer.Context) -> list[str]:
    """Those of one kind, and those of which the kind is not known; of all verbs but a kind's: all.

    The groups of a kind have its name, and a shell runs none of them.
    """
    roots, names = _roots(ctx), set[str]()
    above: Any = ctx
    while above is not None:
        names.add(above.info_name)
        above = above.parent
    group = next((kind for kind in KINDS if kind in names), None)
    return [
        name
        for name in roots.cluster_names()
        if group is None or _kind_of(roots.cluster(name).state) in (None, group)
    ]


def _kind_of(state: Path) -> str | None:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        # Older versions wrote none: it was always SLURM.
        return str(_read(state).get("kind", HPC.name))
    return None


def _nodes_of(state: Path) -> Iterator[str]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        for node in _read(state)["nodes"]:
            yield str(node["name"])


def _read(state: Path) -> Any:  # noqa: ANN401  nothing of it is known
    """Without its model, which is slow to load: a shell waits for this."""
    return json.loads(state.read_text("utf-8"))
