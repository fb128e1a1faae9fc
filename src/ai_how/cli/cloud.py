"""`ai-how cloud`: the verbs for a Kubernetes cluster; those of every kind are in `cluster_*.py`."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from ai_how import console
from ai_how.cli import cluster_verbs as of_any_kind
from ai_how.cli.cloud_kubeconfig import app as of_kubeconfig
from ai_how.cli.cloud_kubectl import app as of_kubectl
from ai_how.cli.cluster import Cluster, Words
from ai_how.cli.cluster_files import app as of_files
from ai_how.cli.cluster_list import app as of_all
from ai_how.cli.cluster_logs import app as of_logs
from ai_how.cli.cluster_nodes import app as of_nodes
from ai_how.cli.cluster_ports import app as of_ports
from ai_how.cli.cluster_why import app as of_causes
from ai_how.cli.groups import KindGroup, new_app
from ai_how.cli.kinds import CLOUD
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.cloud.manager import CloudManager
    from ai_how.clusters.manager import ClusterManager

RotateCerts = Annotated[
    bool,
    typer.Option(
        "--rotate-certs", help="Make new certificates for the nodes and for `cloud kubeconfig`."
    ),
]


class CloudGroup(KindGroup):
    """The verbs of Kubernetes clusters."""

    kind = CLOUD


app = new_app("Start, stop, inspect and use the Kubernetes cluster.", cls=CloudGroup)


@app.command(short_help=of_any_kind.SHORT_OF_START)
def start(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    dry_run: of_any_kind.DryRun = False,
    keep_on_failure: of_any_kind.KeepOnFailure = False,
    no_warm: of_any_kind.NoWarm = False,
    rotate_certs: RotateCerts = False,
) -> None:
    """Start the cluster; return when {until_whole}.

    A start creates what is missing and repairs what is broken. Nodes with auto_start: false are
    created, but stay off unless they are named. --cluster uses the file of the cluster's last
    start, of which its state has a copy.
    """
    if rotate_certs and dry_run:
        raise SpecError("--rotate-certs cannot be used with --dry-run, which changes nothing")

    def prepare(manager: "ClusterManager") -> None:
        ours = cast("CloudManager", manager)
        ending = None if rotate_certs else ours.find_ending_certificate()
        if ending:
            console.show_warning(f"{ending}: all certificates of the nodes are made anew")
        if rotate_certs or ending:
            ours.rotate_certificates()

    of_any_kind.run_start(ctx, words, cluster, dry_run, keep_on_failure, no_warm, prepare)


app.command()(of_any_kind.stop)
app.command()(of_any_kind.status)
app.command()(of_any_kind.destroy)
app.command(short_help=of_any_kind.SHORT_OF_RECOVER)(of_any_kind.recover)
app.add_typer(of_all)
app.add_typer(of_nodes)
app.add_typer(of_logs)
app.add_typer(of_files)
app.add_typer(of_ports)
app.add_typer(of_causes)
app.add_typer(of_kubectl)
app.add_typer(of_kubeconfig)
