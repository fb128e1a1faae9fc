"""The ways into the nodes of a cluster: ssh, the guest agent, the serial line, the logs."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.arguments import PASSED
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import (
    Cluster,
    File,
    check_nodes,
    manager_of,
    name_of,
    split_running,
)
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.hpc.manager import HpcManager
    from ai_how.state.models import NodeState

app = new_app()

_ABOUT = "The cluster file, where it is not found by itself; a node"
Words = Annotated[list[str], typer.Argument(metavar="[FILE] NODE", help=f"{_ABOUT}.")]
Running = Annotated[
    list[str],
    typer.Argument(
        metavar="[FILE] NODE [CMD]...", help=f"{_ABOUT}; a command, with options of its own."
    ),
]


@app.command()
def ssh(
    ctx: typer.Context,
    words: Running,
    cluster: Cluster = None,
    passed: Annotated[list[str] | None, typer.Option(PASSED, hidden=True)] = None,
) -> None:
    """Log in to a node, or run a command there as the cluster's user.

    Options of ssh before the command go to ssh: -t, -L, -A, -N, -o and so on. Not -c and -v, which
    are ours.

    A command of one word is a line for the node's shell. Several words are a program and its words,
    which stay as they are. The exit code is the command's.
    """
    from ai_how.guest.ssh import ssh_argv
    from ai_how.process import become

    file, node, command = split_running(words)
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster, file))
    found = _node(manager, node)
    become(ssh_argv(manager.paths, found.domain_name, command, options=passed or []))


@app.command("exec")
def execute(
    ctx: typer.Context,
    words: Running,
    cluster: Cluster = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds.")] = 3600,
) -> None:
    """Run a command on a node as root, by its guest agent: no network is needed.

    A command of one word is a line for the node's shell. Several words are a program and its words,
    which stay as they are. The exit code is the command's.
    """
    file, node, command = split_running(words)
    if not command:
        raise SpecError("no command was given", hint="ai-how hpc exec --help")
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster, file))
    done = manager.run_in(_node(manager, node), _argv(command), timeout_s=timeout)
    if context.is_json:
        console.show_json(done)
    else:
        console.show_text(done.output.rstrip("\n")) if done.output else None
        console.show_text(done.errors.rstrip("\n"), to_stderr=True) if done.errors else None
    raise typer.Exit(done.exit_code)


@app.command("console")
def attach(ctx: typer.Context, words: Words, cluster: Cluster = None) -> None:
    """Attach the terminal to a node's serial line; Ctrl-] leaves it."""
    from ai_how.console.terminal import attach as join

    manager, node = _find(ctx, words, cluster)
    console.show_line("Ctrl-] leaves the console")
    with manager.console_of(node) as line:
        join(line, node.name)


@app.command()
def logs(
    ctx: typer.Context,
    words: Words,
    cluster: Cluster = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many at most.")] = 200,
    serial: Annotated[
        bool, typer.Option("--serial", help="What it wrote to its serial line, all boots.")
    ] = False,
    boot: Annotated[
        int, typer.Option("--boot", "-b", max=0, help="Of which boot: -1 is the one before this.")
    ] = 0,
) -> None:
    """Show a node's journal, or its serial line where the guest agent does not answer."""
    manager, node = _find(ctx, words, cluster)
    text = manager.read_log(node, lines=lines, serial=serial, boot=boot)
    console.show_text(text.rstrip("\n"))


@app.command("ssh-config")
def ssh_config(ctx: typer.Context, file: File = None, cluster: Cluster = None) -> None:
    """Print the configuration for ssh, scp, rsync or an editor; ~/.ssh/config may include it."""
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster, file))
    manager.get_state()
    console.show_text(manager.paths.ssh_config.read_text().rstrip("\n"))


def _find(
    ctx: typer.Context, words: list[str], cluster: str | None
) -> "tuple[HpcManager, NodeState]":
    """The cluster and the node of a verb that takes one node. Raises SpecError for more words."""
    file, name, more = split_running(words)
    if more:
        raise SpecError("one node at a time", details=f"besides {name}: {shlex.join(more)}")
    context = context_of(ctx)
    manager = manager_of(context, name_of(context, cluster, file))
    return manager, _node(manager, name)


def _node(manager: "HpcManager", name: str) -> "NodeState":
    """A node by its name in the cluster, else by its VM's; neither is taken apart."""
    state = manager.get_state()
    named = {one.domain_name: one for one in state.nodes} | {one.name: one for one in state.nodes}
    if name not in named:
        check_nodes(state.name, [one.name for one in state.nodes], [name])
    return named[name]


def _argv(command: list[str]) -> list[str]:
    """What the agent starts: a program that is looked up, or a shell for a line of one word."""
    is_line = len(command) == 1 and shlex.quote(command[0]) != command[0]
    # As a login would have it: the agent, which systemd starts, has no home.
    home = ["/usr/bin/env", "HOME=/root"]
    return [*home, "/bin/sh", "-c", command[0]] if is_line else [*home, *command]
