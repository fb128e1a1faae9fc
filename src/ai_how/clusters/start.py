"""All decisions of a start before its first change, in three phases: look, decide, check."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster, HostChoices, plan_desired_cluster
from ai_how.clusters.kind import ClusterKind, ClusterSection
from ai_how.clusters.observation import Observed, observe, with_host_faults
from ai_how.clusters.outside import find_outside
from ai_how.clusters.plans.rendering import PlanInputs, build_domain_definitions, build_plan_inputs
from ai_how.clusters.preflight.capacity import Warn, check_host, require_hypervisor
from ai_how.clusters.preflight.device_users import (
    devices_of,
    find_device_users,
    require_free_devices,
)
from ai_how.clusters.preflight.existing_cluster import (
    check_images,
    find_disk_directory,
    find_losses,
)
from ai_how.clusters.preflight.host_gpus import Asker, HostGpus, assign_gpus
from ai_how.clusters.preflight.node_images import catalogue_of, choose_accel, get_image
from ai_how.clusters.preflight.subnet_choice import choose_cluster_subnet
from ai_how.clusters.recovery import refuse_lost
from ai_how.clusters.secrets import write_ssh_files
from ai_how.clusters.workload import describe_drained
from ai_how.host.facts import read_cpu
from ai_how.host.memory_facts import read_memory
from ai_how.host.place import HypervisorHost
from ai_how.host.uplink import Relays
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import Image
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.step import Plan
from ai_how.spec.identity import new_cluster_id
from ai_how.spec.models import ClusterFile
from ai_how.spec.nodes import Node
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots
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
class StartContext:
    """The inputs of one start: the spec, the cluster and the host."""

    kind: ClusterKind
    file: ClusterFile
    roots: Roots
    place: HypervisorHost
    client: LibvirtClient
    warn: Warn
    only: Collection[str] = ()
    is_warm: bool = True
    resumes: bool = True
    machine: Path = Path("/")
    """Contains the /sys, /proc and /usr that tell of the host's devices."""

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.section.name)

    @property
    def section(self) -> ClusterSection:
        return self.kind.section_of(self.file)

    @property
    def catalogue(self) -> ImageCatalogue:
        return catalogue_of(self.roots, self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """The result of the first phase: previous state, observation, desired cluster."""

    previous: ClusterState | None
    desired: DesiredCluster
    seen: Observed
    images: Mapping[str, Image]
    accel: Accel
    accel_warning: str | None


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
    looked = _look(context)
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


def _look(context: StartContext) -> _Looked:
    """Read the state, observe the cluster, and compute the desired one."""
    paths, place, client = context.paths, context.place, context.client
    previous = read_state(paths)
    if previous is None:
        refuse_lost(client, paths, place, kind=context.kind.name)
    cluster_id = previous.lineage if previous else new_cluster_id()
    has_directory = find_disk_directory(place.storage, paths.name, cluster_id, previous)
    desired = _desire(context, previous, cluster_id)
    for name in context.only:
        desired.state.get_node(name)
    seen = observe(client, desired.state, context.kind)
    seen = with_host_faults(replace(seen, has_disk_directory=has_directory), desired.state, place)
    for line in (
        *check_images(desired, previous, context.catalogue),
        *find_losses(desired, previous, seen),
    ):
        context.warn(line)
    digests = {one.image_digest for _, one in desired.nodes}
    images = {digest: context.catalogue.store.get(digest) for digest in digests}
    desired = replace(desired, images=images)
    context.kind.check_software(desired)
    accel, warning = choose_accel(context.section.hardware, place, context.roots)
    return _Looked(
        previous=previous,
        desired=desired,
        seen=seen,
        images=images,
        accel=accel,
        accel_warning=warning,
    )


def _desire(
    context: StartContext, previous: ClusterState | None, cluster_id: UUID
) -> DesiredCluster:
    kind, section, place = context.kind, context.section, context.place

    @cache
    def digest_of_image(name: str | None) -> str:
        return get_image(name, context.catalogue, kind).digest

    gpus = _assign_gpus(context, previous, cluster_id)
    choices = HostChoices(
        subnet=lambda: choose_cluster_subnet(
            section,
            len(kind.nodes_of(section)),
            cluster_id,
            context.roots,
            place,
            context.client,
        ),
        disk_of=lambda node: place.storage.disk(section.name, node),
        digest_of=lambda node: digest_of_image(node.base_image),
        cards=gpus.remembered,
    )
    desired = plan_desired_cluster(
        section,
        previous,
        kind=kind,
        cluster_id=cluster_id,
        host_uri=previous.host_uri if previous else place.asked,
        choices=choices,
        now=datetime.now(UTC),
    )
    return replace(
        desired,
        outside=find_outside(section, desired.state, place),
        functions=gpus.functions,
        vgpus=gpus.vgpus,
    )


def _assign_gpus(
    context: StartContext, previous: ClusterState | None, cluster_id: UUID
) -> HostGpus:
    nodes, name = context.kind.nodes_of(context.section), context.section.name
    return assign_gpus(
        nodes,
        Asker(name=name, id=cluster_id, previous=previous),
        lambda: find_device_users(context.client, context.roots, name=name, own=cluster_id),
        context.roots,
        wanted=context.only or [node.name for node in nodes if node.auto_start],
        machine=context.machine,
    )


def _decide(context: StartContext, looked: _Looked) -> _Decided:
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
    desired = replace(desired, state=desired.state.model_copy(update={"config_digest": digest}))
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
    return _Decided(desired=desired, plan=plan, matches=matches, stale=stale, lost=lost)


def _check(context: StartContext, looked: _Looked, decided: _Decided) -> None:
    """Warn of what the plan does not change; raise if the host lacks something."""
    plan, seen, desired = decided.plan, looked.seen, decided.desired
    for what in decided.lost:
        context.warn(f"{what} is gone: a new one is created and sent to every node")
    _warn_of_waiting(context, looked, decided)
    _warn_of_drained(desired, seen, plan, context.warn)
    if not plan.steps:
        return
    for line in (*decided.matches.notes, looked.accel_warning):
        if line:
            context.warn(line)
    if context.place.runs_guests:
        require_hypervisor(context.client, looked.accel)
    require_free_devices(desired, _booted(decided), context.client, context.roots)
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


def _match_saved(context: StartContext, looked: _Looked) -> SavedMachineMatches:
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


def _warn_of_waiting(context: StartContext, looked: _Looked, decided: _Decided) -> None:
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
