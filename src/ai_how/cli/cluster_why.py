"""`why` of either kind: why a cluster or a node is not ready."""

from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, find_manager, split_words
from ai_how.cli.completion import complete_node
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.kinds import Kind
from ai_how.console.streams import Style
from ai_how.errors import SOMETHING_IS_WRONG, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_how.clusters.diagnosis.kind import Cause
    from ai_how.clusters.diagnosis.why import Answer
    from ai_how.clusters.manager import ClusterManager

app = new_app()

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [NODE]",
        help="The cluster file; a node.",
        autocompletion=complete_node,
    ),
]


@app.command(short_help="Say why the cluster or a node is not ready, and what mends it.")
def why(ctx: typer.Context, words: Words = None, cluster: Cluster = None) -> None:
    """Say why the cluster or a node is not ready: the first cause, and what mends it.

    It looks at libvirt, the host, QEMU's log, the serial line, the guest agent, the network, the
    services in the guest and {software}, each for a limited time, and changes nothing.

    The exit code is 0 if it is ready, and 8 if something is wrong. docs/troubleshooting.md lists
    the causes.
    """
    context = context_of(ctx)
    manager, name = find_subject(context, words, cluster, what="node")
    show_answer(explain_node(manager, name), context)


def find_subject(
    context: Context, words: list[str] | None, cluster: str | None, *, what: str
) -> "tuple[ClusterManager, str | None]":
    """The cluster, and the name in it that was asked about; None if that is the whole cluster."""
    file, names = split_words(words)
    if names[1:]:
        raise SpecError(f"one {what} at a time", hint=f"ai-how {context.kind.name} why --help")
    return find_manager(context, cluster, file), names[0] if names else None


def explain_node(manager: "ClusterManager", name: str | None) -> "Answer":
    """What is wrong with a node, or with the whole cluster. Raises SpecError for no node."""
    from ai_how.clusters.diagnosis.why import explain
    from ai_how.clusters.named_nodes import get_named

    return explain(manager, get_named(manager.get_state(), name) if name else None)


def show_answer(answer: "Answer", context: Context) -> None:
    """Print the answer, and end with its exit code."""
    if context.is_json:
        console.show_json(document(answer, context.kind))
    else:
        _show(answer, context.kind)
    if not answer.is_well:
        raise typer.Exit(SOMETHING_IS_WRONG)


def document(answer: "Answer", kind: Kind) -> dict[str, object]:
    """The answer for --json; docs/json.md has its keys."""
    return {
        "cluster": answer.cluster,
        "subject": answer.subject,
        "is_well": answer.is_well,
        "says": answer.says,
        "cause": None if answer.cause is None else _data_of(answer.cause, kind),
        "also": [_data_of(one, kind) for one in answer.also],
        "notes": answer.notes,
        "silent": answer.silent,
    }


def _data_of(cause: "Cause", kind: Kind) -> dict[str, object]:
    return {
        "id": cause.id,
        "severity": cause.severity,
        "subject": cause.node,
        "text": cause.text,
        "evidence": cause.evidence,
        "remedy": _remedy_of(cause, kind),
    }


def _remedy_of(cause: "Cause", kind: Kind) -> str:
    from ai_how.console.commands import completed

    return completed(cause.remedy_of(kind.name))


def _show(answer: "Answer", kind: Kind) -> None:
    style = Style.GOOD if answer.is_well else Style.BAD
    cause = answer.cause
    console.show_line(answer.says + (f": {cause.text}" if cause else ""), style)
    if cause:
        _show_lines("cause", [f"{cause.id} ({cause.severity})"])
        _show_lines("evidence", cause.evidence)
        _show_lines("to mend it", [_remedy_of(cause, kind)] if cause.remedy else [])
    elif not answer.is_well:
        console.show_line(f"  no evidence shows the cause; look yourself: ai-how {kind.name} logs")
    for note in answer.notes:
        console.show_line(f"  {note}")
    for other in answer.also:
        console.show_line(f"also: {other.text}")
        _show_lines("cause", [f"{other.id} ({other.severity})"])
        _show_lines("to mend it", [_remedy_of(other, kind)] if other.remedy else [])
    for line in answer.silent:
        console.show_line(f"not seen: {line}")


def _show_lines(title: str, lines: "Iterable[str]") -> None:
    for number, line in enumerate(lines):
        console.show_line(f"  {f'{title}:' if number == 0 else '':<11} {line}")
