"""From what is asked and what is there to the steps in between (pure; knows no libvirt)."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.network import NetworkPlan, plan_network
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.errors import HostError, SpecError
from ai_how.hpc import steps as slurm_steps
from ai_how.hpc.lost_nodes import with_lost_told
from ai_how.hpc.slurm_config import idle_partition
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import ConcurrencyLimit, Plan, Step
from ai_how.spec.nodes import Node, Role
from ai_how.state.models import NodeState
from ai_how.vm_management.nodes.clocks import is_off
from ai_how.vm_management.saved_machines.store import SavedMachineRef
from ai_how.vm_management.steps import disks as disk_steps
from ai_how.vm_management.steps import domains as domain_steps
from ai_how.vm_management.steps import guest as guest_steps
from ai_how.vm_management.steps import networks as network_steps
from ai_how.vm_management.steps import power as power_steps
from ai_how.vm_management.steps import suspend as suspend_steps

STEP_TYPES: Mapping[str, type[Step]] = {
    step.kind: step
    for step in (
        network_steps.DefineNetwork,
        network_steps.StartNetwork,
        network_steps.RestartNetwork,
        network_steps.TellNetwork,
        network_steps.RenewDhcp,
        network_steps.PlugIn,
        network_steps.MendUplink,
        disk_steps.PlaceBase,
        disk_steps.ClaimDirectory,
        disk_steps.CreateOverlay,
        disk_steps.GrowDisk,
        domain_steps.DefineDomain,
        domain_steps.StartDomain,
        domain_steps.RestoreDomain,
        suspend_steps.StartFromManagedSave,
        slurm_steps.StepClock,
        guest_steps.AwaitAgent,
        guest_steps.GiveIdentity,
        guest_steps.CheckClocks,
        slurm_steps.AwaitReady,
        suspend_steps.SuspendDomain,
        slurm_steps.CloseSlurm,
        slurm_steps.MarkOff,
        slurm_steps.TellLost,
        power_steps.ShutDownGuest,
        power_steps.DestroyDomain,
        disk_steps.BackUpDisk,
        disk_steps.RemoveDisk,
        disk_steps.RemoveDiskDirectory,
        network_steps.RemoveNetwork,
    )
}


def plan_start(
    draft: DesiredCluster,
    seen: Observed,
    rendering: PlanInputs,
    *,
    only: Collection[str] = (),
    tell_all: bool = False,
    stale: Collection[str] = (),
    boot_limit: int | None = None,
) -> Plan:
    """What brings the cluster (or `only` these nodes, and the controller) up; empty where it is.

    At most `boot_limit` nodes are at once between the start of their VM and their identity; where
    some have to wait for others, the controller does not.

    With `tell_all` nodes that run are given their identity anew, as something in it has changed.
    `stale` nodes are defined in another way than they would be now; they change while they are off.
    Raises SpecError or HostError where what is there cannot become what is asked for.
    """
    network = plan_network(draft.state, seen, rendering.network_xml)
    made: list[Step] = [*network.steps, *network.plugs.values()]
    shared: dict[str, Step] = {}
    brought_up: list[tuple[NodeState, str]] = []
    for node, one in draft.nodes:
        is_stale = one.name in stale
        if rendering.resumes and seen.is_suspended(one):
            chain, last = _resume_steps(draft, seen, shared, network, one, only, tell_all=tell_all)
        else:
            chain, last = _node_steps(
                draft, seen, rendering, shared, network, (node, one), only, is_stale=is_stale
            )
        if last is None and tell_all and seen.is_on(one):
            chain.append(guest_steps.GiveIdentity(one.domain_name, one.name, one.uuid))
            last = chain[-1].key
        if is_off(seen.skews_s.get(one.uuid, 0.0)):
            chain = _with_clock(one, chain)
        made += chain
        if last is not None:
            brought_up.append((one, last))
    made = with_lost_told(draft, seen, made)
    limit = _limit_boots(made, boot_limit)
    if limit:
        made = _controller_first(draft, made)
    made = [*shared.values(), *made]
    if brought_up:
        needed = frozenset(last for _, last in brought_up)
        told = frozenset(step.key for step in made if isinstance(step, slurm_steps.TellLost))
        made += _ready_steps(draft, [one for one, _ in brought_up], needed, told)
    return Plan("start", tuple(made), limit)


def _limit_boots(made: Collection[Step], boot_limit: int | None) -> ConcurrencyLimit | None:
    """A segment for each VM that is started, from there to its node's identity.

    None where no node would have to wait for another.
    """
    booted = [one for one in made if isinstance(one, domain_steps.StartDomain) and not one.was_on]
    if boot_limit is None or len(booted) <= boot_limit:
        return None
    of_domain: dict[str, list[str]] = {one.domain: [one.key] for one in booted}
    for step in made:
        if isinstance(step, guest_steps.AwaitAgent | guest_steps.GiveIdentity):
            of_domain.get(step.domain, []).append(step.key)
    return ConcurrencyLimit(boot_limit, tuple(map(tuple, of_domain.values())))


def _controller_first(draft: DesiredCluster, made: Collection[Step]) -> list[Step]:
    """The same steps, but no other VM is started before the controller's, where that is one."""
    controller = draft.state.get_controller()
    boots = [step for step in made if isinstance(step, domain_steps.StartDomain)]
    first = frozenset(step.key for step in boots if step.uuid == controller.uuid)
    return [
        replace(step, needs=step.needs | first)
        if isinstance(step, domain_steps.StartDomain) and step.key not in first
        else step
        for step in made
    ]


