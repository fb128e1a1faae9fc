"""The cluster, and the nodes, that a verb of `ai-how hpc` or `ai-how cloud` acts on."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.arguments import YAML, looks_like_file
from ai_how.cli.completion import complete_cluster, complete_node
from ai_how.cli.context import Context
from ai_how.cli.kinds import HPC, KINDS
from ai_how.errors import SpecError, StateError

if TYPE_CHECKING:
    from ai_how.clusters.manager import ClusterManager
    from ai_how.plan.observer import Observer
    from ai_how.spec.models import ClusterFile

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="Select a cluster by name, without its file.  [env var: AI_HOW_CLUSTER]",
        autocompletion=complete_cluster,
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [NODE]...",
        help="The cluster file, and names of its nodes.",
        autocompletion=complete_node,
    ),
]
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The cluster file.")]


def split_words(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The cluster file, if the first word is one, and the node names."""
    words = words or []
    if words and looks_like_file(words[0]):
        return Path(words[0]), words[1:]
    return None, words


def split_running(words: list[str]) -> tuple[Path | None, str, list[str]]:
    """The cluster file, the node, and the command to run there.

    A `--` may precede each of them.
    """
    file, words = split_words(_without_dashes(words))
    node, *command = _without_dashes(words) or [""]
    if not node:
        raise SpecError("no node was named", details="[FILE] NODE [CMD...] was expected")
    return file, node, _without_dashes(command)


def split_login(words: list[str]) -> tuple[Path | None, str | None, list[str], bool]:
    """Like `split_running`, but the node may be missing: None.

    The last value says whether only a `--` tells it from a command: then it is a node where the
    cluster has one of that name, else the command for the default node.
    """
    file, rest = split_words(words)
    is_apart = rest[:1] == ["--"]
    # Behind it, a word with a slash is a program of the node.
    if file is None and rest[1:] and rest[1].endswith(YAML):
        file, rest = split_words(_without_dashes(rest))
    node, *command = _without_dashes(rest) or [""]
    is_apart = is_apart and command[:1] != ["--"]
    return file, node or None, _without_dashes(command), is_apart


def _without_dashes(words: list[str]) -> list[str]:
    return words[1:] if words[:1] == ["--"] else words


def named(context: Context, cluster: str | None, file: Path | None = None) -> str | None:
    """The cluster that --cluster names, or AI_HOW_CLUSTER where no file was named."""
    if cluster or file or context.config:
        return cluster
    return os.environ.get("AI_HOW_CLUSTER") or None


def name_of(context: Context, cluster: str | None, file: Path | None = None) -> str:
    if cluster:
        if context.roots.cluster(cluster).root.exists():
            console.note_cluster(cluster)
        return cluster
    spec, _ = context.load_spec(file)
    return context.kind.load().section_of(spec).name


def manager_of(
    context: Context, name: str, observer: "Observer | None" = None, *, is_named: bool = False
) -> "ClusterManager":
    from ai_how.plan.observer import Observer

    return context.kind.load_manager()(
        roots=context.roots,
        name=name,
        connect=context.connect,
        observer=observer or Observer(),
        warn=console.show_warning,
        is_named=is_named,
    )


def of_its_kind(context: Context, name: str) -> Context:
    """The context for a cluster by its name; for SLURM if there is no such cluster.

    Raises StateError if its state cannot be read.
    """
    from ai_how.state.cluster_state import read_state

    state = read_state(context.roots.cluster(name))
    return context.of(KINDS.get(state.kind, HPC) if state else HPC)


def find_manager(context: Context, cluster: str | None, file: Path | None) -> "ClusterManager":
    """The manager of the cluster that --cluster, AI_HOW_CLUSTER or the file names."""
    cluster = named(context, cluster, file)
    return manager_of(context, name_of(context, cluster, file), is_named=bool(cluster))


def load(
    context: Context, cluster: str | None, file: Path | None
) -> "tuple[ClusterFile, Path | None]":
    """The spec, of the file or of the last start of the cluster that was named, and its path."""
    name = named(context, cluster, file)
    return load_kept(context, name) if name else context.load_spec(file)


def load_kept(context: Context, cluster: str) -> "tuple[ClusterFile, Path | None]":
    """The spec of the file of the cluster's last start, and the path of its copy."""
    name_of(context, cluster)
    hint = f"ai-how {context.kind.name} start FILE"
    if not context.roots.cluster(cluster).root.is_dir():
        raise StateError(f"there is no cluster {cluster}", hint=hint)
    if not (path := context.roots.cluster(cluster).spec).is_file():
        raise StateError(f"the file of the cluster {cluster} is not stored here", hint=hint)
    spec, _ = context.load_spec(path)
    if (name := context.kind.load().section_of(spec).name) != cluster:
        raise SpecError(f"{path} is the file of {cluster}, but now names {name}")
    return spec, path
