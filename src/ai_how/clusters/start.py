"""All decisions of a start before its first change, in three phases: look, decide, check."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.kept_ports import openable, read_kept
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.ports import check_ports, ports_of, with_ports
from ai_how.clusters.plans.rendering import PlanInputs, build_domain_definitions, build_plan_inputs
from ai_how.clusters.preflight.capacity import Warn, check_host, require_hypervisor
from ai_how.clusters.preflight.device_hardware import require_device_hardware
from ai_how.clusters.preflight.device_users import devices_of, require_free_devices
from ai_how.clusters.secrets import write_ssh_files
from ai_how.clusters.start_context import StartContext
from ai_how.clusters.start_look import Looked, look
from ai_how.clusters.told_nodes import after_start
from ai_how.clusters.workload import describe_drained
from ai_how.host.facts import read_cpu
from ai_how.host.memory_facts import read_memory
from ai_how.host.place import HypervisorHost
from ai_how.host.uplink import Relays
from ai_how.images.manifest import Image
from ai_how.plan.step import Plan
from ai_how.spec.nodes import Node
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.nodes.boot_limit import choose_boot_limit
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.vm_management.owners import is_same_definition
from ai_how.vm_management.saved_machines.matching import (
    NONE_SAVED,
    SavedMachineMatches,
    describe_host,
    find_matches,
)
from ai_how.vm_management.saved_machines.saving import no_save_reason
from ai_how.vm_management.saved_machines.store import SavedMachines
from ai_how.vm_management.steps.domains import StartDomain
from ai_how.vm_management.steps.guest import AwaitAgent, GiveIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """The result of the second phase: the plan, and what to warn of."""

    desired: DesiredCluster
    plan: Plan
    matches: SavedMachineMatches
    stale: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStart:
    """A start whose plan is ready to be executed."""

    kind: ClusterKind
    desired: DesiredCluster
    plan: Plan
    images: Mapping[str, Image]
    archives: Mapping[str, Callable[[], bytes]]
    devices: tuple[str, ...] = ()
    """The devices of the host that the nodes have which it boots."""
    renews_keys: bool = False
    """Whether `prepare_files` creates keys in place of lost ones, which no undo brings back."""

    @property
    def tells_nodes(self) -> bool:
        """Whether a node is told the configuration of the cluster."""
        return any(isinstance(step, GiveIdentity) for step in self.plan.steps)

    def prepare_host(self, place: HypervisorHost) -> None:
        """Ensure that nodes reach the proxies that listen on the host's loopback alone."""
        if place.embedded:
            gateway = str(self.desired.state.network.gateway)
            place.embedded.ensure_uplink(Relays(gateway, self.desired.outside.relays))

    def prepare_files(self, paths: ClusterPaths, proxy: list[str]) -> None:
        """Create the keys, unless they exist, and write the ssh configuration."""
        self.kind.ensure_secrets(self.desired.state, paths)
        write_ssh_files(self.desired.state, paths, proxy)


def prepare_start(context: StartContext) -> PreparedStart:
    """Look, decide and check; changes nothing.

    The caller holds the host-wide lock, as this may choose a subnet.
    """
    looked = look(context)
    decided = _decide(context, looked)
    _check(context, looked, decided)
    return PreparedStart(
        kind=context.kind,
        desired=decided.desired,
        plan=decided.plan,
        images=looked.images,
        archives=context.kind.build_archives(
            decided.desired, context.paths, has_host_clock=looked.accel is Accel.KVM
        ),
        devices=tuple(devices_of(_booted(decided), decided.desired.host_devices)),
        renews_keys=bool(decided.lost),
    )


def _decide(context: StartContext, looked: Looked) -> _Decided:
    """Match saved machines, and make the plan."""
    kind, paths, previous, seen = context.kind, context.paths, looked.previous, looked.seen
    desired, matches = looked.desired, _match_saved(context, looked)
    inputs = build_plan_inputs(
        desired,
        context.place,
        paths,
        looked.images,
        looked.accel,
        matches.saved,
        resumes=context.resumes,
    )
    digest = kind.config_digest(desired)
    lost = kind.find_lost_secrets(previous, paths)
    is_told = (previous is None or previous.config_digest == digest) and not lost
    stale = _stale_nodes(desired, seen, inputs, paths)
    plan = kind.plan_start(
        desired,
        seen,
        inputs,
        only=context.only,
        tell_all=not is_told,
        stale=stale,
        boot_limit=_boot_limit(desired, seen, looked.accel),
    )
    exposed = ports_of(context.section, desired.state)
    kept = openable(read_kept(paths, desired.state), exposed, seen.ports, context.warn)
    plan = with_ports(
        plan,
        (*exposed, *kept),
        seen.ports,
        host=context.place.way_in().host,
        cluster=paths.name,
    )
    state = after_start(desired.state, digest, plan.steps, tell_all=not is_told)
    new = [one.name for _, one in desired.nodes if one.name not in seen.disks]
    desired = replace(desired, state=state.without_provisioned(new))
    return _Decided(desired=desired, plan=plan, matches=matches, stale=stale, lost=lost)


