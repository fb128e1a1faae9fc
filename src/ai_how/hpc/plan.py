"""Plans the start of a SLURM cluster (pure; without libvirt)."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.network import plan_network
from ai_how.clusters.plans.nodes import NodeChain, NodePlanner, limit_boots, with_first_boot
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.clusters.plans.step_types import step_types
from ai_how.hpc import steps as slurm_steps
from ai_how.hpc.identities import slurm_nodes
from ai_how.hpc.lost_nodes import with_lost_told
from ai_how.hpc.section import hpc_of
from ai_how.hpc.slurm_config import idle_partition
from ai_how.plan.step import Plan, Step
from ai_how.spec.nodes import Role
from ai_how.state.models import NodeState
from ai_how.vm_management.nodes.clocks import is_off
from ai_how.vm_management.steps import guest as guest_steps

STEP_TYPES = step_types(
    slurm_steps.StepClock,
    slurm_steps.AwaitReady,
    slurm_steps.CloseSlurm,
    slurm_steps.MarkOff,
    slurm_steps.TellLost,
)


def plan_start(
    desired: DesiredCluster,
    seen: Observed,
    inputs: PlanInputs,
    *,
    only: Collection[str] = (),
    tell_all: bool = False,
    stale: Collection[str] = (),
    boot_limit: int | None = None,
) -> Plan:
    """The steps that start the cluster, or `only` these nodes; empty if it is up.

    The controller is started with any node. At most `boot_limit` nodes are between VM start and
    identity at the same time; the controller never waits for others. With `tell_all`, running and
    resumed nodes get their identity again, as part of it changed; without, those of them that were
    not told the last change. `stale` nodes are defined differently from what the spec asks for now,
    and are redefined while they are off. Raises SpecError or HostError if
    the cluster cannot become what is asked for.
    """
    network = plan_network(desired.state, seen, inputs.network_xml)
    planner = NodePlanner(desired=desired, seen=seen, inputs=inputs, network=network)
    made: list[Step] = [*network.steps, *network.plugs.values()]
    brought_up: dict[str, NodeState] = {}
    for node, one in desired.nodes:
        is_to_tell = tell_all or one.is_untold
        chain = planner.chain(
            node,
            one,
            only=only,
            is_working=_is_working(seen, one),
            is_stale=one.name in stale,
            is_to_tell=is_to_tell,
            holds="/home and SLURM's state" if one.role is Role.CONTROLLER else None,
            resume=partial(_resume, planner, is_to_tell=is_to_tell),
        )
        if chain.comes_up:
            brought_up[chain.steps[-1].key] = one
        made += (
            _with_clock(one, chain.steps)
            if is_off(seen.skews_s.get(one.uuid, 0.0))
            else chain.steps
        )
    made = with_lost_told(desired, seen, made)
    limit = limit_boots(made, boot_limit)
    if limit:
        made = with_first_boot(made, desired.state.get_controller().uuid)
    made = [*planner.shared.values(), *made]
    if brought_up:
        told = frozenset(step.key for step in made if isinstance(step, slurm_steps.TellLost))
        made += _ready_steps(desired, brought_up.values(), frozenset(brought_up), told)
    return Plan("start", tuple(made), limit)


def _resume(planner: NodePlanner, one: NodeState, *, is_to_tell: bool) -> NodeChain:
    """The steps of a suspended node. The controller is resumed first, and its clock is set."""
    controller = planner.desired.state.get_controller()
    is_controller = one == controller
    needs = frozenset[str]()
    if not is_controller and planner.seen.has_managed_save(controller):
        needs = frozenset({_step_clock(controller, frozenset(), is_controller=True).key})
    chain = planner.resume(one, needs)
    chain.add(guest_steps.AwaitAgent(one.domain_name, one.uuid, chain.last))
    chain.add(_step_clock(one, chain.last, is_controller=is_controller))
    if is_to_tell:
        chain.add(guest_steps.GiveIdentity(one.domain_name, one.name, one.uuid, chain.last))
    return chain


def _with_clock(one: NodeState, chain: Collection[Step]) -> list[Step]:
    """Add a step that sets a wrong clock.

    It precedes `GiveIdentity`, which sets the clock too but does not extend the time limits of
    jobs.
    """
    needs, made = frozenset[str](), list(chain)
    identities = (step for step in made if isinstance(step, guest_steps.GiveIdentity))
    given = next(identities, None)
    if given is not None:
        needs = given.needs
    clock = _step_clock(one, needs, is_controller=one.role is Role.CONTROLLER)
    if given is None:
        return [*made, clock]
    at = made.index(given)
    return [*made[:at], clock, replace(given, needs=frozenset({clock.key})), *made[at + 1 :]]


def _step_clock(
    one: NodeState, needs: frozenset[str], *, is_controller: bool
) -> slurm_steps.StepClock:
    return slurm_steps.StepClock(one.domain_name, one.name, one.uuid, is_controller, needs)


def _is_working(seen: Observed, one: NodeState) -> bool:
    """Whether a node's agent and SLURM are there; of a compute node, whether SLURM can use it."""
    domain = seen.find_domain(one.uuid)
    if seen.readiness is None or domain is None or not domain.is_agent_connected:
        return False
    if one.role is Role.CONTROLLER:
        return True
    node = seen.readiness.get(one.name)
    # A node that a user drained is fine, unless its slurmd does not answer.
    return node is not None and (
        node.is_working or (node.is_drained and not node.state.endswith("*"))
    )


def _ready_steps(
    desired: DesiredCluster, up: Collection[NodeState], needs: frozenset[str], told: frozenset[str]
) -> list[Step]:
    """Check the clocks, then wait for SLURM and run a job in each partition with new nodes."""
    cluster = desired.state.name
    controller = desired.state.get_controller()
    clocks = guest_steps.CheckClocks(cluster, tuple((one.name, one.uuid) for one in up), needs)
    hpc = hpc_of(desired.section)
    partitions = hpc.slurm_config.partitions
    with_gpus = {one.name for one in slurm_nodes(desired) if one.gpus}
    tested: dict[str, list[str]] = {}
    for one in up:
        partition = idle_partition(partitions, one.name)
        if one.role is Role.COMPUTE and partition:
            tested.setdefault(partition, []).append(one.name)
    made: list[Step] = [clocks]
    for partition, names in tested.items():
        name = cluster if len(tested) == 1 else f"{cluster}/{partition}"
        made.append(
            slurm_steps.AwaitReady(
                name,
                controller.uuid,
                tuple(names),
                partition,
                hpc.storage.home,
                told | {clocks.key},
                tuple(one.name for one in up if one.name in names and one.name in with_gpus),
            )
        )
    return made
