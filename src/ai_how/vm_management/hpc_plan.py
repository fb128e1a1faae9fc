"""From what is asked and what is there to the steps in between (pure; knows no libvirt)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import HostError, SpecError
from ai_how.guest.slurm_config import idle_partition
from ai_how.plan.step import Plan, Step
from ai_how.spec.nodes import Node, Role
from ai_how.state.models import ClusterState, NodeState, VmState
from ai_how.vm_management import steps, stop_steps
from ai_how.vm_management.drafting import Draft
from ai_how.vm_management.observed import Observed

STEP_TYPES: Mapping[str, type[Step]] = {
    step.kind: step
    for step in (
        steps.DefineNetwork,
        steps.StartNetwork,
        steps.PlaceBase,
        steps.ClaimDirectory,
        steps.CreateOverlay,
        steps.GrowDisk,
        steps.DefineDomain,
        steps.StartDomain,
        steps.AwaitAgent,
        steps.GiveIdentity,
        steps.CheckClocks,
        steps.AwaitReady,
        stop_steps.CloseSlurm,
        stop_steps.ShutDownGuest,
        stop_steps.DestroyDomain,
        stop_steps.BackUpDisk,
        stop_steps.RemoveDisk,
        stop_steps.RemoveDiskDirectory,
        stop_steps.RemoveNetwork,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How the plan gets its XML; `base_of` says where an image's disk will be."""

    network_xml: Callable[[], str]
    domain_xml: Callable[[Node, NodeState], str]
    base_of: Callable[[str], Path]


def plan_start(
    draft: Draft,
    seen: Observed,
    rendering: Rendering,
    *,
    only: Collection[str] = (),
    tell_all: bool = False,
    stale: Collection[str] = (),
) -> Plan:
    """What brings the cluster (or `only` these nodes, and the controller) up; empty where it is.

    With `tell_all` nodes that run are given their identity anew, as something in it has changed.
    `stale` nodes are defined in another way than they would be now; they change while they are off.
    Raises SpecError or HostError where what is there cannot become what is asked for.
    """
    made: list[Step] = [*_network_steps(draft, seen, rendering)]
    network = frozenset(step.key for step in made[-1:])
    shared: dict[str, Step] = {}
    brought_up: list[tuple[NodeState, str]] = []
    for node, one in draft.nodes:
        is_stale = one.name in stale
        chain, last = _node_steps(
            draft, seen, rendering, shared, network, (node, one), only, is_stale=is_stale
        )
        made += chain
        if last is not None:
            brought_up.append((one, last))
        elif tell_all and seen.is_on(one):
            tell = steps.GiveIdentity(one.domain_name, one.name, one.uuid)
            made.append(tell)
            brought_up.append((one, tell.key))
    made = [*shared.values(), *made]
    if brought_up:
        needed = frozenset(last for _, last in brought_up)
        made += _ready_steps(draft, [one for one, _ in brought_up], needed)
    return Plan("start", tuple(made))


def _network_steps(draft: Draft, seen: Observed, rendering: Rendering) -> list[Step]:
    network = draft.state.network
    if seen.network is None:
        define = steps.DefineNetwork(network.name, network.uuid, rendering.network_xml())
        return [define, steps.StartNetwork(network.name, network.uuid, frozenset({define.key}))]
    if not seen.network.is_active:
        return [steps.StartNetwork(network.name, network.uuid)]
    return []


def _node_steps(
    draft: Draft,
    seen: Observed,
    rendering: Rendering,
    shared: dict[str, Step],
    network: frozenset[str],
    pair: tuple[Node, NodeState],
    only: Collection[str],
    *,
    is_stale: bool,
) -> tuple[list[Step], str | None]:
    """The steps of one node, and the key of the last where they bring it up."""
    node, one = pair
    domain = seen.find_domain(one.uuid)
    is_on = domain is not None and domain.state.is_on
    if is_on and one.name in (*draft.grown, *draft.changed):
        raise SpecError(
            f"{one.name} is running, and its size is changed in the file",
            hint=f"ai-how hpc stop {one.name} && ai-how hpc start {one.name}",
        )
    chain: list[Step] = []
    if one.name not in seen.disks:
        chain += _disk_steps(draft, seen, rendering, shared, one)
    elif one.name in draft.grown:
        chain.append(steps.GrowDisk(draft.state.name, one.name, one.disk, one.disk_gib))
    if domain is None or one.name in draft.changed or (is_stale and not is_on):
        needs = frozenset({chain[-1].key}) if chain else frozenset[str]()
        former = domain.xml if domain else None
        xml = rendering.domain_xml(node, one)
        chain.append(steps.DefineDomain(one.domain_name, one.uuid, xml, needs, former))
    if not _wants_on(one, only):
        return chain, None
    if domain is None or not is_on or domain.state is VmState.PAUSED:
        needs = network | frozenset({step.key for step in chain[-1:]})
        chain.append(steps.StartDomain(one.domain_name, one.uuid, needs, was_on=is_on))
    elif _is_working(seen, one) and domain.is_agent_connected:
        return chain, None
    needs = frozenset({step.key for step in chain[-1:]})
    chain.append(steps.AwaitAgent(one.domain_name, one.uuid, needs))
    needs = frozenset({chain[-1].key})
    chain.append(steps.GiveIdentity(one.domain_name, one.name, one.uuid, needs))
    return chain, chain[-1].key


