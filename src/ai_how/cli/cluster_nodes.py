"""The verbs for one node: by ssh, guest agent and serial console."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.arguments import PASSED
from ai_how.cli.cluster import (
    Cluster,
    File,
    find_manager,
    split_login,
    split_running,
)
from ai_how.cli.completion import complete_node
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.clusters.manager import ClusterManager
    from ai_how.state.models import NodeState

app = new_app()

_ABOUT = "The cluster file, if it is not found by default; a node"
Words = Annotated[
    list[str],
    typer.Argument(metavar="[FILE] NODE", help=f"{_ABOUT}.", autocompletion=complete_node),
]
Running = Annotated[
    list[str],
    typer.Argument(
        metavar="[FILE] NODE [CMD]...",
        help=f"{_ABOUT}; a command with its options.",
        autocompletion=complete_node,
    ),
]

Login = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [NODE] [CMD]...",
        help="The cluster file, if it is not found by default; a node (default: the {first}); "
        "a command with its options.",
        autocompletion=complete_node,
    ),
]


@app.command(short_help="Log in to a node, or run a command there as the user.")
def ssh(
    ctx: typer.Context,
    words: Login = None,
    cluster: Cluster = None,
    passed: Annotated[list[str] | None, typer.Option(PASSED, hidden=True)] = None,
) -> None:
    """Log in to a node, or run a command there as the user of the cluster.

    Without a node it is the {first}: `ai-how {kind} ssh`, `ai-how {kind} ssh -- {command}`.

    Options of ssh before the command are passed to ssh: -t, -L, -A, -N, -o and so on. Exceptions
    are -c and -v, which are options of ai-how.

    A command of one word is a command line for the shell of the node. Several words are a program
    and its arguments, which are passed on unchanged. The exit code is that of the command.
    """
    from ai_how.guest.ssh import ssh_argv
    from ai_how.process import become

    file, name, command, is_apart = split_login(words or [])
    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    found, command = _login_node(manager, name, command, is_apart=is_apart)
    become(ssh_argv(manager.paths, found.domain_name, command, options=passed or []))


@app.command("exec", short_help="Run a command on a node as root, without a network.")
def execute(
    ctx: typer.Context,
    words: Running,
    cluster: Cluster = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", help="End the command after S seconds."),
    ] = None,
) -> None:
    """Run a command on a node as root, through the guest agent, without a network.

    A command of one word is a command line for the shell of the node. Several words are a program
    and its arguments, which are passed on unchanged.

    Input and output are passed on as they come, byte for byte; on a terminal, control characters
    are shown, not executed. The exit code is that of the command, or 128+N if signal N ended it.

    Ctrl-C, SIGTERM, SIGHUP and --timeout (exit code 124) end the command and all processes that it
    started: they get the signal, and are killed after two seconds. If ai-how is killed, or stopped
    for longer than two minutes, the node ends them by itself.

    When the command ends, processes that it left in the background go on, but their output is
    passed on for one more second only: redirect it, as for ssh.
    """
    from ai_how.cli.exec_program import execute as run
    from ai_how.guest.serial_log import one_line

    file, node, command = split_running(words)
    context = context_of(ctx)
    if not command:
        raise SpecError("no command was given", hint=f"ai-how {context.kind.name} exec --help")
    manager = find_manager(context, cluster, file)
    shown = one_line(command[0] if len(command) == 1 else shlex.join(command))
    with manager.agent_of(_node(manager, node)) as agent:
        code = run(agent, command, timeout_s=timeout, shown=shown, is_json=context.is_json)
    raise typer.Exit(code)


@app.command("console", short_help="Attach the terminal to the serial console of a node.")
def attach(ctx: typer.Context, words: Words, cluster: Cluster = None) -> None:
    """Attach the terminal to the serial console of a node; Ctrl-] detaches."""
    from ai_how.console.terminal import attach as join

    manager, node = _find(ctx, words, cluster)
    console.show_line("Ctrl-] leaves the console")
    with manager.console_of(node) as line:
        join(line, hint=f"ai-how {manager.kind.name} logs {node.name}")


@app.command("ssh-config", short_help="Print the ssh configuration, for scp, rsync or an editor.")
def ssh_config(ctx: typer.Context, file: File = None, cluster: Cluster = None) -> None:
    """Print the ssh configuration, for scp, rsync or an editor; ~/.ssh/config can include it."""
    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    manager.get_state()
    console.show_text(manager.paths.ssh_config.read_text().rstrip("\n"))


def _find(
    ctx: typer.Context, words: list[str], cluster: str | None
) -> "tuple[ClusterManager, NodeState]":
    """The cluster and the node of a verb for one node. Raises SpecError for more words."""
    file, name, more = split_running(words)
    if more:
        raise SpecError("one node at a time", details=f"besides {name}: {shlex.join(more)}")
    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    return manager, _node(manager, name)


def _node(manager: "ClusterManager", name: str) -> "NodeState":
    from ai_how.clusters.named_nodes import get_named

    return get_named(manager.get_state(), name)


def _login_node(
    manager: "ClusterManager", name: str | None, command: list[str], *, is_apart: bool
) -> "tuple[NodeState, list[str]]":
    """The node to log in to, and the command for it; the controller where none is named."""
    state = manager.get_state()
    controller = state.find_controller()
    if name is None and controller:
        return controller, command
    if is_apart and name and controller and state.find_node(name) is None:
        return controller, [name, *command]
    return _node(manager, name or ""), command
