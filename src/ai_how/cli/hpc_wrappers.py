"""`ai-how hpc wrappers`: SLURM's commands on the PATH of this host."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager

app = new_app()


@app.command(short_help="Write scripts named srun, sbatch and so on, which use the cluster.")
def wrappers(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A directory for the scripts; it may be missing.")
    ],
    cluster: Cluster = None,
) -> None:
    """Write scripts named srun, sbatch, salloc, squeue, sinfo, scancel and scontrol.

    With the directory on the PATH, `sbatch job.sh` and `srun -N2 hostname` use the cluster from
    this host. They run on the controller; arguments and exit codes are passed on unchanged.

    srun, sbatch and salloc run in the files of the current directory, as `hpc run --login` does:
    they are copied to the cluster, and what the command, or an earlier job, has made there comes
    back when the command ends. Use `sbatch --wait` to have the output of a job at once.

    They have no terminal (no srun --pty), and get no environment of this host.
    """
    from ai_how.hpc.wrappers import write_wrappers

    context = context_of(ctx)
    manager = find_manager(context, cluster, None)
    manager.get_state()
    target = directory.absolute()
    names = write_wrappers(target, manager.name, context.roots)
    if context.is_json:
        console.show_json({"cluster": manager.name, "directory": target, "commands": names})
    else:
        console.show_line(f"{', '.join(names)} are in {directory}")
        console.show_line(f'to use them: export PATH={shlex.quote(str(target))}:"$PATH"')
