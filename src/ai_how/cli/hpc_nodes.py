"""The ways into the nodes of a cluster: ssh, the guest agent, the serial line, the logs."""

from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import Cluster, check_nodes, manager_of, name_of

if TYPE_CHECKING:
    from ai_how.state.models import NodeState
    from ai_how.vm_management.hpc_manager import HpcManager

app = new_app()

Node = Annotated[str, typer.Argument(metavar="NODE", help="controller, compute-01, ...")]
Command = Annotated[list[str] | None, typer.Argument(metavar="[-- CMD...]", help="A command.")]


@app.command(context_settings={"ignore_unknown_options": True})
def ssh(ctx: typer.Context, node: Node, command: Command = None, cluster: Cluster = None) -> None:
    """Log in to a node, or run a command there as the cluster's user."""
    from ai_how.guest.ssh import ssh_argv
    from ai_how.process import become

    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster))
    found = _node(manager, node)
    become(ssh_argv(manager.paths, found.domain_name, command or []))


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    ctx: typer.Context,
    node: Node,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run.")],
    cluster: Cluster = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds.")] = 3600,
) -> None:
    """Run a command on a node as root, by its guest agent: no network is needed."""
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster))
    done = manager.run_in(_node(manager, node), ["/usr/bin/env", *command], timeout_s=timeout)
    if context.is_json:
        console.show_json(done)
    else:
        console.show_text(done.output.rstrip("\n")) if done.output else None
        console.show_text(done.errors.rstrip("\n"), to_stderr=True) if done.errors else None
    raise typer.Exit(done.exit_code)


@app.command("console")
def attach(ctx: typer.Context, node: Node, cluster: Cluster = None) -> None:
    """Attach the terminal to a node's serial line; Ctrl-] leaves it."""
    from ai_how.console.terminal import attach as join

    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster))
    console.show_line("Ctrl-] leaves the console")
    with manager.console_of(_node(manager, node)) as line:
        join(line)


@app.command()
def logs(
    ctx: typer.Context,
    node: Node,
    cluster: Cluster = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many at most.")] = 200,
    serial: Annotated[
        bool, typer.Option("--serial", help="What it wrote to its serial line, all boots.")
    ] = False,
) -> None:
    """Show a node's journal, or its serial line where the guest agent does not answer."""
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster))
    text = manager.read_log(_node(manager, node), lines=lines, serial=serial)
    console.show_text(text.rstrip("\n"))


@app.command("ssh-config")
def ssh_config(ctx: typer.Context, cluster: Cluster = None) -> None:
    """Print the configuration for ssh, scp, rsync or an editor; ~/.ssh/config may include it."""
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster))
    manager.get_state()
    console.show_text(manager.paths.ssh_config.read_text().rstrip("\n"))


def _node(manager: "HpcManager", name: str) -> "NodeState":
    """A node by its name in the cluster, or by its VM's."""
    state = manager.get_state()
    name = name.removeprefix(f"{state.name}-")
    check_nodes(state.name, [one.name for one in state.nodes], [name])
    return state.get_node(name)
