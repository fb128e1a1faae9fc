"""The verbs that change or show a whole cluster, of either kind; the groups register them."""

import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ai_how import console
from ai_how.cli.cluster import (
    Cluster,
    File,
    Words,
    find_manager,
    load,
    manager_of,
    name_of,
    named,
    split_words,
)
from ai_how.cli.cluster_view import (
    check_can_ask,
    confirm_taking,
    document_of,
    show_start,
    show_status,
    stages_line,
)
from ai_how.cli.context import Context, context_of
from ai_how.cli.kinds import HPC, Kind
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai_how.clusters.manager import ClusterManager
    from ai_how.hpc.manager import HpcManager
    from ai_how.plan.step import Plan
    from ai_how.provisioning.run import Outcome
    from ai_how.spec.models import ClusterFile

WATCH_S = 2.0
FOREVER_S = 1e9
SHORT_OF_START = "Start the cluster, until {until}."
SHORT_OF_RECOVER = "Restore the lost or damaged state of a cluster."


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the steps, and do nothing.")]
KeepOnFailure = Annotated[
    bool, typer.Option("--keep-on-failure", help="If a step fails, do not undo the others.")
]
NoWarm = Annotated[
    bool,
    typer.Option(
        "--no-warm",
        envvar="AI_HOW_NO_WARM",
        help="Boot every node, and save no VM. On the command line it also discards the "
        "memory of a suspended cluster.",
    ),
]


def start(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    dry_run: DryRun = False,
    keep_on_failure: KeepOnFailure = False,
    no_warm: NoWarm = False,
) -> None:
    """Start the cluster; return when {until_whole}.

    A start creates what is missing and repairs what is broken. Nodes with auto_start: false are
    created, but stay off unless they are named. --cluster uses the file of the cluster's last
    start, of which its state has a copy.
    """
    run_start(ctx, words, cluster, dry_run, keep_on_failure, no_warm)


def run_start(
    ctx: typer.Context,
    words: list[str] | None,
    cluster: str | None,
    dry_run: bool,
    keep_on_failure: bool,
    no_warm: bool,
    prepare: "Callable[[ClusterManager], None]" = lambda _manager: None,
) -> None:
    """What `start` does; `prepare` comes after the file was read, and before a real start."""
    from ai_how.clusters.named_nodes import check_nodes
    from ai_how.console.live_nodes import LiveNodes

    context = context_of(ctx)
    file, nodes = split_words(words)
    spec, path = load(context, cluster, file)
    kind = context.kind.load()
    section = kind.section_of(spec)
    names = [node.name for node in kind.nodes_of(section)]
    check_nodes(section.name, names, nodes)
    manager = manager_of(context, section.name)
    finish = _ending(manager, spec, context, dry_run=dry_run)
    if not dry_run:
        prepare(manager)
        build_missing_images(manager, spec, context)
    begun = time.monotonic()
    with LiveNodes(
        section.name,
        names,
        awaiting=manager.kind.diagnosis.awaiting,
        is_silent=context.is_json or dry_run,
    ) as observer:
        plan = manager_of(context, section.name, observer).start(
            spec,
            source=path,
            only=nodes,
            dry_run=dry_run,
            keep_on_failure=keep_on_failure,
            is_warm=not no_warm,
            resumes=not (no_warm and _is_typed(ctx, "no_warm")),
        )
    took_s = time.monotonic() - begun
    with _saving(manager, spec, plan, path, is_asked=not (no_warm or dry_run)):
        finish(
            partial(
                show_start,
                section.name,
                plan,
                took_s,
                kind=context.kind,
                is_json=context.is_json,
                dry_run=dry_run,
            )
        )


def _ending(
    manager: "ClusterManager", spec: "ClusterFile", context: Context, *, dry_run: bool
) -> "Callable[[Callable[[Sequence[Outcome]], None]], None]":
    """What is left to do when the cluster is up: it is shown, and playbooks run.

    Raises HostError if playbooks have to run, and there is no Ansible.
    """
    if context.kind != HPC:
        return lambda show: show(())
    from ai_how.cli.hpc_ansible import PlaybooksOfStart

    playbooks = PlaybooksOfStart.of(cast("HpcManager", manager), spec)
    return partial(playbooks.run, is_json=context.is_json, dry_run=dry_run)


@contextmanager
def _saving(
    manager: "ClusterManager",
    spec: "ClusterFile",
    plan: "Plan",
    path: Path | None,
    *,
    is_asked: bool,
) -> "Iterator[None]":
    """Save VMs for the next start after the block, however it ends."""
    try:
        yield
    finally:
        if is_asked:
            manager.save_for_next_start(spec, plan, source=path)


def build_missing_images(manager: "ClusterManager", spec: "ClusterFile", context: Context) -> None:
    """Build the images that a start needs and that are not there, with a bar."""
    from ai_how.clusters.images import build_images, find_missing_images

    state = manager.find_state()
    if missing := find_missing_images(manager.kind, spec, state, context.roots):
        what = "building the image" if len(missing) == 1 else f"building {len(missing)} images"
        with console.ProgressBar(what, is_silent=context.is_json) as bar:
            build_images(
                manager.kind,
                spec,
                missing,
                context.roots,
                lambda: manager.place(spec.host.uri),
                watch=bar.watch,
                warn=manager.warn,
            )


