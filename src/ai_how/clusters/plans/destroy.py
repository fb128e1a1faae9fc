"""The plan that removes a cluster."""

from dataclasses import replace
from pathlib import Path

from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.devices import plan_returns
from ai_how.plan.step import Plan, Step
from ai_how.state.models import ClusterState
from ai_how.vm_management.steps import disks as disk_steps
from ai_how.vm_management.steps import networks as network_steps
from ai_how.vm_management.steps import power as power_steps
from ai_how.vm_management.steps.leases import ReturnDevices


def plan_destroy(
    state: ClusterState,
    stop: Plan | None = None,
    seen: Observed | None = None,
    *,
    backups: Path | None = None,
) -> Plan:
    """The steps that remove the whole cluster. Each accepts that its object is already gone.

    VMs that are `seen` on with devices of the host give them back.

    With `backups`, the steps of `stop` come first, so that guests write their caches. Nothing is
    removed before every backup is complete.
    """
    made: list[Step] = []
    if backups:
        made += [
            replace(step, is_backed_up=True)
            if isinstance(step, power_steps.ShutDownGuest)
            else step
            for step in (stop.steps if stop else ())
        ]
        off = frozenset(step.key for step in made)
        for one in state.nodes:
            target = backups / f"{one.domain_name}-{state.lineage.hex[:8]}.qcow2"
            made.append(disk_steps.BackUpDisk(one.domain_name, one.disk, target, off))
    kept = frozenset(step.key for step in made)
    for one in state.nodes:
        vm = power_steps.DestroyDomain(one.domain_name, one.uuid, kept)
        made.append(vm)
        if seen and not any(isinstance(step, ReturnDevices) for step in made[: len(kept)]):
            made += plan_returns([vm], seen)
        last = frozenset({vm.key})
        made.append(disk_steps.RemoveDisk(state.name, state.lineage, one.name, last))
    gone = frozenset(step.key for step in made)
    made.append(network_steps.RemoveNetwork(state.network.name, state.network.uuid, gone))
    made.append(disk_steps.RemoveDiskDirectory(state.name, state.lineage, gone))
    return Plan("destroy", tuple(made))
