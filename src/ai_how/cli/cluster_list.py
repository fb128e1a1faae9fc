"""`list` of each kind, and of all: the clusters of the user."""

from typing import TYPE_CHECKING

import typer

from ai_how import console
from ai_how.cli.cluster_view import size_text
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.kinds import HPC, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_how.clusters.listing import ClusterSummary

app = new_app()


@app.command("list", short_help="List all clusters of the user.")
def list_all(ctx: typer.Context) -> None:
    """List all clusters of the user, also those that are off.

    A cluster is up if all its VMs are on. Whether {software} is ready, `{kind} status` says.
    """
    context = context_of(ctx)
    show_clusters(context, context.kind)


def show_clusters(context: Context, kind: Kind | None) -> None:
    """Print the clusters of one kind, and those of which none is known; None: all, with kinds."""
    from ai_how.clusters.listing import list_clusters

    found = list_clusters(context.roots)
    if kind is not None:
        found = tuple(one for one in found if one.kind in (None, kind.name))
    if context.is_json:
        console.show_json(found)
    elif not found:
        start = (kind or HPC).name
        console.show_line(f"there are no clusters; to start one: ai-how {start} start")
    else:
        _show(found, has_kinds=kind is None)


def _show(found: "Sequence[ClusterSummary]", *, has_kinds: bool) -> None:
    columns: dict[str, list[str | None]] = {"cluster": [one.name for one in found]}
    if has_kinds:
        columns["kind"] = [one.kind for one in found]
    columns |= {
        "state": [one.state for one in found],
        "nodes on": [
            None if one.nodes is None else f"{_text(one.nodes_on)} of {one.nodes}" for one in found
        ],
        "disk": [None if one.disk_mib is None else size_text(one.disk_mib) for one in found],
        "host": [one.host for one in found],
        "created": [
            f"{one.created_at.astimezone():%Y-%m-%d %H:%M}" if one.created_at else None
            for one in found
        ],
    }
    console.show_table(list(columns), list(zip(*columns.values(), strict=True)))
    for one in found:
        if one.doing:
            console.show_line(f"{one.name}: {one.doing} is under way")
        if one.trouble:
            console.show_line(f"{one.name}: {one.trouble}")


def _text(count: int | None) -> str:
    return "?" if count is None else str(count)
