"""Everything that is decided before a start changes anything: preflight, draft, plan."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster, plan_desired_cluster
from ai_how.clusters.observation import Observed, observe, observe_wiring
from ai_how.clusters.plans.rendering import PlanInputs, build_domain_definitions, build_plan_inputs
from ai_how.clusters.preflight.capacity import Say, check_host, require_hypervisor
from ai_how.clusters.preflight.existing_cluster import (
    check_images,
    find_disk_directory,
    find_losses,
)
from ai_how.clusters.preflight.node_images import choose_accel, get_image
from ai_how.clusters.preflight.subnet_choice import choose_cluster_subnet
from ai_how.clusters.recovery import refuse_lost
from ai_how.clusters.secrets import ensure_secrets, find_lost_secrets, write_ssh_files
from ai_how.clusters.workload import describe_drained
from ai_how.host.facts import read_cpu
from ai_how.host.memory_facts import read_memory
from ai_how.host.place import HypervisorHost
from ai_how.hpc.identities import build_archives, config_digest
from ai_how.hpc.plan import plan_start
from ai_how.hpc.steps import AwaitReady
from ai_how.images.manifest import Image
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.step import Plan
from ai_how.spec.identity import new_cluster_id
from ai_how.spec.models import ClusterFile, HpcSpec
from ai_how.spec.nodes import get_hpc
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.nodes.boot_limit import choose_boot_limit
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.vm_management.owners import is_sent_as
from ai_how.vm_management.saved_machines.matching import (
    NONE_SAVED,
    SavedMachineMatches,
    describe_host,
    find_matches,
)
from ai_how.vm_management.saved_machines.saving import why_unsaved
from ai_how.vm_management.saved_machines.store import SavedMachines


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStart:
    """A start that is decided: carrying out its plan is all that is left."""

    draft: DesiredCluster
    plan: Plan
    images: Mapping[str, Image]
    archives: Mapping[str, Callable[[], bytes]]

    def prepare_files(self, paths: ClusterPaths, proxy: list[str]) -> None:
        """Have the keys and the ssh configuration; both are kept where they are there."""
        ensure_secrets(self.draft.state, paths)
        write_ssh_files(self.draft.state, paths, proxy)


def prepare_start(
    spec: ClusterFile,
    roots: Roots,
    place: HypervisorHost,
    client: LibvirtClient,
    say: Say,
    *,
    only: Collection[str] = (),
    is_warm: bool = True,
    resumes: bool = True,
) -> PreparedStart:
    """Look, check and plan; changes nothing. The host-wide lock is held, as a subnet is chosen."""
    hpc = get_hpc(spec)
    paths = roots.cluster(hpc.name)
    former = read_state(paths)
    if former is None:
        refuse_lost(client, paths, place)
    store = ImageStore(roots.images)
    cluster_id = former.lineage if former else new_cluster_id()
    has_directory = find_disk_directory(place.storage, hpc.name, cluster_id, former)
    draft = _draft(hpc, former, cluster_id, roots, place, client, store)
    for name in only:
        draft.state.get_node(name)
    seen = _look(draft, place, client, has_directory=has_directory)
    for line in (*check_images(draft, former, store), *find_losses(draft, former, seen)):
        say(line)
    images = {digest: store.get(digest) for digest in {one.image_digest for _, one in draft.nodes}}
    accel, warning = choose_accel(hpc, place, roots)
    warmth = NONE_SAVED
    if is_warm and hpc.start.warm:
        warmth = _look_for_saved(draft, seen, place, client, paths, images, accel)
    rendering = build_plan_inputs(draft, place, paths, images, accel, warmth.saved, resumes=resumes)
    digest = config_digest(draft)
    lost = find_lost_secrets(former, paths)
    is_told = (former is None or former.config_digest == digest) and not lost
    draft = replace(draft, state=draft.state.model_copy(update={"config_digest": digest}))
    stale = _stale_nodes(draft, seen, rendering, paths)
    limit = _boot_limit(draft, seen, accel)
    plan = plan_start(
        draft, seen, rendering, only=only, tell_all=not is_told, stale=stale, boot_limit=limit
    )
    for what in lost:
        say(f"{what} is gone: a new one is made, and told to every node")
    _say_what_waits(draft, seen, stale, say, resumes=resumes)
    _say_what_is_drained(draft, seen, plan, say)
    if plan.steps:
        for line in (*warmth.notes, *([warning] if warning else [])):
            say(line)
        if place.kind != "test":
            require_hypervisor(client, accel)
        check_host(draft, plan, seen, place, images, say)
    return PreparedStart(
        draft=draft,
        plan=plan,
        images=images,
        archives=build_archives(draft, paths, has_host_clock=accel is Accel.KVM),
    )


def _draft(
    hpc: HpcSpec,
    former: ClusterState | None,
    cluster_id: UUID,
    roots: Roots,
    place: HypervisorHost,
    client: LibvirtClient,
    store: ImageStore,
) -> DesiredCluster:
    return plan_desired_cluster(
        hpc,
        former,
        cluster_id=cluster_id,
        host_uri=former.host_uri if former else place.asked,
        choose_subnet=lambda: choose_cluster_subnet(hpc, cluster_id, roots, place, client),
        disk_of=lambda node: place.storage.disk(hpc.name, node),
        digest_of=lambda node: get_image(node, store).digest,
        now=datetime.now(UTC),
    )


def _look_for_saved(
    draft: DesiredCluster,
    seen: Observed,
    place: HypervisorHost,
    client: LibvirtClient,
    paths: ClusterPaths,
    images: Mapping[str, Image],
    accel: Accel,
) -> SavedMachineMatches:
    """The saved machines of those nodes that get a new disk."""
    new = [pair for pair in draft.nodes if pair[1].name not in seen.disks]
    if not new or place.kind == "test":
        return NONE_SAVED
    if why := why_unsaved(place):
        return SavedMachineMatches({}, (f"new nodes boot, none is restored: {why} (start.warm)",))
    shapes = build_domain_definitions(draft, place, paths, images, accel)
    return find_matches(new, shapes, SavedMachines(place.storage), describe_host(client, accel))


def _look(
    draft: DesiredCluster, place: HypervisorHost, client: LibvirtClient, *, has_directory: bool
) -> Observed:
    seen = replace(observe(client, draft.state), has_disk_directory=has_directory)
    if place.kind == "test":
        return seen
    return observe_wiring(seen, draft.state, HostNetworks(tuple(place.enter([]))))


def _stale_nodes(
    draft: DesiredCluster, seen: Observed, rendering: PlanInputs, paths: ClusterPaths
) -> tuple[str, ...]:
    """Nodes whose VM was defined from another file, or for another accelerator."""
    stale = []
    for node, one in draft.nodes:
        sent = paths.xml / f"{one.domain_name}.xml"
        if seen.find_domain(one.uuid) is None or not sent.exists():
            continue
        if not is_sent_as(sent.read_text(), rendering.domain_xml(node, one)):
            stale.append(one.name)
    return tuple(stale)


def _say_what_waits(
    draft: DesiredCluster, seen: Observed, stale: Collection[str], say: Say, *, resumes: bool
) -> None:
    for name in stale:
        one = draft.state.get_node(name)
        if seen.is_on(one) or (resumes and seen.is_suspended(one)):
            say(
                f"{name} runs as it was defined before; for what has changed: "
                f"ai-how hpc stop {name} && ai-how hpc start {name}"
            )


def _say_what_is_drained(draft: DesiredCluster, seen: Observed, plan: Plan, say: Say) -> None:
    """Of the nodes that the plan brings up, it is said when they are."""
    brought_up = {name for one in plan.steps if isinstance(one, AwaitReady) for name in one.nodes}
    for one in draft.state.nodes:
        node = (seen.slurm or {}).get(one.name)
        if node and node.is_drained and seen.is_on(one) and one.name not in brought_up:
            say(describe_drained(node))


def _boot_limit(draft: DesiredCluster, seen: Observed, accel: Accel) -> int:
    root, acceleration = Path("/"), draft.hpc.hardware.acceleration
    cpu, memory = read_cpu(root), read_memory(root)
    from_pool = acceleration.performance.wants_hugepages
    return choose_boot_limit(
        draft.hpc.start.boot_limit,
        accel,
        cpus=cpu.count if cpu else None,
        free_mib=memory.usable_mib if memory and not from_pool else None,
        memory_mib=[one.memory_mib for _, one in draft.nodes if not seen.is_on(one)],
    )