def _node_steps(
    draft: DesiredCluster,
    seen: Observed,
    rendering: PlanInputs,
    shared: dict[str, Step],
    network: NetworkPlan,
    pair: tuple[Node, NodeState],
    only: Collection[str],
    *,
    is_stale: bool,
) -> tuple[list[Step], str | None]:
    """The steps of one node, and the key of the last where they bring it up."""
    node, one = pair
    domain = seen.find_domain(one.uuid)
    is_on = domain is not None and domain.state.is_running
    if is_on and one.name in (*draft.grown, *draft.changed):
        raise SpecError(
            f"{one.name} is running, and its size is changed in the file",
            hint=f"ai-how hpc stop {one.name} && ai-how hpc start {one.name}",
        )
    chain: list[Step] = []
    is_wanted, saved = _wants_on(one, only), None
    if is_wanted and is_on and (tap := seen.dead_taps.get(one.name)):
        raise HostError(
            f"{one.name} has lost its network interface: {tap} was deleted on the host",
            details="A VM that runs cannot get it back.",
            hint=f"ai-how hpc stop {one.name} && ai-how hpc start {one.name}",
        )
    if one.name not in seen.disks:
        saved = rendering.saved_of(one.name) if is_wanted else None
        chain += _disk_steps(draft, seen, rendering, shared, one, saved)
    elif one.name in draft.grown:
        chain.append(disk_steps.GrowDisk(draft.state.name, one.name, one.disk, one.disk_gib))
    is_lost = domain is None or not domain.is_persistent  # one that runs on, undefined
    if is_lost or one.name in draft.changed or (is_stale and not is_on):
        needs = frozenset({chain[-1].key}) if chain else frozenset[str]()
        former = domain.xml if domain else None
        xml = rendering.domain_xml(node, one)
        chain.append(domain_steps.DefineDomain(one.domain_name, one.uuid, xml, needs, former))
    if not is_wanted:
        return chain, None
    if domain is None or not is_on or domain.state is VmState.PAUSED:
        needs = network.needed | frozenset({step.key for step in chain[-1:]})
        if not is_on:
            # A disk is no better than what it stands on, so that is looked at before each boot.
            base = shared.setdefault(one.image_digest, disk_steps.PlaceBase(one.image_digest))
            needs |= {base.key}
        chain.append(_boot_step(draft, seen, one, needs, saved))
    elif _is_working(seen, one) and domain.is_agent_connected:
        return chain, None
    needs = frozenset({step.key for step in chain[-1:]})
    if plug := network.plugs.get(one.name):
        needs |= {plug.key}
    chain.append(guest_steps.AwaitAgent(one.domain_name, one.uuid, needs))
    needs = frozenset({chain[-1].key})
    chain.append(guest_steps.GiveIdentity(one.domain_name, one.name, one.uuid, needs))
    return chain, chain[-1].key