def stop(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    suspend: Annotated[
        bool,
        typer.Option(
            "--suspend", help="Save the memory of all nodes; {jobs} continue at the next start."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="First wait for running jobs; no new ones start.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Wait at most S seconds."),
    ] = None,
) -> None:
    """Power off the cluster, or nodes. Disks and keys are kept; {jobs_of_stop}."""
    from ai_how.clusters.named_nodes import check_nodes
    from ai_how.console.live_nodes import LiveNodes

    context = context_of(ctx)
    file, nodes = split_words(words)
    cluster = named(context, cluster, file)
    name = name_of(context, cluster, file)
    if nodes and suspend:
        raise SpecError(
            "only a whole cluster can be suspended: "
            f"{context.kind.words['software']} would miss single nodes",
            hint=f"ai-how {context.kind.name} stop --suspend",
        )
    if suspend and wait:
        raise SpecError("--wait cannot be used with --suspend, which keeps the jobs")
    if timeout is not None and not wait:
        raise SpecError("--timeout needs --wait", hint=f"ai-how {context.kind.name} stop --help")
    waits_s = (FOREVER_S if timeout is None else timeout) if wait else None
    if nodes:
        known = manager_of(context, name, is_named=bool(cluster)).get_state().nodes
        check_nodes(name, [one.name for one in known], nodes)
    with LiveNodes(name, is_silent=context.is_json) as observer:
        manager = manager_of(context, name, observer, is_named=bool(cluster))
        plan = manager.stop(only=nodes, suspends=suspend, waits_s=waits_s)
    if context.is_json:
        console.show_json({"cluster": name, "stopped": [step.key for step in plan.steps]})
    else:
        _show_stop(name, nodes, context.kind, is_new=bool(plan.steps), suspends=suspend)


def status(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds.")] = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Show the duration of each stage of the last start.")
    ] = False,
) -> None:
    """Show the state of each node, from libvirt and {software}."""
    context = context_of(ctx)
    manager = find_manager(context, cluster, file)
    while True:
        seen = manager.status()
        if watch and not context.is_json:
            console.clear_screen()
        if context.is_json:
            console.show_json(document_of(seen, context.kind))
        else:
            show_status(seen, context.kind)
            if timings:
                for node in seen.nodes:
                    console.show_line(f"{node.name}: {stages_line(node)}")
        if not watch or not console.pause(WATCH_S):
            return


def destroy(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    force: Annotated[
        bool, typer.Option("--force", help="Do not ask; remove snapshots too.")
    ] = False,
    backup: Annotated[
        Path | None,
        typer.Option("--backup", metavar="DIR", help="First save a compressed copy of each disk."),
    ] = None,
) -> None:
    """Remove the cluster: its VMs, disks, network, keys and state."""
    from ai_how.console.live_nodes import LiveNodes

    context = context_of(ctx)
    cluster = named(context, cluster, file)
    name = name_of(context, cluster, file)
    manager = manager_of(context, name)
    state, was_there = manager.find_state(), manager.paths.is_used
    if not force:
        check_can_ask(
            "destroy asks before it removes anything",
            is_json=context.is_json,
            hint=f"ai-how {context.kind.name} destroy --force",
        )
        for line in _what_goes(manager):
            console.show_line(line)
        if state and not console.confirm(f"Remove all of this and destroy {name}?"):
            console.show_line("nothing was removed")
            return
    with LiveNodes(name, is_silent=context.is_json) as observer:
        plan = manager_of(context, name, observer).destroy(
            backups=backup and backup.absolute(), snapshots_too=force
        )
    if context.is_json:
        console.show_json({"cluster": name, "removed": [step.key for step in plan.steps]})
    else:
        console.show_line(f"{name} is destroyed" if was_there else f"there was no cluster {name}")


def recover(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    from_user: Annotated[
        str | None,
        typer.Option("--from-user", metavar="USER", help="Take over the cluster of this user."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take it over without asking.")] = False,
) -> None:
    """Restore the lost or damaged state of a cluster, from a backup or from libvirt."""
    from ai_how.spec.models import AccessSpec

    context = context_of(ctx)
    cluster = named(context, cluster, file)
    name = name_of(context, cluster, file)
    if from_user is not None and not force:
        confirm_taking(name, from_user, context.kind, is_json=context.is_json)
    kind = context.kind.load()
    access = AccessSpec() if cluster else kind.section_of(context.load_spec(file)[0]).access
    manager = manager_of(context, name)
    state, source = manager.recover(user=access.user, from_user=from_user)
    if context.is_json:
        nodes = [node.name for node in state.nodes]
        console.show_json({"cluster": name, "from": source, "nodes": nodes})
    else:
        console.show_line(f"the state of {name} was restored from {source}")
        console.show_line(
            f"to repair what has changed since then: ai-how {context.kind.name} start"
        )


def _show_stop(cluster: str, nodes: list[str], kind: Kind, *, is_new: bool, suspends: bool) -> None:
    """Print what is off now, and how it comes back."""
    are, it = ("are", "them") if nodes[1:] else ("is", "it")
    off = f"{', '.join(nodes) or cluster} {are} off"
    group = kind.name
    if not is_new:
        console.show_line(f"{off}: nothing to do")
    elif suspends:
        console.show_line(f"{cluster} is suspended; to resume it: ai-how {group} start")
    elif nodes:
        console.show_line(f"{off}; to start {it} again: ai-how {group} start {' '.join(nodes)}")
    else:
        console.show_line(f"{off}; to start it again: ai-how {group} start")


def _is_typed(ctx: typer.Context, option: str) -> bool:
    """Whether it is on the command line: an environment variable must not lose jobs."""
    origin = ctx.get_parameter_source(option)
    return origin is not None and origin.name == "COMMANDLINE"


def _what_goes(manager: "ClusterManager") -> list[str]:
    state = manager.find_state()
    if state is None:
        return []
    lines = [f"VM {node.domain_name} and its disk {node.disk}" for node in state.nodes]
    return [*lines, f"network {state.network.name}", f"keys and state in {manager.paths.root}"]
