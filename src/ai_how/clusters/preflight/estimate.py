"""Compares the cost of a cluster with the host, before any start."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from ai_how.clusters.kind import ClusterKind, ClusterSection
from ai_how.clusters.manager import ClusterManager
from ai_how.clusters.preflight.capacity import capacity_request
from ai_how.clusters.preflight.device_hardware import (
    HardwareChoices,
    HardwareHost,
    check_device_hardware,
    choose_device_hardware,
    hardware_host,
)
from ai_how.clusters.preflight.device_users import (
    DeviceUser,
    check_device_users,
    devices_of,
    find_device_users,
)
from ai_how.clusters.preflight.devices import check_devices
from ai_how.clusters.preflight.host_gpus import Asker, HostGpus, assign_gpus
from ai_how.clusters.preflight.node_images import get_image
from ai_how.clusters.preflight.vgpus import check_mdevs
from ai_how.clusters.recovery import refuse_lost
from ai_how.errors import AiHowError, HostError, OwnershipError, StateError
from ai_how.host.capacity_checks import CapacityRequest, check_capacity
from ai_how.host.checks import Check, Status, check_host, check_subnet_collisions
from ai_how.host.facts import HostFacts, read_facts
from ai_how.host.name_checks import check_names
from ai_how.host.place import HypervisorHost
from ai_how.images.catalogue import ImageCatalogue
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.spec.identity import new_cluster_id
from ai_how.spec.nodes import Node
from ai_how.state.every_cluster import read_every_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots
from ai_how.vm_management.disks.space import DiskNeed, overlay_need
from ai_how.vm_management.nodes.device_hardware import DeviceHardware
from ai_how.vm_management.nodes.host_checks import check_shares


@dataclass(frozen=True, slots=True)
class Needs:
    """The whole cluster. The thin size of a disk is that after the first boot."""

    vms: int
    vcpus: int
    memory_mib: int
    disk_thin_bytes: int
    disk_worst_case_bytes: int


@dataclass(frozen=True, slots=True)
class Has:
    """What the host has available; None if unknown."""

    cpus: int | None
    memory_mib: int | None
    disk_bytes: int | None
    disk_directory: Path


@dataclass(frozen=True, slots=True)
class Estimate:
    """`running` nodes are on already, so `has` does not include what they use."""

    host: str
    needs: Needs
    has: Has
    running: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def is_possible(self) -> bool:
        return not any(check.status is Status.FAILURE for check in self.checks)


def estimate(
    kind: ClusterKind,
    section: ClusterSection,
    host_uri: str,
    roots: Roots,
    catalogue: ImageCatalogue,
    *,
    machine: Path = Path("/"),
) -> Estimate:
    """Compare the spec with the host; changes nothing. `machine` contains its /sys and /proc.

    Raises HostError if the host that was asked for cannot be used at all.
    """
    states = read_every_state(roots)
    state = states.pop(section.name, None)
    if isinstance(state, StateError):
        raise state
    place = ClusterManager(kind=kind, roots=roots, name=section.name).place(host_uri)
    nodes = kind.nodes_of(section)
    facts = replace(read_facts(directories=(place.storage.root,)), host=place.asked)
    others = {
        f"cluster {name}": other.network.subnet
        for name, other in states.items()
        if isinstance(other, ClusterState)
    }
    wants_uplink = section.network.uplink
    if place.is_up:
        facts = replace(facts, no_uplink=place.uplink_trouble)
    own_bridge = state.network.bridge if state else None
    with _asking(place) as (client, every):
        users = _device_users(section.name, state, client, every, roots)
        of_owner = tuple(_owner_checks(kind, section.name, state, place, roots, every))
    running = _running_nodes(state, every)
    unstarted = {*running, *(node.name for node in nodes if not node.auto_start)}
    gpus, of_cards = _assign(nodes, section.name, state, users, roots, machine)
    names = {one.uuid: one.name for one in state.nodes} if state else {}
    on_host = hardware_host(every, names, machine, is_embedded=place.embedded is not None)
    hardware = _choose_hardware(section, nodes, gpus, on_host)
    return Estimate(
        host=place.asked,
        needs=_needs_of(nodes),
        has=_has(facts, place.storage.root),
        running=tuple(sorted(running)),
        checks=(
            *(check for check in check_host(facts) if check.status is Status.FAILURE),
            *of_owner,
            *check_capacity(_cost_of(section, nodes, running, hardware.nodes, place), facts),
            *check_device_hardware(hardware, [n.name for n in nodes if n.name not in unstarted]),
            *_subnet_checks(section.network.subnet, facts, others, own_bridge, place),
            *([check_names(facts)] if place.has_private_network and wants_uplink else []),
            *of_cards,
            *check_devices(nodes, gpus.functions, facts, unstarted=unstarted, machine=machine),
            *check_mdevs(nodes, machine),
            *check_device_users(devices_of(nodes, gpus.host_devices), users),
            *check_shares(nodes, place),
            *_image_checks(nodes, catalogue, kind),
        ),
    )


@contextmanager
def _asking(
    place: HypervisorHost,
) -> Iterator[tuple[LibvirtClient | None, tuple[DomainInfo, ...]]]:
    """A client and all VMs; None and no VMs where libvirt cannot be asked: that is not reported."""
    with ExitStack() as stack:
        client: LibvirtClient | None = None
        every: tuple[DomainInfo, ...] = ()
        if place.is_up:
            with suppress(AiHowError):
                asked = stack.enter_context(LibvirtClient(place.uri))
                every = asked.list_domains()
                client = asked
        yield client, every


def _owner_checks(
    kind: ClusterKind,
    name: str,
    state: ClusterState | None,
    place: HypervisorHost,
    roots: Roots,
    every: Iterable[DomainInfo],
) -> Iterator[Check]:
    """Clusters of that name that a start refuses: another user's, or one without a state."""
    if state is not None:
        return
    try:
        refuse_lost(every, roots.cluster(name), place, kind=kind.name)
    except (OwnershipError, StateError) as error:
        yield Check("name", Status.FAILURE, error.brief, error.hint)
    except AiHowError:
        return  # an unknown fact is not reported


