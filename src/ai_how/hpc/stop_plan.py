"""Plans the stop and the suspend of a SLURM cluster (pure)."""

from collections.abc import Collection

from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.devices import plan_returns
from ai_how.hpc import steps as slurm_steps
from ai_how.plan.step import Plan, Step
from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState
from ai_how.vm_management.steps import power as power_steps


def plan_stop(state: ClusterState, seen: Observed, *, only: Collection[str] = ()) -> Plan:
    """The steps that stop the cluster, or `only` these nodes: SLURM, compute nodes, controller."""
    for name in only:
        state.get_node(name)
    controller = state.find_controller()
    on = [one for one in state.nodes if seen.is_on(one) and (not only or one.name in only)]
    computes = [one for one in on if one.role is Role.COMPUTE]
    made: list[Step] = []
    slurm = seen.readiness if controller and seen.is_on(controller) else None
    drained, stopping = frozenset(find_drained(state, seen)), {one.name for one in computes}
    if controller and computes and slurm is not None:
        names = tuple(one.name for one in computes)
        mine = tuple(name for name in names if name in drained)
        made.append(slurm_steps.CloseSlurm(state.name, controller.uuid, names, drained=mine))
    told = frozenset(step.key for step in made)
    made += [power_steps.ShutDownGuest(one.domain_name, one.uuid, told) for one in computes]
    if controller and slurm is not None:
        # Including nodes that a stop which was cut short drained.
        closed = [
            one.name
            for one in state.nodes
            if (one.name in stopping and one.name not in drained)
            or (not seen.is_on(one) and one.name in slurm and slurm[one.name].is_closed_by_us)
        ]
        kept = tuple(
            (one.name, slurm[one.name].reason or "drained")
            for one in computes
            if one.name in drained
        )
        if closed or kept:
            off = frozenset(step.key for step in made)
            made.append(slurm_steps.MarkOff(state.name, controller.uuid, tuple(closed), off, kept))
    # The controller serves /home, so it stops when no node can write there.
    after = told | frozenset(step.key for step in made)
    made += [
        power_steps.ShutDownGuest(one.domain_name, one.uuid, after)
        for one in on
        if one.role is Role.CONTROLLER
    ]
    made += plan_returns(tuple(made), seen)
    return Plan("stop", tuple(made))


def find_drained(state: ClusterState, seen: Observed) -> tuple[str, ...]:
    """The nodes that a user drained."""
    slurm = seen.readiness or {}
    return tuple(
        one.name for one in state.nodes if one.name in slurm and slurm[one.name].is_drained
    )
