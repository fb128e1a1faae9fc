"""`list` of each kind, and of all: the clusters of the user."""

from typing import TYPE_CHECKING

import typer

from ai_how import console
from ai_how.cli.cluster_view import size_text
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app

if TYPE_CHECKING:
    from ai_how.clusters.listing import ClusterSummary

app = new_app()


@app.command("list", short_help="List all clusters of the user.")
def list_all(ctx: typer.Context) -> None:
    """List all clusters of the user, also those that are off.

    A cluster is up if all its VMs are on. Whether {software} is ready, `{kind} status` says.
    """
    from ai_how.clusters.listing import list_clusters

    context = context_of(ctx)
    kind = context.kind.name
    found = [one for one in list_clusters(context.roots) if one.kind in (None, kind)]
    if context.is_json:
        console.show_json(found)
    elif not found:
        console.show_line(f"there are no clusters; to start one: ai-how {kind} start")
    else:
        _show(found)


def _show(found: "list[ClusterSummary]") -> None:
    console.show_table(
        ["cluster", "state", "nodes on", "disk", "host", "created"],
        [
            [
                one.name,
                one.state,
                None if one.nodes is None else f"{_text(one.nodes_on)} of {one.nodes}",
                None if one.disk_mib is None else size_text(one.disk_mib),
                one.host,
                one.created_at and f"{one.created_at.astimezone():%Y-%m-%d %H:%M}",
            ]
            for one in found
        ],
    )
    for one in found:
        if one.doing:
            console.show_line(f"{one.name}: {one.doing} is under way")
        if one.trouble:
            console.show_line(f"{one.name}: {one.trouble}")


def _text(count: int | None) -> str:
    return "?" if count is None else str(count)
