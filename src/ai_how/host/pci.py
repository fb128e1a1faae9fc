"""Requested PCI devices: what they are, and whether the host can do without them."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from ai_how.host.checks import Check, Status
from ai_how.host.iommu import Iommu, why_no_group
from ai_how.host.reading import entries, is_withheld, link_name, read_number, read_text

DEVICES = Path("sys/bus/pci/devices")
BRIDGE_CLASS = 0x06
# A bridge with one of these drivers does not keep VFIO from using the rest of its group.
BRIDGE_DRIVERS = (None, "pcieport")
VFIO = "vfio-pci"
# NVMe multipath hides a namespace of a controller, and shows one of its subsystem in its place:
# nvme0c1n1 is at the device, and what is mounted is nvme0n1 below /sys/devices/virtual.
_HIDDEN_NVME = re.compile(r"(nvme\d+)c\d+(n\d+)")
_READ_OF_DEVICE = ("vendor", "device", "class", "boot_vga", "driver", "iommu_group")


class AskedDevice(Protocol):
    """An entry of `pcie_passthrough.devices`; None is not compared."""

    @property
    def pci_address(self) -> str: ...
    @property
    def vendor_id(self) -> str | None: ...
    @property
    def device_id(self) -> str | None: ...
    @property
    def iommu_group(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class AnyDevice:
    """A device that is asked for by its address alone."""

    pci_address: str
    vendor_id: str | None = None
    device_id: str | None = None
    iommu_group: int | None = None


class Reason(StrEnum):
    """Why a device cannot be passed through, or only with a change to the host."""

    ABSENT = auto()
    OTHER_DEVICE = auto()
    BRIDGE = auto()
    BOOT_DISPLAY = auto()
    UPLINK = auto()
    DISKS = auto()
    NO_IOMMU = auto()
    GROUP = auto()
    OPENED = auto()
    DRIVER_IN_USE = auto()
    DRIVER_BOUND = auto()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason at one device; `advice` is a command to paste."""

    address: str
    reason: Reason
    status: Status
    text: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class CardUse:
    """Who has the card open that a function belongs to: each in words, with what ends it.

    With `hides_some` there are processes whose open files cannot be seen.
    """

    card: str
    users: tuple[tuple[str, str], ...] = ()
    hides_some: bool = False


