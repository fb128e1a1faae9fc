"""The verbs that copy files to and from nodes, by scp(1) and rsync(1)."""

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.cluster import Cluster, find_manager
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.state.models import ClusterState

app = new_app()

_REMOTE = re.compile(r"(?P<node>[^/:]*):(?P<path>.*)", re.DOTALL)


@app.command(short_help="Copy files and directories to, from and between nodes.")
def cp(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="SRC... DST", help="What is copied, and to where; NODE:PATH."),
    ],
    cluster: Cluster = None,
    preserve: Annotated[
        bool, typer.Option("--preserve", "-p", help="Keep times and modes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    recursive: Annotated[  # noqa: ARG001  for those who type it
        bool,
        typer.Option("--recursive", "-r", help="No effect: directories are always copied whole."),
    ] = False,
) -> None:
    """Copy files and directories to, from and between nodes, by scp as the user of the cluster.

    A relative PATH of a node begins at the home of that user, and `NODE:` is that home. As with cp,
    what is copied comes into DST if that is a directory. Links are followed. A pattern in the PATH
    of a source, such as '{login}:*.out', is expanded on the node.

    A local name with a colon is given as ./a:b. The cluster file is given with -c. The exit code is
    that of scp.
    """
    from ai_how.guest.ssh import scp_argv
    from ai_how.process import become

    context = context_of(ctx)
    if not words[1:]:
        hint = f"ai-how {context.kind.name} cp --help"
        raise SpecError("SRC... DST was expected", hint=hint)
    manager = find_manager(context, cluster, None)
    state = manager.get_state()
    places = [_place(word, state) for word in words]
    if not any(is_remote for _, is_remote in places):
        raise SpecError(
            "no node was named: one side is NODE:PATH",
            details=f"nodes: {', '.join(node.name for node in state.nodes)}",
            hint="cp  # between places of this host",
        )
    options = [*(["-p"] if preserve else []), *(["-q"] if quiet else [])]
    become(scp_argv(manager.paths, [place for place, _ in places], options=options))


@app.command(short_help="Run rsync with nodes as its hosts.")
def rsync(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RSYNC OPTION | SRC]... DST", help="As rsync has them."),
    ] = None,
    cluster: Cluster = None,
) -> None:
    """Run rsync with nodes as its hosts: NODE:PATH, as the user of the cluster.

    All words are passed to rsync unchanged; options of ai-how come before `rsync`, --cluster right
    after it. rsync is in images that ai-how builds, and needed on this host. The exit code is that
    of rsync.
    """
    from ai_how.guest.ssh import rsync_argv
    from ai_how.process import become

    context = context_of(ctx)
    if not words:
        hint = f"ai-how {context.kind.name} rsync --help"
        raise SpecError("[OPTION]... SRC... DST was expected", hint=hint)
    manager = find_manager(context, cluster, None)
    manager.get_state()
    become(rsync_argv(manager.paths, words))


def _place(word: str, state: "ClusterState") -> tuple[str, bool]:
    """A side of a copy as scp has it, and whether it is on a node.

    Raises SpecError for a name with a colon that is neither a node's nor a file's.
    """
    from ai_how.clusters.named_nodes import get_named

    found = _REMOTE.fullmatch(word)
    if found is None:
        # Not an option, and no host: scp looks for a colon before the first slash.
        return (word if word.startswith("/") else f"./{word}"), False
    names = {name for node in state.nodes for name in (node.name, node.domain_name)}
    if found["node"] not in names:
        if os.path.lexists(word):
            return f"./{word}", False
        if not found["node"]:
            raise SpecError(f"{word} names no node", details="NODE:PATH was expected")
        try:
            get_named(state, found["node"])
        except SpecError as error:
            raise SpecError(
                error.brief, details=error.details, hint=f"./{word}  # for a local file"
            ) from None
    return f"{get_named(state, found['node']).domain_name}:{found['path']}", True
