"""Everything that is decided before a start changes anything: preflight, draft, plan."""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.errors import (
    AiHowError,
    ConnectionLostError,
    HostError,
    LibvirtError,
    SpecError,
)
from ai_how.guest.identity import NodeIdentity
from ai_how.guest.slurm_config import describe_drained
from ai_how.host.checks import Cost, Status, check_capacity
from ai_how.host.facts import read_cpu, read_facts
from ai_how.host.kvm import choose_accelerator
from ai_how.host.memory_facts import read_memory
from ai_how.host.place import HostPlace
from ai_how.images.build import find_default_image
from ai_how.images.manifest import Image
from ai_how.images.recipe import default_recipe
from ai_how.images.store import ImageStore
from ai_how.plan.journal import Journal
from ai_how.plan.step import Plan
from ai_how.spec.identity import new_cluster_id
from ai_how.spec.models import ClusterFile, HpcSpec
from ai_how.spec.nodes import Node, get_hpc, nodes_of
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots
from ai_how.vm_management.boot_limit import choose_boot_limit
from ai_how.vm_management.bring_up_steps import AwaitReady
from ai_how.vm_management.disk_manager import DiskManager
from ai_how.vm_management.disk_space import GIB, DiskNeed, check_space, overlay_need
from ai_how.vm_management.domain_shape import Accel
from ai_how.vm_management.drafting import Draft, draft_cluster
from ai_how.vm_management.former import (
    check_images,
    check_resumable,
    find_disk_directory,
    find_losses,
)
from ai_how.vm_management.hpc_plan import STEP_TYPES, Rendering, plan_start
from ai_how.vm_management.identities import (
    config_digest,
    ensure_secrets,
    find_identities,
    find_lost_secrets,
    write_ssh_files,
)
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.network_manager import HostNetworks
from ai_how.vm_management.node_checks import check_devices, check_shares
from ai_how.vm_management.node_shape import HUGEPAGE_KIB
from ai_how.vm_management.observed import Observed, observe, observe_wiring
from ai_how.vm_management.owners import is_sent_as
from ai_how.vm_management.recovering import refuse_lost
from ai_how.vm_management.rendering import find_rendering, find_shapes
from ai_how.vm_management.saved_machines import SavedMachines
from ai_how.vm_management.steps import PlaceBase, RestoreDomain, StartDomain
from ai_how.vm_management.subnets import TakenSubnet, check_bridge, choose_subnet
from ai_how.vm_management.warm_plan import NONE_SAVED, Warmth, describe_host, find_warmth
from ai_how.vm_management.warming import why_unsaved

