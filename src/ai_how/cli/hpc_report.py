"""`ai-how hpc report`: how the cluster was used."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager
from ai_how.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_how.monitoring.usage import JobLine, Usage, UsageReport

app = new_app()


class Form(StrEnum):
    """How a report is written."""

    TABLE = "table"
    CSV = "csv"
    HTML = "html"


Since = Annotated[
    str,
    typer.Option("--since", "-S", metavar="TIME", help="From then on: 8h, 7d, today, 2026-11-30."),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Until then. Default: now.")
]
AsForm = Annotated[
    Form | None,
    typer.Option(
        "--format",
        "-f",
        help="Default: by the name of the output file, else table.",
        metavar="FORM",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write it into this file, not to stdout."),
]


@app.command(short_help="Report how the cluster was used: utilisation, efficiency, waiting.")
def report(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    since: Since = "7d",
    until: Until = None,
    form: AsForm = None,
    output: Output = None,
) -> None:
    """Report how the cluster was used: utilisation, efficiency, waiting times and failures.

    It is of what the collector saw: with `monitoring: {enabled: true}` in the cluster file, all of
    the time that the cluster was up; otherwise, while somebody looked. The first lines say for how
    much of the time SLURM was seen.

    FORM is table, csv (a line for all jobs, each user and each partition) or html (one page with
    pictures, which needs no other file).
    """
    from ai_how.guest.since import read_since
    from ai_how.monitoring.usage_source import read_usage

    context = context_of(ctx)
    now = datetime.now().astimezone()
    begins, ends = read_since(since, now), read_since(until, now) if until else now
    if begins >= ends:
        raise SpecError("the report would end before it begins", hint="ai-how hpc report --help")
    form = form or _form_of(output)
    if context.is_json and (output or form is not Form.TABLE):
        raise SpecError("--json has a form of its own", hint="ai-how hpc report --json")
    manager = find_manager(context, cluster, file)
    found = read_usage(manager, since=begins.timestamp(), until=ends.timestamp())
    if context.is_json:
        console.show_json(_document(found))
    elif form is Form.TABLE and output is None:
        _show(found)
    else:
        _write(_text(found, form), output)


def _form_of(output: Path | None) -> Form:
    names = {".csv": Form.CSV, ".html": Form.HTML, ".htm": Form.HTML}
    return names.get(output.suffix.lower(), Form.TABLE) if output else Form.TABLE


def _text(found: "UsageReport", form: Form) -> str:
    if form is Form.HTML:
        from ai_how.monitoring.usage_page import render_page

        return render_page(found)
    if form is Form.CSV:
        return _csv(found)
    raise SpecError("a table is for the terminal", hint="ai-how hpc report --format csv -o FILE")


def _write(text: str, output: Path | None) -> None:
    if output is None:
        console.show_text(text.rstrip("\n"))
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise HostError(f"{output} cannot be written: {error.strerror}") from error
    console.show_line(f"{output} is written")


COLUMNS = (
    *("group", "name", "jobs", "completed", "failed", "cancelled", "cpu_hours", "cpu_efficiency"),
    *("memory_efficiency", "gpu_hours", "wait_median_s", "wait_max_s"),
)


def _csv(found: "UsageReport") -> str:
    """RFC 4180, with a line of names; unknown values are empty."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    groups = (("all", (found.total,)), ("user", found.users), ("partition", found.partitions))
    for group, rows in groups:
        for row in rows:
            writer.writerow(
                [
                    *(group, row.name, row.jobs, row.ended.get("completed", 0), row.failed),
                    *(row.ended.get("cancelled", 0), _figure(row.cpu_hours)),
                    *(_figure(row.cpu_efficiency), _figure(row.memory_efficiency)),
                    *(_figure(row.gpu_hours), _figure(row.wait_median_s), _figure(row.wait_max_s)),
                ]
            )
    return text.getvalue()


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _show(found: "UsageReport") -> None:
    from ai_how.monitoring.usage_page import describe_ends, hours, percent, span

    total = found.total
    begins, ends = _time(found.since), _time(found.until)
    seen = f"SLURM was seen for {span(found.covered_s)} of {span(found.until - found.since)}"
    console.show_line(f"{found.cluster}, {begins} to {ends}: {seen}")
    if not found.covered_s and not total.jobs:
        console.show_line("nothing is known of this time; to collect: ai-how hpc monitor start")
        return
    console.show_line(
        f"CPUs: {percent(found.utilisation)} in use, {hours(found.allotted_hours)} of "
        f"{hours(found.cpu_hours)} CPU hours"
    )
    console.show_line(f"jobs: {total.jobs}; ended: {describe_ends(total) or 'none'}")
    console.show_line(
        f"efficiency: CPU {percent(total.cpu_efficiency)}, memory "
        f"{percent(total.memory_efficiency)}; waiting: median {span(total.wait_median_s)}, "
        f"longest {span(total.wait_max_s)}"
    )
    for title, rows in (("user", found.users), ("partition", found.partitions)):
        if rows:
            console.show_line("")
            _show_usages(title, rows)
    if found.failures:
        console.show_line("")
        _show_failures(found.failures)


def _show_usages(title: str, rows: "Iterable[Usage]") -> None:
    from ai_how.monitoring.usage_page import hours, percent, span

    columns = [title, "jobs", "failed", "CPU h", "CPU eff", "mem eff", "GPU h", "wait", "longest"]
    console.show_table(
        columns,
        [
            [
                *(row.name, row.jobs, row.failed, hours(row.cpu_hours)),
                *(percent(row.cpu_efficiency), percent(row.memory_efficiency)),
                hours(row.gpu_hours) if row.gpu_hours else "-",
                *(span(row.wait_median_s), span(row.wait_max_s)),
            ]
            for row in rows
        ],
        is_cut=True,
    )


def _show_failures(lines: "Iterable[JobLine]") -> None:
    from ai_how.monitoring.usage_page import describe_end

    console.show_table(
        ["failed job", "name", "user", "how", "nodes", "ended"],
        [
            [
                *(line.id, line.name, line.user, describe_end(line), ",".join(line.nodes)),
                _time(line.ended_at) if line.ended_at else None,
            ]
            for line in lines
        ],
        is_cut=True,
    )


def _document(found: "UsageReport") -> dict[str, object]:
    """The report for --json; docs/json.md has its keys."""
    from dataclasses import asdict

    record = asdict(found)
    for name in ("cpus", "allotted", "ended_at", "waits_s"):
        del record[name]
    record |= {"since": _moment(found.since), "until": _moment(found.until)}
    for line in (*record["failures"], *record["wasteful"]):
        line["ended_at"] = line["ended_at"] and _moment(line["ended_at"])
    return record | {"utilisation": found.utilisation}


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at).astimezone()


def _time(at: float) -> str:
    return f"{_moment(at):%Y-%m-%d %H:%M}"
