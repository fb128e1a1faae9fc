"""`ai-how cloud kubectl`: the cluster's own kubectl, on its control plane."""

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.cluster import Cluster, find_manager
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.errors import HostError, SpecError

if TYPE_CHECKING:
    from ai_how.clusters.manager import ClusterManager
    from ai_how.guest.agent import GuestAgent

app = new_app()

ENVIRONMENT = (
    "KUBECONFIG=/etc/kubernetes/admin.conf",
    "PATH=/usr/lib/kubernetes/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
)


@app.command(short_help="Run the cluster's own kubectl on its control plane, as administrator.")
def kubectl(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[--] ARGS...", help="As kubectl has them."),
    ] = None,
    cluster: Cluster = None,
) -> None:
    """Run the cluster's own kubectl on its control plane, as administrator.

    All words are passed to kubectl unchanged; options of ai-how come before `kubectl`, --cluster
    right after it. Of several control planes it is the first one that is on. It needs no network
    between this host and the nodes.

    Input and output are passed on as they come, and the exit code is that of kubectl. Files are
    those of the node: give your own as input, `kubectl apply -f - < FILE`. There is no terminal (no
    `exec -t`). For a kubectl of this host: `ai-how cloud kubeconfig`.
    """
    from ai_how.cli.exec_program import execute

    context = context_of(ctx)
    words = words or []
    given = words[1:] if words[:1] == ["--"] else words
    if not given:
        raise SpecError("no words for kubectl were given", hint="ai-how cloud kubectl -- --help")
    manager = find_manager(context, cluster, None)
    shown = shlex.join(["kubectl", *given])
    with ExitStack() as stack:
        agent = _agent_of_control_plane(manager, stack)
        argv = ["/usr/bin/env", *ENVIRONMENT, "kubectl", *given]
        code = execute(agent, argv, timeout_s=None, shown=shown, is_json=context.is_json)
    raise typer.Exit(code)


def _agent_of_control_plane(manager: "ClusterManager", stack: ExitStack) -> "GuestAgent":
    """That of the first control plane that is on. Raises HostError if none is."""
    from ai_how.spec.roles import Role

    refused: HostError | None = None
    for node in manager.get_state().nodes:
        if node.role is not Role.CONTROLLER:
            continue
        try:
            return stack.enter_context(manager.agent_of(node))
        except HostError as error:
            refused = refused or error
    raise refused or HostError(f"{manager.name} has no control plane")
