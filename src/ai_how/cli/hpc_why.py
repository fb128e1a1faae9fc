"""`ai-how hpc why`: why a cluster, a node or a job is not ready."""

import re
from typing import Annotated

import typer

from ai_how.cli.cluster import Cluster
from ai_how.cli.cluster_why import explain_node, find_subject, show_answer
from ai_how.cli.completion import complete_node
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app

app = new_app()

_JOB = re.compile(r"[0-9]{1,10}(_[0-9]{1,10})?")
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [NODE | JOB]",
        help="The cluster file; a node, or the number of a job of SLURM, such as 12 or 12_3.",
        autocompletion=complete_node,
    ),
]


@app.command(short_help="Say why the cluster, a node or a job is not ready, and what mends it.")
def why(ctx: typer.Context, words: Words = None, cluster: Cluster = None) -> None:
    """Say why the cluster, a node or a job is not ready: the first cause, and what mends it.

    It looks at libvirt, the host, QEMU's log, the serial line, the guest agent, the network, the
    services in the guest and SLURM, each for a limited time, and changes nothing. For a job that
    waits it says what SLURM waits for, who has that and until when, and what would fit now.

    The exit code is 0 if it is ready (a job: if it runs, or ended well), and 8 if something is
    wrong. docs/troubleshooting.md lists the causes.
    """
    context = context_of(ctx)
    manager, name = find_subject(context, words, cluster, what="node or job")
    if name is None or not _JOB.fullmatch(name):
        answer = explain_node(manager, name)
    else:
        from ai_how.hpc.why import explain_job

        answer = explain_job(manager, name)
    show_answer(answer, context)
