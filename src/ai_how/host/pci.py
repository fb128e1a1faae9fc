"""Requested PCI devices: what they are, and whether the host can do without them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ai_how.host.checks import Check, Status
from ai_how.host.reading import link_name, read_number, read_text

BRIDGE_CLASS = 0x06
# A bridge with one of these drivers does not keep VFIO from using the rest of its group.
BRIDGE_DRIVERS = (None, "pcieport")
VFIO = "vfio-pci"


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
class PciDevice:
    """One function of a device as sysfs shows it."""

    address: str
    vendor_id: int = 0
    device_id: int = 0
    base_class: int = 0
    driver: str | None = None
    driver_users: int = 0  # how often the driver's module is in use
    iommu_group: int | None = None
    is_boot_display: bool = False
    interfaces: frozenset[str] = frozenset()  # network interfaces, and bridges and bonds upon them
    blocks_in_use: tuple[str, ...] = ()  # "nvme0n1p2 (mounted on /)"


def read_pci_devices(root: Path = Path("/")) -> dict[str, PciDevice]:
    """Every PCI function by address; `root` contains /sys and /proc."""
    busy = _busy_blocks(root)
    directory = root / "sys/bus/pci/devices"
    if not directory.is_dir():
        return {}
    return {entry.name: _read_device(root, entry, busy) for entry in sorted(directory.iterdir())}


def check_passthrough(
    asked: Sequence[AskedDevice],
    devices: Mapping[str, PciDevice],
    *,
    uplinks: Collection[str],
    force: bool = False,
) -> list[Check]:
    """Why devices must not be passed through; `uplinks` are the interfaces with a default route.

    A driver that is in use is a failure unless `force`; one that is only bound is a warning. A
    device without problems has no check.
    """
    wanted = {device.pci_address.lower() for device in asked}
    checks = []
    for device in asked:
        seen = devices.get(device.pci_address.lower())
        name = f"pci {device.pci_address}"
        if seen is None:
            checks.append(Check(name, Status.FAILURE, "there is no such device", "lspci -D -nn"))
            continue
        refusals = [
            *_mistaken_identity(device, seen),
            *_needs_of_the_host(seen, uplinks),
            *_group_refusals(seen, wanted, devices),
        ]
        checks += [Check(name, Status.FAILURE, text, advice) for text, advice in refusals]
        if not refusals:
            checks += _driver_checks(name, seen, force=force)
    return checks


def _mistaken_identity(asked: AskedDevice, seen: PciDevice) -> list[tuple[str, str | None]]:
    show = f"lspci -nns {seen.address}"
    wrong = []
    for word, want, have in (
        ("vendor", asked.vendor_id, seen.vendor_id),
        ("device", asked.device_id, seen.device_id),
    ):
        if want is not None and int(want, 16) != have:
            wrong.append((f"its {word} id is {have:04x}, not {want}", show))
    if asked.iommu_group is not None and asked.iommu_group != seen.iommu_group:
        wrong.append((f"its IOMMU group is {seen.iommu_group}, not {asked.iommu_group}", show))
    return list(wrong)


def _needs_of_the_host(seen: PciDevice, uplinks: Collection[str]) -> list[tuple[str, str | None]]:
    reasons: list[tuple[str, str | None]] = []
    if seen.base_class == BRIDGE_CLASS:
        reasons.append(("it is a bridge: name the devices behind it", "lspci -tv"))
    if seen.is_boot_display:
        reasons.append(("it is the display that the host booted with", None))
    if lost := sorted(seen.interfaces.intersection(uplinks)):
        reasons.append((f"the host's default route uses {', '.join(lost)}", "ip route"))
    if seen.blocks_in_use:
        reasons.append((f"the host uses {', '.join(seen.blocks_in_use)}", "lsblk"))
    return reasons


def _group_refusals(
    seen: PciDevice, wanted: Collection[str], devices: Mapping[str, PciDevice]
) -> list[tuple[str, str | None]]:
    if seen.iommu_group is None:
        remedy = "add intel_iommu=on or amd_iommu=on to the kernel command line"
        return [("the IOMMU is off", remedy)]
    missing = sorted(
        other.address
        for other in devices.values()
        if other.iommu_group == seen.iommu_group
        and other.address not in wanted
        and not (other.base_class == BRIDGE_CLASS and other.driver in BRIDGE_DRIVERS)
    )
    if not missing:
        return []
    shared = f"IOMMU group {seen.iommu_group} also has {', '.join(missing)}: list all or none"
    return [(shared, f"ls /sys/kernel/iommu_groups/{seen.iommu_group}/devices")]


def _driver_checks(name: str, seen: PciDevice, *, force: bool) -> list[Check]:
    if seen.driver in (None, VFIO):
        return []
    advice = f"sudo virsh nodedev-detach pci_{seen.address.replace(':', '_').replace('.', '_')}"
    if seen.driver_users and not force:
        return [Check(name, Status.FAILURE, f"its driver {seen.driver} is in use", advice)]
    found = f"it is detached from its driver {seen.driver} while the VM runs"
    return [Check(name, Status.WARNING, found, advice)]


def _read_device(root: Path, entry: Path, busy: Mapping[str, str]) -> PciDevice:
    group = link_name(entry / "iommu_group")
    place = entry.resolve()
    blocks = [
        block.name
        for block in _entries(root / "sys/class/block")
        if block.resolve().is_relative_to(place)
    ]
    return PciDevice(
        address=entry.name,
        vendor_id=_read_hex(entry / "vendor"),
        device_id=_read_hex(entry / "device"),
        base_class=_read_hex(entry / "class") >> 16,
        driver=link_name(entry / "driver"),
        driver_users=read_number(entry / "driver/module/refcnt") or 0,
        iommu_group=int(group) if group and group.isdecimal() else None,
        is_boot_display=read_text(entry / "boot_vga") == "1",
        interfaces=_interfaces(root, place),
        blocks_in_use=tuple(f"{name} ({busy[name]})" for name in blocks if name in busy),
    )


def _interfaces(root: Path, place: Path) -> frozenset[str]:
    """Network interfaces of a device, and everything stacked upon them (`upper_*` links)."""
    network = root / "sys/class/net"
    found = {link.name for link in _entries(network) if link.resolve().is_relative_to(place)}
    todo = list(found)
    while todo:
        links = _entries(network / todo.pop())
        uppers = {link.name.removeprefix("upper_") for link in links if "upper_" in link.name}
        todo += uppers - found
        found |= uppers
    return frozenset(found)


def _busy_blocks(root: Path) -> dict[str, str]:
    """Block devices in use, by name: mounted, swapped to, or held by LVM, md or dm-crypt."""
    numbers, sources = _mounts(root)
    swaps = {line.split()[0] for line in _lines(root / "proc/swaps") if line.startswith("/dev/")}
    busy = {}
    for block in _entries(root / "sys/class/block"):
        name = block.name
        mount = numbers.get(read_text(block / "dev") or "") or sources.get(f"/dev/{name}")
        holders = sorted(holder.name for holder in _entries(block / "holders"))
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


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _read_hex(path: Path) -> int:
    try:
        return int(read_text(path) or "0", 16)
    except ValueError:
        return 0