def _resume_steps(
    draft: DesiredCluster,
    seen: Observed,
    shared: dict[str, Step],
    network: NetworkPlan,
    one: NodeState,
    only: Collection[str],
    *,
    tell_all: bool,
) -> tuple[list[Step], str | None]:
    """The steps of a node that is suspended: the controller goes on first, at the time of now."""
    if not _wants_on(one, only):
        return [], None
    if one.name in (*draft.grown, *draft.changed):
        raise SpecError(
            f"{one.name} is suspended, and its size is changed in the file",
            hint="ai-how hpc start --no-warm  # boots it anew: the jobs that it ran are lost",
        )
    if one.name not in seen.disks:
        raise HostError(
            f"{one.name} is suspended, and its disk is gone",
            details=str(one.disk),
            hint="ai-how hpc destroy  # then start it anew",
        )
    controller = draft.state.get_controller()
    is_controller = one == controller
    base = shared.setdefault(one.image_digest, disk_steps.PlaceBase(one.image_digest))
    needs = network.needed | {base.key}
    if not is_controller and seen.is_suspended(controller):
        needs |= {_step_clock(controller, frozenset(), is_controller=True).key}
    resume = suspend_steps.StartFromManagedSave(
        domain=one.domain_name,
        uuid=one.uuid,
        needs=needs,
        node=one.name,
        memory_mib=one.memory_mib,
    )
    agent = guest_steps.AwaitAgent(one.domain_name, one.uuid, frozenset({resume.key}))
    clock = _step_clock(one, frozenset({agent.key}), is_controller=is_controller)
    chain: list[Step] = [resume, agent, clock]
    if tell_all:
        needs = frozenset({clock.key})
        chain.append(guest_steps.GiveIdentity(one.domain_name, one.name, one.uuid, needs))
    return chain, chain[-1].key


def _with_clock(one: NodeState, chain: Collection[Step]) -> list[Step]:
    """The same steps, and one by which a node whose clock is off has the time of now.

    Before its identity, which sets the clock too, and gives no job the minutes that it jumps.
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


def _boot_step(
    draft: DesiredCluster,
    seen: Observed,
    one: NodeState,
    needs: frozenset[str],
    saved: SavedMachineRef | None,
) -> Step:
    if saved:
        return domain_steps.RestoreDomain(
            domain=one.domain_name,
            uuid=one.uuid,
            needs=needs,
            cluster=draft.state.name,
            node=one.name,
            saved=saved,
        )
    domain, keeps = seen.find_domain(one.uuid), one.name in seen.disks
    was_on = domain is not None and domain.state.is_running
    return domain_steps.StartDomain(
        one.domain_name,
        one.uuid,
        needs,
        was_on=was_on,
        keeps_disk=keeps,
        is_anew=seen.is_suspended(one),
    )


def _disk_steps(
    draft: DesiredCluster,
    seen: Observed,
    rendering: PlanInputs,
    shared: dict[str, Step],
    one: NodeState,
    saved: SavedMachineRef | None,
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
    base = shared.setdefault(one.image_digest, disk_steps.PlaceBase(one.image_digest))
    needs = {base.key}
    if not seen.has_disk_directory:
        claim = disk_steps.ClaimDirectory(draft.state.name, draft.state.lineage)
        needs.add(shared.setdefault(claim.key, claim).key)
    return [
        disk_steps.CreateOverlay(
            draft.state.name,
            draft.state.lineage,
            one.name,
            rendering.base_of(one.image_digest),
            one.disk_gib,
            frozenset(needs),
            saved,
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
    # A node that its user drained is as it should be, unless its slurmd does not answer.
    return node is not None and (
        node.is_working or (node.is_drained and not node.state.endswith("*"))
    )


def _ready_steps(
    draft: DesiredCluster, up: Collection[NodeState], needs: frozenset[str], told: frozenset[str]
) -> list[Step]:
    """Clocks, then SLURM: one wait and one job for each partition that some node is tested in."""
    cluster = draft.state.name
    controller = draft.state.get_controller()
    clocks = guest_steps.CheckClocks(cluster, tuple((one.name, one.uuid) for one in up), needs)
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
            slurm_steps.AwaitReady(
                name,
                controller.uuid,
                tuple(names),
                partition,
                draft.hpc.storage.home,
                told | {clocks.key},
            )
        )
    return made
