"""`ai-how hpc`: the verbs for a SLURM cluster; those of every kind are in `cluster_*.py`."""

from ai_how.cli import cluster_verbs as of_any_kind
from ai_how.cli.cluster_files import app as of_files
from ai_how.cli.cluster_list import app as of_all
from ai_how.cli.cluster_logs import app as of_logs
from ai_how.cli.cluster_nodes import app as of_nodes
from ai_how.cli.cluster_ports import app as of_ports
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


class HpcGroup(KindGroup):
    """The verbs of SLURM clusters."""

    kind = HPC


app = new_app("Start, stop, inspect and use the SLURM cluster.", cls=HpcGroup)
app.command(short_help=of_any_kind.SHORT_OF_START)(of_any_kind.start)
app.command()(of_any_kind.stop)
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
