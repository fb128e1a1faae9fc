"""`ai-how list`: all clusters of the user, of every kind."""

import typer

from ai_how.cli.cluster_list import show_clusters
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app

app = new_app()


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List all clusters of the user, of every kind, also those that are off.

    A cluster is up if all its VMs are on. Whether its software is ready, `status` says.
    """
    show_clusters(context_of(ctx), None)
