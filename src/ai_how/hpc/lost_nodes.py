"""Plans how SLURM learns of nodes that ended without its knowledge (pure)."""

from dataclasses import replace

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.hpc import steps as slurm_steps
from ai_how.plan.step import Step
from ai_how.spec.nodes import Role
from ai_how.vm_management.steps import domains as domain_steps
from ai_how.vm_management.steps import guest as guest_steps
from ai_how.vm_management.steps import suspend as suspend_steps


def with_lost_told(desired: DesiredCluster, seen: Observed, made: list[Step]) -> list[Step]:
    """Add a `TellLost` step to `made` if SLURM may believe that nodes run that had ended.

    If SLURM is running, the step precedes their boot, as SLURM would keep their jobs for ten
    minutes. If the controller boots with a saved state, the step follows as soon as SLURM is up.
    """
    controller = desired.state.get_controller()
    booted = {
        step.uuid
        for step in made
        if isinstance(step, domain_steps.StartDomain)
        and not (step.was_on or isinstance(step, suspend_steps.StartFromManagedSave))
    }
    nodes = [one for _, one in desired.nodes if one.uuid in booted and one.role is Role.COMPUTE]
    if not nodes:
        return made
    if controller.uuid in booted and controller.name in seen.disks:
        services = guest_steps.GiveIdentity(
            controller.domain_name, controller.name, controller.uuid
        )
        names = tuple(one.name for one in nodes)
        needs = frozenset({services.key})
        name, uuid = desired.state.name, controller.uuid
        told = slurm_steps.TellLost(name, uuid, names, is_restarted=True, needs=needs)
        return [*made, told]
    slurm = seen.readiness or {}
    believed = [
        one
        for one in nodes
        if one.name in slurm and not slurm[one.name].state.startswith(("down", "drained", "unk"))
    ]
    if not believed:
        return made
    names = tuple(one.name for one in believed)
    draining = tuple(name for name in names if slurm[name].is_drained)
    closed = tuple(name for name in names if slurm[name].is_closed_by_us)
    told = slurm_steps.TellLost(desired.state.name, controller.uuid, names, draining, closed=closed)
    lost = {one.uuid for one in believed}
    return [
        told,
        *(
            replace(step, needs=step.needs | {told.key})
            if isinstance(step, domain_steps.StartDomain) and step.uuid in lost
            else step
            for step in made
        ),
    ]
