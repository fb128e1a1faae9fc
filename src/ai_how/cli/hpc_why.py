"""`ai-how hpc why`: why a cluster, a node or a job is not ready."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.completion import complete_node
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import Cluster, find_manager, split_words
from ai_how.console.streams import Style
from ai_how.errors import SOMETHING_IS_WRONG, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_how.clusters.diagnosis.kind import Cause
    from ai_how.clusters.diagnosis.why import Answer
    from ai_how.hpc.manager import HpcManager

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
    file, names = split_words(words)
    if names[1:]:
        raise SpecError("one node or job at a time", hint="ai-how hpc why --help")
    manager = find_manager(context, cluster, file)
    answer = _answer(manager, names[0] if names else None)
    if context.is_json:
        console.show_json(document(answer))
    else:
        _show(answer)
    if not answer.is_well:
        raise typer.Exit(SOMETHING_IS_WRONG)


def _answer(manager: "HpcManager", name: str | None) -> "Answer":
    from ai_how.clusters.diagnosis.why import explain
    from ai_how.clusters.named_nodes import get_named

    if name is None:
        return explain(manager)
    if _JOB.fullmatch(name):
        from ai_how.hpc.why import explain_job

        return explain_job(manager, name)
    return explain(manager, get_named(manager.get_state(), name))


def document(answer: "Answer") -> dict[str, object]:
    """The answer for --json; docs/json.md has its keys."""
    return {
        "cluster": answer.cluster,
        "subject": answer.subject,
        "is_well": answer.is_well,
        "says": answer.says,
        "cause": None if answer.cause is None else _data_of(answer.cause),
        "also": [_data_of(one) for one in answer.also],
        "notes": answer.notes,
        "silent": answer.silent,
    }


def _data_of(cause: "Cause") -> dict[str, object]:
    return {
        "id": cause.id,
        "severity": cause.severity,
        "subject": cause.node,
        "text": cause.text,
        "evidence": cause.evidence,
        "remedy": _remedy_of(cause),
    }


def _remedy_of(cause: "Cause") -> str:
    from ai_how.console.commands import completed
    from ai_how.hpc.kind import SLURM

    return completed(cause.remedy_of(SLURM.name))


def _show(answer: "Answer") -> None:
    style = Style.GOOD if answer.is_well else Style.BAD
    cause = answer.cause
    console.show_line(answer.says + (f": {cause.text}" if cause else ""), style)
    if cause:
        _show_lines("cause", [f"{cause.id} ({cause.severity})"])
        _show_lines("evidence", cause.evidence)
        _show_lines("to mend it", [_remedy_of(cause)] if cause.remedy else [])
    elif not answer.is_well:
        console.show_line("  no evidence shows the cause; look yourself: ai-how hpc logs")
    for note in answer.notes:
        console.show_line(f"  {note}")
    for other in answer.also:
        console.show_line(f"also: {other.text}")
        _show_lines("cause", [f"{other.id} ({other.severity})"])
        _show_lines("to mend it", [_remedy_of(other)] if other.remedy else [])
    for line in answer.silent:
        console.show_line(f"not seen: {line}")


def _show_lines(title: str, lines: "Iterable[str]") -> None:
    for number, line in enumerate(lines):
        console.show_line(f"  {f'{title}:' if number == 0 else '':<11} {line}")
