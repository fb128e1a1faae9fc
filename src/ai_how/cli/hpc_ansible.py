"""The verbs for Ansible: the inventory of the cluster, and its playbooks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File, load, named
from ai_how.cli.cluster_view import show_planned
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager, manager_of
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai_how.hpc.inventory import Inventory
    from ai_how.hpc.manager import HpcManager
    from ai_how.hpc.provisioning import Provision
    from ai_how.provisioning.events import TaskResult
    from ai_how.provisioning.playbooks import PendingRun
    from ai_how.provisioning.run import Outcome
    from ai_how.spec.models import ClusterFile

app = new_app()

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [-- ARG...]", help="The cluster file; arguments of ansible-playbook."
    ),
]


@app.command(short_help="Print the inventory of the cluster for Ansible.")
def inventory(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    is_list: Annotated[
        bool, typer.Option("--list", help="All hosts and groups as JSON; this is the default.")
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="NAME", help="The variables of one node.")
    ] = None,
    is_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the content of an inventory file.")
    ] = False,
) -> None:
    """Print the inventory of the cluster for Ansible, as its nodes are now.

    ai-how-inventory is the same as a program for ansible-playbook -i: it finds the cluster by
    AI_HOW_CONFIG or ./cluster.yaml, or by AI_HOW_CLUSTER and AI_HOW_STATE_DIR. Host keys are
    checked. Nodes that do not run are in all and in their groups, but in no group that ends in _up.
    """
    context = context_of(ctx)
    if is_list + (host is not None) + is_yaml > 1:
        raise SpecError("--list, --host and --yaml exclude each other")
    found = find_manager(context, cluster, file).inventory()
    if host is not None:
        # Ansible's protocol: a host that is not known has no variables.
        console.show_json(found.hosts.get(host, {}))
    elif is_yaml:
        console.show_text(_as_yaml(found))
    else:
        console.show_json(found.as_script())


@app.command(short_help="Run the playbooks of the cluster file.")
def provision(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; print what would change.")
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option("--limit", metavar="PATTERN", help="Only these hosts or groups."),
    ] = None,
    tags: Annotated[
        str | None,
        typer.Option("--tags", metavar="TAG,...", help="Only tasks with these tags."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run playbooks that have not changed, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print which playbooks would run, and run none.")
    ] = False,
) -> None:
    """Run the playbooks of `provision` in the cluster file, on the nodes that run.

    As at a start, a playbook is skipped on nodes where it ran already, unless it, the files beside
    it or its vars have changed. With --check, --limit, --tags or words after --, which are passed
    to ansible-playbook, all of them run, and the next start runs what it would have run without.
    """
    from ai_how.hpc.provisioning import provision_of
    from ai_how.provisioning.run import Options
    from ai_how.spec.nodes import get_hpc

    context = context_of(ctx)
    file, arguments = _split_arguments(words)
    cluster = named(context, cluster, file)
    spec, _ = load(context, cluster, file)
    hpc = get_hpc(spec)
    if not hpc.provision:
        raise SpecError(
            "the file has no playbooks", details="They are listed in clusters.hpc.provision."
        )
    options = Options(
        is_check=check,
        limit=limit,
        tags=tuple(tags.split(",")) if tags else (),
        arguments=tuple(arguments),
    )
    asked = provision_of(spec, options, is_forced=force)
    manager = manager_of(context, hpc.name, is_named=bool(cluster))
    if dry_run:
        state = manager.get_state()
        planned = asked.find_pending(state, [one.name for one in state.nodes])
        outcomes: Sequence[Outcome] = [planned_outcome(one) for one in planned]
    else:
        outcomes = run_playbooks(manager, asked, is_silent=context.is_json)
    if context.is_json:
        console.show_json({"cluster": hpc.name, "check": check, "playbooks": outcomes})
    elif dry_run:
        show_planned(outcomes)


@dataclass(frozen=True, slots=True)
class PlaybooksOfStart:
    """The playbooks that run after a start; of most files, none."""

    manager: "HpcManager"
    asked: "Provision | None"
    pending: "tuple[PendingRun, ...]"

    @classmethod
    def of(cls, manager: "HpcManager", spec: "ClusterFile") -> Self:
        """Those of a file. Raises HostError if they have to run, and there is no Ansible."""
        from ai_how.spec.nodes import get_hpc

        if not get_hpc(spec).provision:
            return cls(manager, None, ())
        from ai_how.hpc.provisioning import pending_at_start, provision_of
        from ai_how.provisioning.ansible import find_ansible

        asked = provision_of(spec)
        pending = pending_at_start(asked, spec, manager.find_state())
        if pending:
            find_ansible()
        return cls(manager, asked, pending)

    def run(
        self, show: "Callable[[Sequence[Outcome]], None]", *, is_json: bool, dry_run: bool
    ) -> None:
        """Run them after the start was shown; in JSON, which is one document, before that."""
        if self.asked is None or dry_run:
            show([planned_outcome(one) for one in self.pending])
        elif is_json:
            show(run_playbooks(self.manager, self.asked, is_silent=True))
        else:
            show(())
            run_playbooks(self.manager, self.asked, is_silent=False)


def run_playbooks(
    manager: "HpcManager", asked: "Provision", *, is_silent: bool
) -> "tuple[Outcome, ...]":
    """Run them; unless `is_silent`, print a line for each task on each host, then a summary."""
    if is_silent:
        return manager.provision(asked)
    return manager.provision(asked, watch=_show_result, told=_show_outcome)


def planned_outcome(pending: "PendingRun") -> "Outcome":
    """The outcome of a run that did not take place."""
    from ai_how.provisioning.run import Outcome

    return Outcome(playbook=pending.playbook.name, nodes=pending.nodes)


def _split_arguments(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The cluster file, and the words for ansible-playbook, which start with an option."""
    words = words or []
    if words and not words[0].startswith("-"):
        return Path(words[0]), words[1:]
    return None, words


def _show_result(result: "TaskResult") -> None:
    bad = console.Style.BAD if result.status.is_bad else None
    console.show_line(
        f"{result.host}: {result.task}: {result.status.value} {result.seconds:.1f} s", bad
    )
    if result.diff:
        console.show_text(result.diff.rstrip("\n"))


def _show_outcome(outcome: "Outcome") -> None:
    if not outcome.nodes:
        console.show_line(f"playbook {outcome.playbook}: nothing to do")
        return
    nodes = "1 node" if len(outcome.nodes) == 1 else f"{len(outcome.nodes)} nodes"
    console.show_line(
        f"playbook {outcome.playbook}: {nodes}, {outcome.ok} ok, {outcome.changed} changed, "
        f"{outcome.skipped} skipped, {outcome.seconds:.1f} s"
    )


def _as_yaml(found: "Inventory") -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    text = StringIO()
    yaml: Any = YAML(typ="safe", pure=True)  # its attributes are typed as None
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(found.as_file(), text)
    return text.getvalue().rstrip("\n")
