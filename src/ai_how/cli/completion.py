"""The names that a shell completes: clusters, nodes and images. A fault completes nothing."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ai_how.state.paths import Roots


def complete_cluster(ctx: typer.Context, incomplete: str) -> list[str]:
    """The clusters of the user."""
    return [name for name in _roots(ctx).cluster_names() if name.startswith(incomplete)]


def complete_node(ctx: typer.Context, incomplete: str) -> list[str]:
    """The nodes of the named cluster, else of all clusters of the user."""
    roots = _roots(ctx)
    named = ctx.params.get("cluster") or os.environ.get("AI_HOW_CLUSTER")
    names = [named] if named else roots.cluster_names()
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


def _nodes_of(state: Path) -> Iterator[str]:
    # Read without its model, which is slow to load: a shell waits for this.
    with suppress(OSError, ValueError, KeyError, TypeError):
        for node in json.loads(state.read_text("utf-8"))["nodes"]:
            yield str(node["name"])