STATE_RESERVE_BYTES = 256 * 2**20
MACHINE, ARCHITECTURE = "q35", "x86_64"  # as in the template of every VM
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A start that is decided: carrying out its plan is all that is left."""

    draft: Draft
    plan: Plan
    images: Mapping[str, Image]
    identities: Mapping[str, Callable[[], NodeIdentity]]

    def prepare_files(self, paths: ClusterPaths, proxy: list[str]) -> None:
        """Have the keys and the ssh configuration; both are kept where they are there."""
        ensure_secrets(self.draft.state, paths)
        write_ssh_files(self.draft.state, paths, proxy)


def prepare_start(
    spec: ClusterFile,
    roots: Roots,
    place: HostPlace,
    client: LibvirtClient,
    say: Say,
    *,
    only: Collection[str] = (),
    is_warm: bool = True,
    resumes: bool = True,
) -> Start:
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
    rendering = find_rendering(draft, place, paths, images, accel, warmth.saved, resumes=resumes)
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
            _require_hypervisor(client, accel)
        _preflight(draft, plan, seen, place, images, say)
    return Start(
        draft=draft,
        plan=plan,
        images=images,
        identities=find_identities(draft, paths, has_host_clock=accel is Accel.KVM),
    )


def _draft(
    hpc: HpcSpec,
    former: ClusterState | None,
    cluster_id: UUID,
    roots: Roots,
    place: HostPlace,
    client: LibvirtClient,
    store: ImageStore,
) -> Draft:
    return draft_cluster(
        hpc,
        former,
        cluster_id=cluster_id,
        host_uri=former.host_uri if former else place.asked,
        choose_subnet=lambda: _choose_subnet(hpc, cluster_id, roots, place, client),
        disk_of=lambda node: place.storage.disk(hpc.name, node),
        digest_of=lambda node: get_image(node, store).digest,
        now=datetime.now(UTC),
    )


def _look_for_saved(
    draft: Draft,
    seen: Observed,
    place: HostPlace,
    client: LibvirtClient,
    paths: ClusterPaths,
    images: Mapping[str, Image],
    accel: Accel,
) -> Warmth:
    """The saved machines of those nodes that get a new disk."""
    new = [pair for pair in draft.nodes if pair[1].name not in seen.disks]
    if not new or place.kind == "test":
        return NONE_SAVED
    if why := why_unsaved(place):
        return Warmth({}, (f"new nodes boot, none is restored: {why} (start.warm)",))
    shapes = find_shapes(draft, place, paths, images, accel)
    return find_warmth(new, shapes, SavedMachines(place.storage), describe_host(client, accel))


def _look(
    draft: Draft, place: HostPlace, client: LibvirtClient, *, has_directory: bool
) -> Observed:
    seen = replace(observe(client, draft.state), has_disk_directory=has_directory)
    if place.kind == "test":
        return seen
    return observe_wiring(seen, draft.state, HostNetworks(tuple(place.enter([]))))


def get_image(node: Node, store: ImageStore) -> Image:
    """The image that a node boots. Raises ImageError with the command that makes it available."""
    if node.base_image is None or node.base_image == default_recipe().name:
        image = find_default_image(store)
        if image is None:
            raise HostError("the default image is not built yet", hint="ai-how image build")
    elif "/" in node.base_image:
        raise HostError(
            f"{node.base_image} is a file, and nodes boot images of the store",
            hint=f"ai-how image import {shlex.quote(node.base_image)}  # then give its name",
        )
    else:
        image = store.get(node.base_image)
    if image.manifest.identity != "agent":
        raise HostError(
            f"the image {image.name} cannot be a node of a SLURM cluster",
            details="It has no SLURM and takes no identity by the guest agent.",
            hint="leave base_image_path out, for the built-in image",
        )
    return image


def choose_accel(hpc: HpcSpec, place: HostPlace, roots: Roots) -> tuple[Accel, str | None]:
    """What runs the guests' instructions, and what is said where that is not KVM."""
    enabled = hpc.hardware.acceleration.enable_kvm
    verdict = place.kvm(roots) if enabled and place.kind != "test" else None
    name, warning = choose_accelerator(enable_kvm=enabled, verdict=verdict)
    return Accel(name), warning


def _choose_subnet(
    hpc: HpcSpec, cluster_id: UUID, roots: Roots, place: HostPlace, client: LibvirtClient
) -> IPv4Network:
    xmls = [one.xml for one in client.list_networks()]
    seen = HostNetworks(tuple(place.enter([]))).observe(xmls)
    if hpc.network.bridge:
        check_bridge(hpc.network.bridge, seen.links)
    taken = (*seen.subnets, *_promised_subnets(roots, besides=hpc.name))
    count = len(nodes_of(hpc))
    return choose_subnet(hpc.network.subnet, taken, cluster_id, node_count=count)


def _promised_subnets(roots: Roots, *, besides: str) -> Iterator[TakenSubnet]:
    """Subnets of clusters that are off, or are just being made."""
    for name in roots.cluster_names():
        if name == besides:
            continue
        paths = roots.cluster(name)
        try:
            if state := read_state(paths):
                yield TakenSubnet(state.network.subnet, f"cluster {name}")
            if left := Journal.read(paths.journal, STEP_TYPES):
                yield TakenSubnet(IPv4Network(left.note["subnet"]), f"cluster {name}")
        except AiHowError:
            continue  # libvirt's own list still shows what is defined


def _stale_nodes(
    draft: Draft, seen: Observed, rendering: Rendering, paths: ClusterPaths
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
    draft: Draft, seen: Observed, stale: Collection[str], say: Say, *, resumes: bool
) -> None:
    for name in stale:
        one = draft.state.get_node(name)
        if seen.is_on(one) or (resumes and seen.is_suspended(one)):
            say(
                f"{name} runs as it was defined before; for what has changed: "
                f"ai-how hpc stop {name} && ai-how hpc start {name}"
            )


