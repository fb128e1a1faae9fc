"""Plans the start of a Kubernetes cluster (pure; without libvirt)."""

from collections.abc import Collection, Mapping
from functools import partial

from ai_how.cloud import steps as cloud_steps
from ai_how.cloud.identities import CloudObjects
from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.network import plan_network
from ai_how.clusters.plans.nodes import NodeChain, NodePlanner, limit_boots, with_first_boot
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.clusters.plans.step_types import step_types
from ai_how.plan.step import Plan, Step
from ai_how.spec.roles import Role
from ai_how.state.models import NodeState
from ai_how.vm_management.nodes.clocks import is_off
from ai_how.vm_management.steps import guest as guest_steps

STEP_TYPES = step_types(
    cloud_steps.SetClock,
    cloud_steps.AwaitApi,
    cloud_steps.ApplyManifests,
    cloud_steps.AwaitReady,
    cloud_steps.DrainNodes,
)


def plan_start(
    desired: DesiredCluster,
    seen: Observed,
    inputs: PlanInputs,
    objects: CloudObjects,
    *,
    only: Collection[str] = (),
    tell_all: bool = False,
    stale: Collection[str] = (),
    boot_limit: int | None = None,
) -> Plan:
    """The steps that start the cluster, or `only` these nodes; empty if it is up.

    The control planes are started with any node. At most `boot_limit` nodes are between VM start
    and identity at the same time; the first control plane never waits for others. With `tell_all`,
    running and resumed nodes get their identity again; without, those that were not told the last
    change. `stale` nodes are redefined while they are off. Raises SpecError or HostError if the
    cluster cannot become what is asked for.
    """
    network = plan_network(desired.state, seen, inputs.network_xml)
    planner = NodePlanner(desired=desired, seen=seen, inputs=inputs, network=network)
    made: list[Step] = [*network.steps, *network.plugs.values()]
    last: dict[str, frozenset[str]] = {}
    for node, one in desired.nodes:
        is_to_tell = tell_all or one.is_untold
        chain = planner.chain(
            node,
            one,
            only=only,
            is_working=_is_working(seen, one),
            is_stale=one.name in stale,
            is_to_tell=is_to_tell,
            holds="a part of etcd's database" if one.role is Role.CONTROLLER else None,
            resume=partial(_resume, planner, is_to_tell=is_to_tell),
        )
        if not chain.comes_up and seen.is_on(one) and is_off(seen.skews_s.get(one.uuid, 0.0)):
            chain.add(_set_clock(one, frozenset()))
        if chain.comes_up:
            last[one.name] = chain.last
        made += chain.steps
    limit = limit_boots(made, boot_limit)
    if limit:
        made = with_first_boot(made, desired.state.get_controller().uuid)
    made = [*planner.shared.values(), *made]
    if last:
        made += _ready_steps(desired, last, objects)
    return Plan("start", tuple(made), limit)


def _resume(planner: NodePlanner, one: NodeState, *, is_to_tell: bool) -> NodeChain:
    """The steps of a suspended node: its clock is right before a lease is looked at."""
    chain = planner.resume(one)
    chain.add(guest_steps.AwaitAgent(one.domain_name, one.uuid, chain.last))
    chain.add(_set_clock(one, chain.last))
    if is_to_tell:
        chain.add(guest_steps.GiveIdentity(one.domain_name, one.name, one.uuid, chain.last))
    return chain


def _set_clock(one: NodeState, needs: frozenset[str]) -> cloud_steps.SetClock:
    return cloud_steps.SetClock(one.domain_name, one.name, one.uuid, needs)


def _is_working(seen: Observed, one: NodeState) -> bool:
    """Whether a node's agent is there, and it is Ready for the API."""
    domain = seen.find_domain(one.uuid)
    if seen.readiness is None or domain is None or not domain.is_agent_connected:
        return False
    node = seen.readiness.get(one.name)
    return node is not None and (node.is_working or node.is_drained)


def _ready_steps(
    desired: DesiredCluster, last: Mapping[str, frozenset[str]], objects: CloudObjects
) -> list[Step]:
    """Check the clocks, wait for the API, then for the nodes and a Pod on each."""
    cluster = desired.state.name
    up = [one for _, one in desired.nodes if one.name in last]
    told = frozenset[str]().union(*last.values())
    clocks = guest_steps.CheckClocks(cluster, tuple((one.name, one.uuid) for one in up), told)
    planes = [one for one in up if one.role is Role.CONTROLLER]
    # A node that comes up alone is waited for by the API that is there.
    first = desired.state.get_controller()
    apis = [
        cloud_steps.AwaitApi(one.domain_name, one.name, one.uuid, last.get(one.name, frozenset()))
        for one in planes or [first]
    ]
    healthy = frozenset(step.key for step in apis)
    manifests = cloud_steps.ApplyManifests(
        cluster, first.name, first.uuid, objects.manifests, objects.former, healthy
    )
    names = tuple(one.name for one in up)
    check = objects.check_of(names)
    ready = cloud_steps.AwaitReady(
        cluster,
        first.name,
        first.uuid,
        names,
        check.objects,
        check.pods,
        objects.labels_of(names),
        frozenset({clocks.key, manifests.key}),
    )
    return [clocks, *apis, manifests, ready]
