"""Plans the stop of a Kubernetes cluster (pure)."""

from collections.abc import Collection

from ai_how.cloud import steps as cloud_steps
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.devices import plan_returns
from ai_how.plan.step import Plan, Step
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState
from ai_how.vm_management.steps.power import ShutDownGuest


def plan_stop(state: ClusterState, seen: Observed, *, only: Collection[str] = ()) -> Plan:
    """The steps that stop the cluster, or `only` these nodes: workers first, then control planes.

    Pods are moved to other nodes only where some stay on: if all nodes stop, each Pod comes back
    where it was.
    """
    for name in only:
        state.get_node(name)
    on = [one for one in state.nodes if seen.is_on(one) and (not only or one.name in only)]
    workers = [one for one in on if one.role is Role.COMPUTE]
    planes = [one for one in on if one.role is Role.CONTROLLER]
    every_plane = (one for one in state.nodes if one.role is Role.CONTROLLER)
    staying = next((one for one in every_plane if seen.is_on(one) and one not in on), None)
    made: list[Step] = []
    if staying and seen.readiness is not None:
        names = tuple(
            one.name
            for one in on
            if (known := seen.readiness.get(one.name)) and not known.is_drained
        )
        if names:
            made.append(cloud_steps.DrainNodes(state.name, staying.name, staying.uuid, names))
    drained = frozenset(step.key for step in made)
    made += [ShutDownGuest(one.domain_name, one.uuid, drained) for one in workers]
    # Their API is there until no kubelet reports any more.
    after = drained | frozenset(step.key for step in made)
    made += [ShutDownGuest(one.domain_name, one.uuid, after) for one in planes]
    made += plan_returns(tuple(made), seen)
    return Plan("stop", tuple(made))
