"""`ai-how hpc`: the verbs for a SLURM cluster; those of every kind are in `cluster_*.py`."""

from typing import Annotated

import typer

from ai_how.cli import cluster_verbs as of_any_kind
from ai_how.cli.cluster import Cluster, Words
from ai_how.cli.cluster_files import app as of_files
from ai_how.cli.cluster_list import app as of_all
from ai_how.cli.cluster_logs import app as of_logs
from ai_how.cli.cluster_nodes import app as of_nodes
from ai_how.cli.cluster_ports import app as of_ports
from ai_how.cli.context import context_of
from ai_how.cli.groups import KindGroup, new_app
from ai_how.cli.hpc_ansible import app as of_ansible
from ai_how.cli.hpc_check import app as of_health
from ai_how.cli.hpc_dashboard import app as of_dashboard
from ai_how.cli.hpc_metrics import app as of_metrics
from ai_how.cli.hpc_monitor import app as of_monitor
from ai_how.cli.hpc_report import app as of_reports
from ai_how.cli.hpc_run import app as of_jobs
from ai_how.cli.hpc_top import app as of_top
from ai_how.cli.hpc_why import app as of_causes
from ai_how.cli.hpc_wrappers import app as of_wrappers
from ai_how.cli.kinds import HPC
from ai_how.errors import SpecError

FOREVER_S = 1e9


class HpcGroup(KindGroup):
    """The verbs of SLURM clusters."""

    kind = HPC


app = new_app("Start, stop, inspect and use the SLURM cluster.", cls=HpcGroup)
app.command(short_help=of_any_kind.SHORT_OF_START)(of_any_kind.start)


@app.command()
def stop(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    suspend: Annotated[
        bool,
        typer.Option(
            "--suspend", help="Save the memory of all nodes; jobs continue at the next start."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="First wait for running jobs; no new ones start.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Wait at most S seconds."),
    ] = None,
) -> None:
    """Power off the cluster, or nodes. Disks and keys are kept; jobs are requeued if possible."""
    context = context_of(ctx)
    if suspend and wait:
        raise SpecError("--wait cannot be used with --suspend, which keeps the jobs")
    if timeout is not None and not wait:
        raise SpecError("--timeout needs --wait", hint="ai-how hpc stop --help")
    waits_s = (FOREVER_S if timeout is None else timeout) if wait else None
    of_any_kind.stop_nodes(context, words, cluster, suspends=suspend, waits_s=waits_s)


app.command()(of_any_kind.status)
app.command()(of_any_kind.destroy)
app.command(short_help=of_any_kind.SHORT_OF_RECOVER)(of_any_kind.recover)
app.add_typer(of_all)
app.add_typer(of_nodes)
app.add_typer(of_logs)
app.add_typer(of_health)
app.add_typer(of_ansible)
app.add_typer(of_jobs)
app.add_typer(of_files)
app.add_typer(of_ports)
app.add_typer(of_wrappers)
app.add_typer(of_top)
app.add_typer(of_monitor, name="monitor")
app.add_typer(of_metrics)
app.add_typer(of_causes)
app.add_typer(of_reports)
app.add_typer(of_dashboard)
