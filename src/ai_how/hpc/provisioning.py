"""Runs the playbooks of a SLURM cluster's file, and remembers on which nodes they ran."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from ai_how.clusters.status import ClusterStatus
from ai_how.errors import HostError, SpecError
from ai_how.hpc.inventory import Inventory, make_inventory
from ai_how.libvirt_client.vm_state import VmState
from ai_how.provisioning.ansible import find_ansible
from ai_how.provisioning.events import TaskResult
from ai_how.provisioning.playbooks import (
    PendingRun,
    Playbook,
    find_pending,
    read_playbooks,
    with_run,
)
from ai_how.provisioning.run import PENDING_GROUP, Options, Outcome, run_playbook
from ai_how.spec.models import ClusterFile, SlurmConfigSpec
from ai_how.spec.nodes import get_hpc, nodes_of
from ai_how.spec.reader import read_spec
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """What is to run: the playbooks of a file, and what one run was asked for besides."""

    playbooks: tuple[Playbook, ...]
    options: Options = field(default_factory=Options)
    is_forced: bool = False
    """Whether they run even if nothing has changed since they did."""

    @property
    def runs_always(self) -> bool:
        """Whether it was asked for something else than what has changed."""
        return self.is_forced or not self.options.is_whole

    def find_pending(
        self, state: ClusterState | None, nodes: Collection[str]
    ) -> tuple[PendingRun, ...]:
        """What has to run on some of these nodes, if they are all that run."""
        done = (state.provisioned if state else None) or ()
        return find_pending(self.playbooks, done, nodes, is_forced=self.runs_always)


def provision_of(
    spec: ClusterFile, options: Options | None = None, *, is_forced: bool = False
) -> Provision:
    """The playbooks of a file. Raises SpecError for one that cannot be read."""
    entries = get_hpc(spec).provision
    wanted = options.limit if options else None
    # Ansible reads `a:&b:c` as (a or c) and b.
    if wanted and set(wanted) & {":", ","} and any(entry.limit for entry in entries):
        raise SpecError("--limit takes one name here: a playbook of the file has a limit, too")
    return Provision(
        playbooks=read_playbooks(entries, spec.directory or Path.cwd()),
        options=options or Options(),
        is_forced=is_forced,
    )


def pending_at_start(
    asked: Provision, spec: ClusterFile, state: ClusterState | None
) -> tuple[PendingRun, ...]:
    """What has to run on the nodes that the file starts, after a start of all of them."""
    names = [node.name for node in nodes_of(get_hpc(spec)) if node.auto_start]
    return asked.find_pending(state, names)


def find_inventory(state: ClusterState, seen: ClusterStatus, paths: ClusterPaths) -> Inventory:
    """The inventory of a cluster whose nodes are as they were `seen`."""
    slurm = SlurmConfigSpec()
    if paths.spec.is_file():
        # Only its partitions matter: they are those of the last start.
        kept = read_spec(paths.spec, os.environ, copied_from=paths.root)
        slurm = get_hpc(kept).slurm_config
    return make_inventory(state, seen, slurm, paths)


def run_pending(
    asked: Provision,
    state: ClusterState,
    seen: ClusterStatus,
    paths: ClusterPaths,
    *,
    watch: Callable[[TaskResult], None],
    told: Callable[[Outcome], None],
) -> tuple[Outcome, ...]:
    """Run what has to run on the nodes that run. The caller holds the lock of the cluster.

    Each playbook is remembered when it has ended without an error, so that one that failed or was
    killed runs again. Raises HostError if no node runs, ProvisioningError if a playbook fails.
    """
    running = [node.name for node in seen.nodes if node.state is VmState.RUNNING]
    if not running:
        raise HostError(f"no node of {state.name} runs", hint="ai-how hpc start")
    pending = {one.playbook.entry: one for one in asked.find_pending(state, running)}
    inventory, program = find_inventory(state, seen, paths), None
    outcomes = []
    for playbook in asked.playbooks:
        one = pending.get(playbook.entry)
        if one is None:
            outcome = Outcome(playbook=playbook.name, nodes=())
        else:
            program = program or find_ansible()
            outcome = run_playbook(
                program,
                one,
                inventory.with_group(PENDING_GROUP, one.nodes).as_file(),
                paths,
                asked.options,
                is_everywhere=len(one.nodes) == len(seen.nodes),
                watch=watch,
                hint="ai-how hpc provision",
            )
            if asked.options.is_whole:
                _remember(paths, playbook, one.nodes)
        told(outcome)
        outcomes.append(outcome)
    return tuple(outcomes)


def _remember(paths: ClusterPaths, playbook: Playbook, nodes: Collection[str]) -> None:
    state = read_state(paths)
    if state is not None:
        done = with_run(state.provisioned or (), playbook, nodes)
        write_state(paths, state.model_copy(update={"provisioned": done}))
