"""`ai-how cloud`: the verbs for a Kubernetes cluster; those of every kind are in `cluster_*.py`."""

from ai_how.cli import cluster_verbs as of_any_kind
from ai_how.cli.cloud_kubeconfig import app as of_kubeconfig
from ai_how.cli.cloud_kubectl import app as of_kubectl
from ai_how.cli.cluster_files import app as of_files
from ai_how.cli.cluster_list import app as of_all
from ai_how.cli.cluster_logs import app as of_logs
from ai_how.cli.cluster_nodes import app as of_nodes
from ai_how.cli.cluster_ports import app as of_ports
from ai_how.cli.cluster_why import app as of_causes
from ai_how.cli.groups import KindGroup, new_app
from ai_how.cli.kinds import CLOUD


class CloudGroup(KindGroup):
    """The verbs of Kubernetes clusters."""

    kind = CLOUD


app = new_app("Start, stop, inspect and use the Kubernetes cluster.", cls=CloudGroup)
app.command(short_help=of_any_kind.SHORT_OF_START)(of_any_kind.start)
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
