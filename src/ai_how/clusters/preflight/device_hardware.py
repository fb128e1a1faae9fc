"""What goes with the devices of the host that nodes have: CPUs, memory, addresses, ROM.

VFIO keeps all memory of a VM in place, so memory on the wrong NUMA node stays there.
"""

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import HostError
from ai_how.gpu.inventory import find_cards
from ai_how.gpu.sysfs import directory_of, read_bars
from ai_how.host.checks import Check, Status
from ai_how.host.memory_facts import read_hugepage_mounts, read_hugepages
from ai_how.host.numa import (
    NumaNode,
    read_address_bits,
    read_numa_node,
    read_numa_nodes,
    read_usable_cpus,
)
from ai_how.host.pci import read_pci_devices
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.placements import Placement, placement_in
from ai_how.spec.hardware import HardwareSpec
from ai_how.spec.nodes import Node, numa_topology_for
from ai_how.vm_management.nodes.device_hardware import DeviceHardware
from ai_how.vm_management.vgpus import MDEVS, Vgpu

NVIDIA = 0x10DE
DEFAULT_WINDOW_GIB = 32  # QEMU's, on q35
_GIB = 1 << 30
_USUAL_BITS = 40  # of a CPU in QEMU that does not have those of the host
_PAGES_KIB = (1048576, 2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareChoices:
    """What each node with devices of the host gets, by its name."""

    nodes: Mapping[str, DeviceHardware] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    """Why a node is not kept on the NUMA node of its devices."""
    refusals: Mapping[str, Check] = field(default_factory=dict)
    """What the file asks for, and the host cannot do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareHost:
    """The host of a cluster, and who runs there."""

    machine: Path = Path("/")
    running: Mapping[str, str] = field(default_factory=dict)
    """The XML of each node of the cluster whose VM is on, by its name."""
    others: Sequence[str] = ()
    """The XML of all other VMs that are on."""
    has_hugepages: bool = True
    """Whether its libvirt may use a mounted hugetlbfs."""


def choose_device_hardware(
    nodes: Sequence[Node],
    devices: Mapping[str, Sequence[str]],
    vgpus: Mapping[str, Vgpu],
    hardware: HardwareSpec,
    host: HardwareHost,
    *,
    wanted: Collection[str],
) -> HardwareChoices:
    """Choose for each node; the same host gives the same.

    `devices` are the PCI devices of each node, by its name. A VM that is on keeps what it has, as
    far as the file allows that. Then `wanted` nodes choose, then those that stay off.
    """
    asking = [node for node in nodes if node.has_host_devices]
    if not asking:
        return HardwareChoices()
    chooser = _Chooser(host, hardware)
    asking.sort(key=lambda node: (node.name not in host.running, node.name not in wanted))
    for node in asking:
        chooser.choose(node, devices.get(node.name, ()), vgpus.get(node.name))
    return HardwareChoices(nodes=chooser.chosen, notes=chooser.notes, refusals=chooser.refusals)


class _Chooser:
    """The choices so far: no CPU and no page is given twice."""

    def __init__(self, host: HardwareHost, hardware: HardwareSpec) -> None:
        self.host, self.hardware = host, hardware
        self.numa = read_numa_nodes(host.machine)
        self.mounts = read_hugepage_mounts(host.machine) if host.has_hugepages else frozenset()
        usable = read_usable_cpus(host.machine)
        every = frozenset(cpu for one in self.numa.values() for cpu in one.cpus)
        self.free_cpus = set(every if usable is None else usable)
        for xml in (*host.running.values(), *host.others):
            self.free_cpus -= set(placement_in(xml).cpus)
        self.free_pages = {number: dict(one.free_hugepages) for number, one in self.numa.items()}
        if not self.numa:  # a kernel without NUMA
            pools = read_hugepages(host.machine)
            self.free_pages[0] = {pool.size_kib: pool.free for pool in pools}
        self.pci = read_pci_devices(host.machine)
        self.chosen: dict[str, DeviceHardware] = {}
        self.notes: dict[str, str] = {}
        self.refusals: dict[str, Check] = {}

    def choose(self, node: Node, devices: Sequence[str], vgpu: Vgpu | None) -> None:
        xml = self.host.running.get(node.name)
        placement = self._kept(node, placement_in(xml)) if xml is not None else None
        if placement is None:
            placement = self._place(node, self._directories(node, devices, vgpu))
        cards = find_cards((self.pci[one] for one in devices if one in self.pci), self.host.machine)
        if rom := node.hardware.rom_file:
            self._check_rom(node, rom, has_card=bool(cards))
        self.chosen[node.name] = DeviceHardware(
            placement=placement,
            window_gib=node.hardware.mmio_gb or self._window(node, devices),
            graphics=tuple(one.address for one in cards),
            foreign=tuple(one.address for one in cards if one.vendor_id != NVIDIA),
        )

    def _directories(
        self, node: Node, devices: Sequence[str], vgpu: Vgpu | None
    ) -> dict[str, Path]:
        """The directory of each device, by how it is called."""
        root = self.host.machine
        named = [*devices, *([vgpu.parent] if vgpu else [])]
        found = {address: directory_of(root, address) for address in named}
        if node.vgpu_mdev_uuid:
            uuid = str(node.vgpu_mdev_uuid)
            found[uuid] = (root / MDEVS / uuid).resolve().parent
        return found

    def _kept(self, node: Node, has: Placement) -> Placement | None:
        """What its VM has; None if the file asks for something else."""
        asked = node.hardware
        is_placed = has.numa_node is not None
        if asked.numa is not None and len(self.numa) > 1 and asked.numa is not is_placed:
            return None
        if asked.hugepages is not None and asked.hugepages is not bool(has.hugepage_kib):
            return None
        if asked.numa and is_placed and not has.is_strict:
            return None
        if is_placed and len(has.cpus) != node.cpu_cores:
            return None
        # Pins of a node without a NUMA node are those of `cpu_pinning`, pages those of the cluster.
        from_cluster = self.hardware.acceleration.performance.wants_hugepages
        page = None if from_cluster and asked.hugepages is None else has.hugepage_kib
        if not is_placed:
            return Placement(hugepage_kib=page)
        return Placement(
            cpus=has.cpus,
            numa_node=has.numa_node,
            is_strict=bool(asked.numa),
            hugepage_kib=page,
        )

    def _place(self, node: Node, directories: Mapping[str, Path]) -> Placement:
        asked = node.hardware
        numa, why = self._find_numa(node, directories)
        if why and asked.numa is not False:
            if asked.numa:
                self._refuse(
                    node,
                    f"{node.name} cannot be kept on a NUMA node: {why}",
                    "hardware: {numa: false}  # of that node, in the cluster file",
                )
            else:
                self.notes[node.name] = why
        cpus: tuple[int, ...] = ()
        if numa is not None:
            free = sorted(numa.cpus & self.free_cpus)
            cpus = tuple(free[len(free) - node.cpu_cores :])
            self.free_cpus -= set(cpus)
        return Placement(
            cpus=cpus,
            numa_node=numa.number if numa else None,
            is_strict=bool(asked.numa and numa),
            hugepage_kib=self._find_pages(node, numa),
        )

    def _find_numa(
        self, node: Node, directories: Mapping[str, Path]
    ) -> tuple[NumaNode | None, str | None]:
        """The NUMA node to keep it on; else why there is none, unless it makes no difference."""
        if node.hardware.numa is False or len(self.numa) <= 1:
            return None, None
        at = {name: read_numa_node(path) for name, path in directories.items()}
        known = sorted({number for number in at.values() if number is not None})
        if not known:
            return None, f"the host does not say on which one {_first(at)} is"
        if len(known) > 1:
            return None, f"its devices are on the nodes {' and '.join(map(str, known))}"
        numa = self.numa.get(known[0])
        free = len(numa.cpus & self.free_cpus) if numa else 0
        if numa is None or free < node.cpu_cores:
            return None, f"node {known[0]} has {free} free CPUs for {node.cpu_cores} vCPUs"
        return numa, None

    def _find_pages(self, node: Node, numa: NumaNode | None) -> int | None:
        """The size of the pages that it gets; None if it gets none of its own choice."""
        asked = node.hardware.hugepages
        if asked is False:
            return None
        if asked is None and self.hardware.acceleration.performance.wants_hugepages:
            return None
        pieces = _memory_pieces(node, self.hardware)
        for size in _PAGES_KIB:
            if any(mib * 1024 % size for mib in pieces) or (not asked and size not in self.mounts):
                continue
            needed = node.memory_mib * 1024 // size
            pools = [self.free_pages[numa.number]] if numa else [*self.free_pages.values()]
            if needed <= sum(pool.get(size, 0) for pool in pools):
                for pool in pools:
                    taken = min(needed, pool.get(size, 0))
                    pool[size] = pool.get(size, 0) - taken
                    needed -= taken
                return size
        if asked:
            self._refuse_pages(node, numa)
        return None

    def _refuse_pages(self, node: Node, numa: NumaNode | None) -> None:
        size = _PAGES_KIB[-1]
        needed = -(-node.memory_mib * 1024 // size)
        pools = [self.free_pages[numa.number]] if numa else [*self.free_pages.values()]
        free = sum(pool.get(size, 0) for pool in pools)
        where = f" on NUMA node {numa.number}" if numa else ""
        place = (
            f"devices/system/node/node{numa.number}/hugepages" if numa else "kernel/mm/hugepages"
        )
        file = f"/sys/{place}/hugepages-{size}kB/nr_hugepages"
        self._refuse(
            node,
            f"{node.name} needs {needed} huge pages of {size} KiB{where}, {free} are free",
            f"echo $(($(cat {file}) + {needed - free})) | sudo tee {file}",
        )

    def _check_rom(self, node: Node, rom: str, *, has_card: bool) -> None:
        if not has_card:
            text = f"{node.name} has no GPU that {rom} could be for"
            self._refuse(node, text, advice="ai-how gpu list")
        elif not (self.host.machine / rom.lstrip("/")).is_file():
            text = f"there is no file {rom}, the ROM for {node.name}"
            self._refuse(node, text, advice=f"ls -l {shlex.quote(rom)}")

    def _refuse(self, node: Node, text: str, advice: str) -> None:
        self.refusals.setdefault(node.name, Check("hardware", Status.FAILURE, text, advice))

    def _window(self, node: Node, devices: Sequence[str]) -> int | None:
        """The GiB of addresses for the memory of its devices; None where QEMU's default has room.

        Behind a port of PCI Express only what is prefetchable can be there. QEMU refuses to start
        with a window beyond what the CPU can address.
        """
        bars = [bar for one in devices for bar in read_bars(directory_of(self.host.machine, one))]
        size = sum(bar.size_bytes for bar in bars if bar.is_prefetchable)
        gib = 1 << max(0, -(-size // _GIB) - 1).bit_length()
        top = 1 << (read_address_bits(self.host.machine) or _USUAL_BITS)
        has_room = (gib + 4) * _GIB + node.memory_mib * 2**20 < top
        return gib if gib > DEFAULT_WINDOW_GIB and has_room else None


def hardware_host(
    domains: Iterable[DomainInfo], names: Mapping[UUID, str], machine: Path, *, is_embedded: bool
) -> HardwareHost:
    """The host, from all VMs of its libvirt; `names` are those of the nodes of the cluster.

    The libvirt of an ordinary user cannot make files in a hugetlbfs.
    """
    on = [one for one in domains if one.state.is_on]
    return HardwareHost(
        machine=machine,
        running={names[one.uuid]: one.xml for one in on if one.uuid in names},
        others=[one.xml for one in on if one.uuid not in names],
        has_hugepages=not is_embedded or os.geteuid() == 0,
    )


def choose_for(
    desired: DesiredCluster,
    every: Iterable[DomainInfo],
    place: HypervisorHost,
    *,
    wanted: Collection[str],
    machine: Path,
) -> HardwareChoices:
    """Choose for the nodes of a cluster that is about to be started; `every` is all VMs."""
    nodes = [node for node, _ in desired.nodes]
    if not any(node.has_host_devices for node in nodes):
        return HardwareChoices()
    names = {one.uuid: one.name for _, one in desired.nodes}
    is_embedded = place.embedded is not None
    return choose_device_hardware(
        nodes,
        {node.name: desired.pci_devices_of(node) for node in nodes},
        desired.vgpus,
        desired.section.hardware,
        hardware_host(every, names, machine, is_embedded=is_embedded),
        wanted=wanted,
    )


def require_device_hardware(
    choices: HardwareChoices, booted: Iterable[Node], warn: Callable[[str], None]
) -> None:
    """Raises HostError if the host lacks what the file asks for one of these nodes.

    Warns of what was not done by itself, and why.
    """
    names = [node.name for node in booted]
    for name in names:
        if refusal := choices.refusals.get(name):
            raise HostError(refusal.found, hint=refusal.advice)
    for name in names:
        if why := choices.notes.get(name):
            warn(describe_note(name, why))


def check_device_hardware(choices: HardwareChoices, nodes: Collection[str]) -> list[Check]:
    """The same as checks."""
    notes = [
        Check("hardware", Status.WARNING, describe_note(name, why))
        for name, why in choices.notes.items()
        if name in nodes
    ]
    return [*(one for name, one in choices.refusals.items() if name in nodes), *notes]


def describe_note(node: str, why: str) -> str:
    return f"{node} is not kept on the NUMA node of its devices: {why}"


def _memory_pieces(node: Node, hardware: HardwareSpec) -> tuple[int, ...]:
    """The memory of each NUMA node that the guest sees, in MiB."""
    cells = numa_topology_for(hardware.acceleration.numa_topology, node.cpu_cores, node.memory_mib)
    return (node.memory_mib,) if cells is None else (node.memory_mib // cells.nodes,)


def _first(names: Iterable[str]) -> str:
    return next(iter(names), "its device")
