"""`ai-how status`: every cluster of the file."""

from typing import TYPE_CHECKING

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File, manager_of, named, of_its_kind
from ai_how.cli.cluster_view import document_of, show_status
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.kinds import kinds_in
from ai_how.errors import AiHowError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_how.clusters.status import ClusterStatus

app = new_app()


@app.command()
def status(ctx: typer.Context, file: File = None, cluster: Cluster = None) -> None:
    """Show the state of each node of every cluster that the file has, of each kind.

    A cluster that is not there is told, and hides no other; the exit code is then that of its
    error.
    """
    context = context_of(ctx)
    documents: list[dict[str, object]] = []
    failed: AiHowError | None = None
    for one, name in _clusters(context, cluster, file):
        seen = _look(one, name, is_named=bool(cluster))
        failed = failed or (seen if isinstance(seen, AiHowError) else None)
        if context.is_json:
            documents.append({"kind": one.kind.name, "name": name, **_data_of(seen, one)})
        elif isinstance(seen, AiHowError):
            console.show_error(seen)
        else:
            show_status(seen, one.kind)
    if context.is_json:
        console.show_json({"clusters": documents})
    if failed:
        raise typer.Exit(failed.exit_code)


def _clusters(
    context: Context, cluster: str | None, file: "File"
) -> "Iterator[tuple[Context, str]]":
    """Each cluster, with the context for its kind."""
    if name := named(context, cluster, file):
        yield of_its_kind(context, name), name
        return
    spec, _ = context.load_spec(file)
    for kind in kinds_in(spec):
        yield context.of(kind), kind.load().section_of(spec).name


def _look(context: Context, name: str, *, is_named: bool) -> "ClusterStatus | AiHowError":
    try:
        return manager_of(context, name, is_named=is_named).status()
    except AiHowError as error:
        return error


def _data_of(seen: "ClusterStatus | AiHowError", context: Context) -> dict[str, object]:
    if isinstance(seen, AiHowError):
        return {"status": None, "error": console.error_data(seen)}
    return {"status": document_of(seen, context.kind), "error": None}