def _say_what_is_drained(draft: Draft, seen: Observed, plan: Plan, say: Say) -> None:
    """Of the nodes that the plan brings up, it is said when they are."""
    brought_up = {name for one in plan.steps if isinstance(one, AwaitReady) for name in one.nodes}
    for one in draft.state.nodes:
        node = (seen.slurm or {}).get(one.name)
        if node and node.is_drained and seen.is_on(one) and one.name not in brought_up:
            say(describe_drained(node))


def _boot_limit(draft: Draft, seen: Observed, accel: Accel) -> int:
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


def _require_hypervisor(client: LibvirtClient, accel: Accel) -> None:
    """Raises HostError where libvirt has no QEMU that runs, or none that knows our machine."""
    try:
        client.domain_capabilities_xml(accel.domain_type, MACHINE, ARCHITECTURE)
    except ConnectionLostError:
        raise
    except LibvirtError as error:
        raise HostError(
            f"libvirt has no QEMU for {ARCHITECTURE} guests of machine type {MACHINE}",
            details=error.details,
            hint="qemu-system-x86_64 --version && ai-how doctor",
        ) from error


def _preflight(
    draft: Draft,
    plan: Plan,
    seen: Observed,
    place: HostPlace,
    images: Mapping[str, Image],
    say: Say,
) -> None:
    """Raises HostError for what this host cannot give; says what it can give only just."""
    booted = {step.domain for step in plan.steps if isinstance(step, StartDomain)}
    off = [one for _, one in draft.nodes if one.domain_name in booted and not seen.is_on(one)]
    asked = draft.hpc.hardware.acceleration.performance
    nodes = [node for node, _ in draft.nodes]
    facts = read_facts(directories=(place.storage.root,))
    checks = [*check_devices(nodes, facts), *check_shares(nodes, place)]
    cost = Cost(
        vms=len(off),
        vcpus=sum(one.cpu_cores for one in off),
        memory_mib=sum(one.memory_mib for one in off),
        disk_bytes=0,
        disk_directory=place.storage.root,
        hugepage_kib=HUGEPAGE_KIB[asked.hugepage_size] if asked.wants_hugepages else None,
    )
    if place.kind != "test":
        checks += check_capacity(cost, facts)
    failures = [check for check in checks if check.status is Status.FAILURE]
    if failures:
        raise HostError(
            failures[0].found,
            details="\n".join(f"{check.name}: {check.found}" for check in failures[1:]) or None,
            hint=failures[0].advice,
        )
    for check in checks:
        if check.status is Status.WARNING:
            say(f"{check.name}: {check.found}")
    _check_disks(draft, plan, seen, place, images, say)


def _memory_needs(plan: Plan, machines: SavedMachines) -> list[DiskNeed]:
    """The copies of saved memories, each of which is there while its node is restored."""
    return [
        DiskNeed(f"memory of {step.node}", size, size)
        for step in plan.steps
        if isinstance(step, RestoreDomain) and (one := machines.find(step.saved.key))
        for size in (one.manifest.memory_bytes,)
    ]


def _check_disks(
    draft: Draft,
    plan: Plan,
    seen: Observed,
    place: HostPlace,
    images: Mapping[str, Image],
    say: Say,
) -> None:
    """Raises HostError where there is no room for what is to be made, or to be resumed."""
    disks = DiskManager(place.storage)
    check_resumable(draft.state, seen, disks)
    booted = {step.domain for step in plan.steps if isinstance(step, StartDomain)}
    for one in draft.state.nodes:
        if one.domain_name in booted and one.name in seen.disks and not seen.is_on(one):
            disks.check_disk(one.disk, place.storage.base(one.image_digest))
    new = [one for _, one in draft.nodes if one.name not in seen.disks]
    for one in new:
        smallest_gib = -(-images[one.image_digest].manifest.virtual_size_bytes // GIB)
        if one.disk_gib < smallest_gib:
            raise SpecError(
                f"a disk of {one.disk_gib} GiB is too small for {one.name}",
                details=f"its image has {smallest_gib} GiB",
                hint=f"disk_gb: {smallest_gib}",
            )
    needs = [overlay_need(one.name, one.disk_gib) for one in new]
    needs += [
        disks.base_need(images[step.digest]) for step in plan.steps if isinstance(step, PlaceBase)
    ]
    needs += _memory_needs(plan, SavedMachines(place.storage))
    if any(need.thin_bytes for need in needs):
        found = check_space(needs, free_bytes=disks.free_bytes(), reserve_bytes=STATE_RESERVE_BYTES)
        if found.warning:
            say(found.warning)