NO_USES: Mapping[str, CardUse] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One function of a device as sysfs shows it."""

    address: str
    vendor_id: int = 0
    device_id: int = 0
    class_code: int = 0
    driver: str | None = None
    driver_module: str | None = None  # igc, i2c_nvidia_gpu; None also for a driver of the kernel
    driver_users: int = 0  # how often the driver's module is in use
    iommu_group: int | None = None
    is_boot_display: bool = False
    interfaces: frozenset[str] = frozenset()  # network interfaces, and bridges and bonds upon them
    blocks_in_use: tuple[str, ...] = ()  # "nvme0n1p2 (mounted on /)"
    withheld: frozenset[str] = frozenset()  # files of sysfs that are there and cannot be read

    @property
    def base_class(self) -> int:
        return self.class_code >> 16

    @property
    def slot(self) -> str:
        """The address without the function: all functions of a card have the same."""
        return self.address.rpartition(".")[0]

    @property
    def blocks_its_group(self) -> bool:
        """Whether VFIO lets nobody use the group while the host has this device."""
        return not (self.base_class == BRIDGE_CLASS and self.driver in BRIDGE_DRIVERS)


def read_pci_devices(root: Path = Path("/")) -> dict[str, PciDevice]:
    """Every PCI function by address; `root` contains /sys and /proc."""
    busy = _busy_blocks(root)
    directory = root / DEVICES
    if not directory.is_dir():
        return {}
    return {entry.name: _read_device(root, entry, busy) for entry in sorted(directory.iterdir())}


def check_passthrough(
    asked: Sequence[AskedDevice],
    devices: Mapping[str, PciDevice],
    *,
    uplinks: Collection[str],
    iommu: Iommu,
    uses: Mapping[str, CardUse] = NO_USES,
    force: bool = False,
) -> list[Check]:
    """Why devices must not be passed through; `uplinks` are the interfaces with a default route.

    A device that is in use is a failure unless `force`; a driver that is only bound is a warning. A
    device without problems has no check. `uses` are those of cards, by the address of a function.
    The kernel counts the users of a driver for all devices that it has, so that count decides only
    for devices without a use, and where some users are hidden.
    """
    return [
        Check(f"pci {found.address}", found.status, found.text, found.advice)
        for found in find_obstacles(
            asked, devices, uplinks=uplinks, iommu=iommu, uses=uses, force=force
        )
    ]


def find_obstacles(
    asked: Sequence[AskedDevice],
    devices: Mapping[str, PciDevice],
    *,
    uplinks: Collection[str],
    iommu: Iommu,
    uses: Mapping[str, CardUse] = NO_USES,
    force: bool = False,
) -> list[Obstacle]:
    """The same as `check_passthrough`, with the reasons as data."""
    told: set[str] = set()
    wanted = {device.pci_address.lower() for device in asked}
    found: list[Obstacle] = []
    for device in asked:
        address = device.pci_address
        seen = devices.get(address.lower())
        if seen is None:
            text, advice = "there is no such device", "lspci -D -nn"
            found.append(Obstacle(address, Reason.ABSENT, Status.FAILURE, text, advice))
            continue
        refusals = [
            *_mistaken_identity(device, seen),
            *_needs_of_the_host(seen, uplinks),
            *_group_refusals(seen, wanted, devices, iommu),
        ]
        found += [
            Obstacle(address, reason, Status.FAILURE, text, advice)
            for reason, text, advice in refusals
        ]
        if refusals:
            continue
        use = uses.get(seen.address)
        if use and use.users and not force:
            if use.card not in told:
                found += _opened(address, use)
            told.add(use.card)
        else:
            counts = use is None or use.hides_some
            is_used = counts and seen.driver_users > 0 and not force
            found += _driver_obstacles(address, seen, is_used=is_used)
    return found


Refusal = tuple[Reason, str, str | None]


def _mistaken_identity(asked: AskedDevice, seen: PciDevice) -> list[Refusal]:
    show = f"lspci -nns {seen.address}"
    wrong: list[Refusal] = []
    for word, want, have in (
        ("vendor", asked.vendor_id, seen.vendor_id),
        ("device", asked.device_id, seen.device_id),
    ):
        if want is not None and int(want, 16) != have:
            text = f"its {word} id is {have:04x}, not {want}"
            wrong.append((Reason.OTHER_DEVICE, text, show))
    if asked.iommu_group is not None and asked.iommu_group != seen.iommu_group:
        text = f"its IOMMU group is {seen.iommu_group}, not {asked.iommu_group}"
        wrong.append((Reason.OTHER_DEVICE, text, show))
    return wrong


def _needs_of_the_host(seen: PciDevice, uplinks: Collection[str]) -> list[Refusal]:
    reasons: list[Refusal] = []
    if seen.base_class == BRIDGE_CLASS:
        reasons.append((Reason.BRIDGE, "it is a bridge: name the devices behind it", "lspci -tv"))
    if seen.is_boot_display:
        text = "it is the display that the host booted with"
        reasons.append((Reason.BOOT_DISPLAY, text, None))
    if lost := sorted(seen.interfaces.intersection(uplinks)):
        text = f"the host's default route uses {', '.join(lost)}"
        reasons.append((Reason.UPLINK, text, "ip route"))
    if seen.blocks_in_use:
        text = f"the host uses {', '.join(seen.blocks_in_use)}"
        reasons.append((Reason.DISKS, text, "lsblk"))
    return reasons


def _group_refusals(
    seen: PciDevice,
    wanted: Collection[str],
    devices: Mapping[str, PciDevice],
    iommu: Iommu,
) -> list[Refusal]:
    if seen.iommu_group is None:
        return [(Reason.NO_IOMMU, *why_no_group(iommu))]
    missing = sorted(
        other.address
        for other in devices.values()
        if other.iommu_group == seen.iommu_group
        and other.address not in wanted
        and other.blocks_its_group
    )
    if not missing:
        return []
    shared = f"IOMMU group {seen.iommu_group} also has {', '.join(missing)}: list all or none"
    show = f"ls /sys/kernel/iommu_groups/{seen.iommu_group}/devices"
    return [(Reason.GROUP, shared, show)]


def _opened(address: str, use: CardUse) -> list[Obstacle]:
    return [
        Obstacle(address, Reason.OPENED, Status.FAILURE, text, advice) for text, advice in use.users
    ]


def _driver_obstacles(address: str, seen: PciDevice, *, is_used: bool) -> list[Obstacle]:
    if seen.driver in (None, VFIO):
        return []
    advice = f"sudo virsh nodedev-detach pci_{seen.address.replace(':', '_').replace('.', '_')}"
    if is_used:
        text = f"its driver {seen.driver} is in use"
        return [Obstacle(address, Reason.DRIVER_IN_USE, Status.FAILURE, text, advice)]
    text = f"it is detached from its driver {seen.driver} while the VM runs"
    return [Obstacle(address, Reason.DRIVER_BOUND, Status.WARNING, text, advice)]


def _read_device(root: Path, entry: Path, busy: Mapping[str, str]) -> PciDevice:
    group = link_name(entry / "iommu_group")
    place = entry.resolve()
    blocks = _blocks(root, place)
    return PciDevice(
        address=entry.name,
        vendor_id=_read_hex(entry / "vendor"),
        device_id=_read_hex(entry / "device"),
        class_code=_read_hex(entry / "class"),
        driver=link_name(entry / "driver"),
        driver_module=link_name(entry / "driver/module"),
        driver_users=read_number(entry / "driver/module/refcnt") or 0,
        iommu_group=int(group) if group and group.isdecimal() else None,
        is_boot_display=read_text(entry / "boot_vga") == "1",
        interfaces=_interfaces(root, place),
        blocks_in_use=tuple(f"{name} ({busy[name]})" for name in blocks if name in busy),
        withheld=frozenset(
            name
            for name in _READ_OF_DEVICE
            if is_withheld(entry / name, is_link=name in ("driver", "iommu_group"))
        ),
    )


def _interfaces(root: Path, place: Path) -> frozenset[str]:
    """Network interfaces of a device, and everything stacked upon them (`upper_*` links)."""
    network = root / "sys/class/net"
    found = {link.name for link in entries(network) if link.resolve().is_relative_to(place)}
    todo = list(found)
    while todo:
        links = entries(network / todo.pop())
        uppers = {link.name.removeprefix("upper_") for link in links if "upper_" in link.name}
        todo += uppers - found
        found |= uppers
    return frozenset(found)


def _blocks(root: Path, place: Path) -> list[str]:
    """Block devices of a device and their partitions, through NVMe multipath as well."""
    every = {block.name: block.resolve() for block in entries(root / "sys/class/block")}
    own = [name for name, target in every.items() if target.is_relative_to(place)]
    heads = {"".join(found.groups()) for name in own if (found := _HIDDEN_NVME.fullmatch(name))}
    tops = [place, *(every[head] for head in heads & every.keys())]
    return [name for name, at in every.items() if any(at.is_relative_to(top) for top in tops)]


def _busy_blocks(root: Path) -> dict[str, str]:
    """Block devices in use, by name: mounted, swapped to, or held by LVM, md or dm-crypt."""
    numbers, sources = _mounts(root)
    swaps = {line.split()[0] for line in _lines(root / "proc/swaps") if line.startswith("/dev/")}
    busy = {}
    for block in entries(root / "sys/class/block"):
        name = block.name
        mount = numbers.get(read_text(block / "dev") or "") or sources.get(f"/dev/{name}")
        holders = sorted(holder.name for holder in entries(block / "holders"))
        if mount:
            busy[name] = f"mounted on {mount}"
        elif f"/dev/{name}" in swaps:
            busy[name] = "swap"
        elif holders:
            busy[name] = f"held by {', '.join(holders)}"
    return busy


def _mounts(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Mount points by device number and by device file; btrfs has its own device numbers."""
    numbers: dict[str, str] = {}
    sources: dict[str, str] = {}
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields = before.split()
        source = after.split()[1:2]
        if fields[4:5] and source:
            numbers.setdefault(fields[2], fields[4])
            sources.setdefault(source[0], fields[4])
    return numbers, sources


def _lines(path: Path) -> list[str]:
    return (read_text(path) or "").splitlines()


def _read_hex(path: Path) -> int:
    try:
        return int(read_text(path) or "0", 16)
    except ValueError:
        return 0
