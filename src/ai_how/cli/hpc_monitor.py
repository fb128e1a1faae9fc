"""`ai-how hpc monitor`: the process that watches a cluster."""

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File
from ai_how.cli.cluster_view import size_text
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager

if TYPE_CHECKING:
    from ai_how.hpc.manager import HpcManager

app = new_app("Start, stop and inspect the process that watches the cluster.")

MIB = 2**20


@app.command(short_help="Have the cluster watched, also while nobody looks.")
def start(ctx: typer.Context, file: File = None, cluster: Cluster = None) -> None:
    """Have the cluster watched, also while nobody looks, until it is stopped.

    That is for this process, and until the next `hpc start`. With `monitoring: {enabled: true}` in
    the cluster file, each `hpc start` has it watched.
    """
    from ai_how.clusters.collecting import start_collector
    from ai_how.clusters.watching import order_of, settings_of

    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    manager.get_state()
    order = order_of(manager, settings_of(manager.kind, manager.paths), stays=True)
    start_collector(order, is_setting=True)
    _show(manager, is_json=context.is_json)


@app.command()
def stop(ctx: typer.Context, file: File = None, cluster: Cluster = None) -> None:
    """End the process. What it has seen is kept.

    Who begins to look starts it again, and so does `hpc start` if the cluster file says so.
    """
    from ai_how.clusters.collecting import end_collector

    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    manager.get_state()
    was_there = end_collector(manager.paths, "off")
    if context.is_json:
        console.show_json(_describe(manager))
    else:
        was = "is no longer" if was_there else "was not"
        console.show_line(f"{manager.name} {was} watched")


@app.command()
def status(ctx: typer.Context, file: File = None, cluster: Cluster = None) -> None:
    """Show whether the cluster is watched, what that costs, and which sources do not answer."""
    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    manager.get_state()
    _show(manager, is_json=context.is_json)


def _describe(manager: "HpcManager") -> dict[str, Any]:
    """What the collector says of itself; only the size of its database if none runs."""
    from ai_how.clusters.collecting import find_collector
    from ai_how.monitoring.status import ask_status

    return ask_status(manager.paths, find_collector(manager.paths))


def _show(manager: "HpcManager", *, is_json: bool) -> None:
    told = _describe(manager)
    if is_json:
        console.show_json(told)
        return
    size = size_text(math.ceil(told["history_bytes"] / MIB))
    if told["pid"] is None:
        console.show_line(f"{manager.name} is not watched; kept of it: {size}")
        console.show_line(f"to watch it: ai-how hpc monitor start --cluster {manager.name}")
        return
    since = datetime.fromtimestamp(told["since"]).astimezone()
    until = "until the cluster is stopped" if told["stays"] else "while somebody looks"
    console.show_line(
        f"{manager.name} is watched by process {told['pid']} since {since:%Y-%m-%d %H:%M:%S},"
        f" {until}"
    )
    if told["trouble"]:
        console.show_warning(told["trouble"])
        return
    console.show_line(
        f"memory {told['own_memory_mib']} MiB of its own, processor time {told['cpu_s']:.1f} s,"
        f" readers {told['readers']}; kept: {size}, {told['keep_days']} days"
    )
    console.show_table(
        ["source", "asked every", "answered", "trouble"],
        [
            [one["name"], f"{one['every_s']:g} s", _age(one.get("age_s")), one["trouble"]]
            for one in told["sources"]
        ],
    )


def _age(age_s: float | None) -> str | None:
    return None if age_s is None else f"{age_s:.0f} s ago"