def _check(context: StartContext, looked: Looked, decided: _Decided) -> None:
    """Warn of what the plan does not change; raise if the host lacks something."""
    plan, seen, desired = decided.plan, looked.seen, decided.desired
    for what in decided.lost:
        context.warn(f"{what} is gone: a new one is created and sent to every node")
    _warn_of_waiting(context, looked, decided)
    _warn_of_drained(desired, seen, plan, context.warn)
    if not plan.steps:
        return
    for line in (*decided.matches.notes, *looked.notes):
        context.warn(line)
    if context.place.runs_guests:
        require_hypervisor(context.client, looked.accel)
    check_ports(plan, context.roots, context.paths.name)
    require_free_devices(desired, _booted(decided), context.client, context.roots)
    require_device_hardware(looked.hardware, _booted(decided), context.warn)
    check_host(
        desired,
        plan,
        seen,
        context.place,
        looked.images,
        context.warn,
        machine=context.machine,
    )


def _booted(decided: _Decided) -> list[Node]:
    """The nodes that the plan boots; one that was only paused keeps what it has."""
    booted = {
        step.domain
        for step in decided.plan.steps
        if isinstance(step, StartDomain) and not step.was_on
    }
    return [node for node, one in decided.desired.nodes if one.domain_name in booted]


def _match_saved(context: StartContext, looked: Looked) -> SavedMachineMatches:
    """The saved machines for nodes that get a new disk."""
    place = context.place
    new = [pair for pair in looked.desired.nodes if pair[1].name not in looked.seen.disks]
    wants_warm = context.is_warm and context.section.start.warm
    if not wants_warm or not new or not place.saves_memory:
        return NONE_SAVED
    if why := no_save_reason(place):
        return SavedMachineMatches(
            {}, (f"new nodes boot instead of being restored: {why} (start.warm)",)
        )
    definitions = build_domain_definitions(
        looked.desired, place, context.paths, looked.images, looked.accel
    )
    host = describe_host(context.client, looked.accel)
    return find_matches(new, definitions, SavedMachines(place.storage), host)


def _stale_nodes(
    desired: DesiredCluster, seen: Observed, inputs: PlanInputs, paths: ClusterPaths
) -> tuple[str, ...]:
    """Nodes whose VM was defined from another spec or for another accelerator."""
    stale = []
    for node, one in desired.nodes:
        sent = paths.xml / f"{one.domain_name}.xml"
        if seen.find_domain(one.uuid) is None or not sent.exists():
            continue
        if not is_same_definition(sent.read_text(), inputs.domain_xml(node, one)):
            stale.append(one.name)
    return tuple(stale)


def _warn_of_waiting(context: StartContext, looked: Looked, decided: _Decided) -> None:
    kind = context.kind.name
    previous = {one.name: one for one in looked.previous.nodes} if looked.previous else {}
    for one in decided.desired.state.nodes:
        was = previous.get(one.name)
        if was and (was.gpus or {}) != (one.gpus or {}) and looked.seen.is_on(one):
            context.warn(f"{one.name} gets other GPUs: jobs that have some of it end")
    for name in decided.stale:
        one = decided.desired.state.get_node(name)
        goes_on = context.resumes and looked.seen.has_managed_save(one)
        if looked.seen.is_on(one) or goes_on:
            context.warn(
                f"{name} runs with its previous definition; to apply the changes: "
                f"ai-how {kind} stop {name} && ai-how {kind} start {name}"
            )


def _warn_of_drained(desired: DesiredCluster, seen: Observed, plan: Plan, warn: Warn) -> None:
    """Warn of drained nodes. For nodes that the plan starts, a step warns later."""
    brought_up = {one.domain for one in plan.steps if isinstance(one, AwaitAgent | GiveIdentity)}
    for one in desired.state.nodes:
        node = (seen.readiness or {}).get(one.name)
        if node and node.is_drained and seen.is_on(one) and one.domain_name not in brought_up:
            warn(describe_drained(node))


def _boot_limit(desired: DesiredCluster, seen: Observed, accel: Accel) -> int:
    root, acceleration = Path("/"), desired.section.hardware.acceleration
    cpu, memory = read_cpu(root), read_memory(root)
    from_pool = acceleration.performance.wants_hugepages
    return choose_boot_limit(
        desired.section.start.boot_limit,
        accel,
        cpus=cpu.count if cpu else None,
        free_mib=memory.usable_mib if memory and not from_pool else None,
        memory_mib=[one.memory_mib for _, one in desired.nodes if not seen.is_on(one)],
    )
