"""`ai-how cloud kubeconfig`: for kubectl, and what else speaks Kubernetes, on this host."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File, find_manager
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.clusters.manager import ClusterManager

app = new_app()

Merge = Annotated[
    bool,
    typer.Option("--merge", help="Add it to your kubeconfig: $KUBECONFIG, else ~/.kube/config."),
]
Unmerge = Annotated[bool, typer.Option("--unmerge", help="Remove it from there.")]
Stdout = Annotated[bool, typer.Option("--stdout", help="Print it, and write no file.")]


@app.command(short_help="Write a kubeconfig, with which kubectl of this host uses the cluster.")
def kubeconfig(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    merge: Merge = False,
    unmerge: Unmerge = False,
    stdout: Stdout = False,
) -> None:
    """Write a kubeconfig for the administrator of the cluster, and print how to use it.

    It is a file of its own in the directory of the cluster. With --merge it becomes an entry of
    your kubeconfig, where all else is kept; --unmerge removes that, also when the cluster is gone.
    `destroy` removes both.

    Where nodes are in a network of their own, a port of 127.0.0.1 leads to the API. It is open as
    long as the cluster is up, and has the same number after each start. Who has the file may do all
    in the cluster.
    """
    context = context_of(ctx)
    if (merge, unmerge, stdout).count(True) > 1:
        raise SpecError(
            "--merge, --unmerge and --stdout exclude each other",
            hint="ai-how cloud kubeconfig --help",
        )
    manager = find_manager(context, cluster, file)
    if unmerge:
        _unmerge(manager, context)
    elif merge:
        _merge(manager, context)
    else:
        _write(manager, context, is_printed=stdout)


def _write(manager: "ClusterManager", context: Context, *, is_printed: bool) -> None:
    from ai_how.cloud.kubeconfig import entry_name, render_user_config
    from ai_how.cloud.user_access import admin_of, find_server
    from ai_how.state.files import replaced_atomically

    admin = admin_of(manager)
    server = find_server(manager)
    text = render_user_config(manager.name, server, admin)
    if is_printed:
        console.show_text(text.rstrip("\n"))
        return
    path = manager.paths.kubeconfig
    with replaced_atomically(path) as draft:
        draft.write_text(text)
    if context.is_json:
        _show_json(manager, path, entry_name(manager.name), server)
        return
    console.show_line(f"the kubeconfig of {manager.name} is {path}, for {server}")
    console.show_line(f"to use it: export KUBECONFIG={shlex.quote(str(path))}")


def _merge(manager: "ClusterManager", context: Context) -> None:
    from ai_how.cloud import kubeconfig as ours
    from ai_how.cloud.merged import note_merged
    from ai_how.cloud.user_access import admin_of, find_server

    path = ours.default_path(os.environ, Path.home()).absolute()
    admin = admin_of(manager)
    server = find_server(manager)
    note_merged(manager.paths, path, ours.encoded(admin.ca))
    ours.merge(path, manager.name, server, admin)
    name = ours.entry_name(manager.name)
    if context.is_json:
        _show_json(manager, path, name, server)
        return
    console.show_line(f"{manager.name} is in {path}, for {server}")
    console.show_line(f"to use it: kubectl --context {name} get nodes")


def _unmerge(manager: "ClusterManager", context: Context) -> None:
    from ai_how.cloud import kubeconfig as ours
    from ai_how.cloud.merged import note_unmerged

    path = ours.default_path(os.environ, Path.home()).absolute()
    ours.unmerge(path, manager.name)
    note_unmerged(manager.paths, path)
    if context.is_json:
        _show_json(manager, path, None, None)
    else:
        console.show_line(f"{manager.name} is not in {path}")


def _show_json(
    manager: "ClusterManager", path: Path, entry: str | None, server: str | None
) -> None:
    console.show_json({"cluster": manager.name, "file": path, "context": entry, "server": server})