def _device_users(
    name: str,
    state: ClusterState | None,
    client: LibvirtClient | None,
    every: Sequence[DomainInfo],
    roots: Roots,
) -> dict[str, DeviceUser]:
    """Who has the devices of the host now; nobody where libvirt cannot be asked."""
    if client is None:
        return {}
    try:
        own = state.lineage if state else None
        return find_device_users(client, roots, name=name, own=own, every=every)
    except AiHowError:
        return {}  # an unknown fact is not reported


def _assign(
    nodes: Sequence[Node],
    name: str,
    state: ClusterState | None,
    users: Mapping[str, DeviceUser],
    roots: Roots,
    machine: Path,
) -> tuple[HostGpus, list[Check]]:
    """The cards and vGPUs that a start would give to each node, or why it would not."""
    cluster_id = state.lineage if state else new_cluster_id()
    try:
        gpus = assign_gpus(
            nodes,
            Asker(name=name, id=cluster_id, previous=state),
            lambda: users,
            roots,
            wanted=[node.name for node in nodes if node.auto_start],
            machine=machine,
        )
    except HostError as error:
        found = "; ".join([error.brief, *(error.details or "").splitlines()])
        return HostGpus(), [Check("gpu", Status.FAILURE, found, error.hint)]
    return gpus, []


def _choose_hardware(
    section: ClusterSection, nodes: Sequence[Node], gpus: HostGpus, host: HardwareHost
) -> HardwareChoices:
    """What goes with the devices that a start would give to each node."""
    if not any(node.has_host_devices for node in nodes):
        return HardwareChoices()
    passed = {node.name: [one.pci_address for one in node.pcie_devices] for node in nodes}
    return choose_device_hardware(
        nodes,
        {name: [*gpus.functions.get(name, ()), *passed[name]] for name in passed},
        gpus.vgpus,
        section.hardware,
        host,
        wanted=[node.name for node in nodes if node.auto_start],
    )


def _running_nodes(state: ClusterState | None, every: Iterable[DomainInfo]) -> frozenset[str]:
    """Unknown nodes count as off, so the estimate is on the safe side."""
    on = {domain.uuid for domain in every if domain.state.is_on}
    nodes = state.nodes if state else ()
    return frozenset(node.name for node in nodes if node.uuid in on)


def _needs_of(nodes: Sequence[Node]) -> Needs:
    disks = [overlay_need(node.name, node.disk_gib) for node in nodes]
    return Needs(
        vms=len(nodes),
        vcpus=sum(node.cpu_cores for node in nodes),
        memory_mib=sum(node.memory_mib for node in nodes),
        disk_thin_bytes=sum(disk.thin_bytes for disk in disks),
        disk_worst_case_bytes=_worst(disks),
    )


def _has(facts: HostFacts, directory: Path) -> Has:
    disk = next((disk for disk in facts.disks if disk.directory == directory), None)
    return Has(
        cpus=facts.cpu.count if facts.cpu else None,
        memory_mib=facts.memory.usable_mib if facts.memory else None,
        disk_bytes=disk.free_bytes if disk else None,
        disk_directory=directory,
    )


def _cost_of(
    section: ClusterSection,
    nodes: Sequence[Node],
    running: Collection[str],
    device_hardware: Mapping[str, DeviceHardware],
    place: HypervisorHost,
) -> CapacityRequest:
    off = [node for node in nodes if node.name not in running]
    return capacity_request(
        off,
        device_hardware,
        section.hardware,
        place.storage.root,
        disk_bytes=_worst([overlay_need(node.name, node.disk_gib) for node in off]),
    )


def _worst(disks: Sequence[DiskNeed]) -> int:
    return sum(disk.worst_case_bytes for disk in disks)


def _subnet_checks(
    subnet: IPv4Network | None,
    facts: HostFacts,
    others: dict[str, IPv4Network],
    own_bridge: str | None,
    place: HypervisorHost,
) -> Iterator[Check]:
    """Conflicts of the subnet. Only clusters can conflict with one on the embedded host."""
    if subnet is None:
        return
    hidden = check_subnet_collisions(subnet, facts, own_bridge=own_bridge)
    for check in hidden:
        yield replace(check, status=Status.WARNING) if place.has_private_network else check
    for name, other in others.items():
        if other.overlaps(subnet):
            found = f"{subnet} overlaps {other} of {name}"
            yield Check("subnet", Status.FAILURE, found, "subnet: auto")


def _image_checks(
    nodes: Sequence[Node], catalogue: ImageCatalogue, kind: ClusterKind
) -> Iterator[Check]:
    """A missing image is a warning: one command builds or imports it."""
    for name in {node.base_image: None for node in nodes}:
        try:
            get_image(name, catalogue, kind)
        except AiHowError as error:
            yield Check("image", Status.WARNING, error.brief, error.hint)
