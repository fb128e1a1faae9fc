"""`ai-how cloud`: the verbs for a Kubernetes cluster; those of every kind are in `cluster_*.py`."""

from typing import Annotated

import typer

from ai_how.cli import cluster_verbs as of_any_kind
from ai_how.cli.cluster import Cluster, Words
from ai_how.cli.cluster_files import app as of_files
from ai_how.cli.cluster_list import app as of_all
from ai_how.cli.cluster_logs import app as of_logs
from ai_how.cli.cluster_nodes import app as of_nodes
from ai_how.cli.cluster_ports import app as of_ports
from ai_how.cli.cluster_why import app as of_causes
from ai_how.cli.context import context_of
from ai_how.cli.groups import KindGroup, new_app
from ai_how.cli.kinds import CLOUD


class CloudGroup(KindGroup):
    """The verbs of Kubernetes clusters."""

    kind = CLOUD


app = new_app("Start, stop, inspect and use the Kubernetes cluster.", cls=CloudGroup)
app.command(short_help=of_any_kind.SHORT_OF_START)(of_any_kind.start)


@app.command()
def stop(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    suspend: Annotated[
        bool,
        typer.Option(
            "--suspend", help="Save the memory of all nodes; Pods continue at the next start."
        ),
    ] = False,
) -> None:
    """Power off the cluster, or nodes. Disks and keys are kept; Pods return at the next start."""
    of_any_kind.stop_nodes(context_of(ctx), words, cluster, suspends=suspend)


app.command()(of_any_kind.status)
app.command()(of_any_kind.destroy)
app.command(short_help=of_any_kind.SHORT_OF_RECOVER)(of_any_kind.recover)
app.add_typer(of_all)
app.add_typer(of_nodes)
app.add_typer(of_logs)
app.add_typer(of_files)
app.add_typer(of_ports)
app.add_typer(of_causes)