def _disk_steps(
    draft: Draft,
    seen: Observed,
    rendering: Rendering,
    shared: dict[str, Step],
    one: NodeState,
) -> list[Step]:
    if seen.find_domain(one.uuid) is not None and one.role is Role.CONTROLLER:
        raise HostError(
            f"the disk of {one.name} is gone, and with it /home and SLURM's state",
            details=str(one.disk),
            hint="ai-how hpc destroy  # then start it anew",
        )
    if seen.is_on(one):
        raise HostError(
            f"the disk of {one.name} is gone, and its VM still runs",
            details=str(one.disk),
            hint=f"ai-how hpc stop {one.name} && ai-how hpc start {one.name}",
        )
    base = shared.setdefault(one.image_digest, steps.PlaceBase(one.image_digest))
    needs = {base.key}
    if not seen.has_disk_directory:
        claim = steps.ClaimDirectory(draft.state.name, draft.state.lineage)
        needs.add(shared.setdefault(claim.key, claim).key)
    return [
        steps.CreateOverlay(
            draft.state.name,
            draft.state.lineage,
            one.name,
            rendering.base_of(one.image_digest),
            one.disk_gib,
            frozenset(needs),
        )
    ]


def _wants_on(one: NodeState, only: Collection[str]) -> bool:
    if not only:
        return one.auto_start
    return one.name in only or one.role is Role.CONTROLLER


def _is_working(seen: Observed, one: NodeState) -> bool:
    """Whether SLURM has this node; the controller works where SLURM answers."""
    if seen.slurm is None:
        return False
    if one.role is Role.CONTROLLER:
        return True
    node = seen.slurm.get(one.name)
    # A node that its user drained is as it should be.
    return node is not None and (node.is_working or node.state.startswith("drain"))


def _ready_steps(draft: Draft, up: Collection[NodeState], needs: frozenset[str]) -> list[Step]:
    """Clocks, then SLURM: one wait and one job for each partition that some node is tested in."""
    cluster = draft.state.name
    controller = next(one for one in draft.state.nodes if one.role is Role.CONTROLLER)
    clocks = steps.CheckClocks(cluster, tuple((one.name, one.uuid) for one in up), needs)
    partitions = draft.hpc.slurm_config.partitions
    tested: dict[str, list[str]] = {}
    for one in up:
        partition = idle_partition(partitions, one.name)
        if one.role is Role.COMPUTE and partition:
            tested.setdefault(partition, []).append(one.name)
    made: list[Step] = [clocks]
    for partition, names in tested.items():
        name = cluster if len(tested) == 1 else f"{cluster}/{partition}"
        made.append(
            steps.AwaitReady(
                name,
                controller.uuid,
                tuple(names),
                partition,
                draft.hpc.storage.home,
                frozenset({clocks.key}),
            )
        )
    return made


def plan_stop(state: ClusterState, seen: Observed, *, only: Collection[str] = ()) -> Plan:
    """What turns the cluster (or `only` these nodes) off: SLURM, compute nodes, controller."""
    for name in only:
        state.get_node(name)
    controller = next((one for one in state.nodes if one.role is Role.CONTROLLER), None)
    on = [one for one in state.nodes if seen.is_on(one) and (not only or one.name in only)]
    computes = [one for one in on if one.role is Role.COMPUTE]
    made: list[Step] = []
    if controller and computes and seen.is_on(controller) and seen.slurm is not None:
        names = tuple(one.name for one in computes)
        made.append(stop_steps.CloseSlurm(state.name, controller.uuid, names))
    told = frozenset(step.key for step in made)
    made += [stop_steps.ShutDownGuest(one.domain_name, one.uuid, told) for one in computes]
    # The controller serves /home: it goes when nobody writes there any more.
    after = told | frozenset(step.key for step in made)
    made += [
        stop_steps.ShutDownGuest(one.domain_name, one.uuid, after)
        for one in on
        if one.role is Role.CONTROLLER
    ]
    return Plan("stop", tuple(made))


def plan_destroy(state: ClusterState, *, backups: Path | None = None) -> Plan:
    """What leaves nothing of the cluster; each step takes what is absent for done."""
    made: list[Step] = []
    for one in state.nodes:
        vm = stop_steps.DestroyDomain(one.domain_name, one.uuid)
        made.append(vm)
        last = vm.key
        if backups:
            target = backups / f"{one.domain_name}-{state.lineage.hex[:8]}.qcow2"
            made.append(stop_steps.BackUpDisk(one.domain_name, one.disk, target, frozenset({last})))
            last = made[-1].key
        made.append(stop_steps.RemoveDisk(state.name, state.lineage, one.name, frozenset({last})))
    gone = frozenset(step.key for step in made)
    made.append(stop_steps.RemoveNetwork(state.network.name, state.network.uuid, gone))
    made.append(stop_steps.RemoveDiskDirectory(state.name, state.lineage, gone))
    return Plan("destroy", tuple(made))
