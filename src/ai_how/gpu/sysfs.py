"""What sysfs tells of one card beyond what every PCI device has.

Sources: the kernel's Documentation/ABI/testing/sysfs-bus-pci, sysfs-bus-vfio-mdev and
sysfs-class-drm; for the directory `nvidia` of a VF NVIDIA's vGPU user guide (vGPU 17 and later).
"""

import os
import re
from pathlib import Path

from ai_how.gpu.models import Bar, Link, MdevType, Sriov, VgpuType, VirtualFunction
from ai_how.host.pci import DEVICES, PciDevice
from ai_how.host.reading import entries, is_withheld, read_number, read_text

MDEV_TYPES = "mdev_supported_types"
VGPU_TYPES = "nvidia/creatable_vgpu_types"
_BARS = 6
_PREFETCHABLE = 0x2000  # IORESOURCE_PREFETCH of the kernel's ioport.h
_MEMORY = 0x200  # IORESOURCE_MEM
_NO_WIDTH = (0, 63)  # what a link that is down, or a card that is powered off, reads as
_VGPU_TYPE = re.compile(r"^\s*(\d+)\s*:\s*(.*\S)\s*$", re.MULTILINE)


def directory_of(root: Path, address: str) -> Path:
    """The directory of a PCI function."""
    return root / DEVICES / address


def read_bars(directory: Path) -> tuple[Bar, ...]:
    """The memory regions: `resource` has `start end flags` for each, all 0 if it is not used."""
    bars = []
    for number, line in enumerate((read_text(directory / "resource") or "").splitlines()[:_BARS]):
        try:
            start, end, flags = (int(word, 16) for word in line.split())
        except ValueError:
            continue
        if end and flags & _MEMORY:
            bars.append(Bar(number, end - start + 1, bool(flags & _PREFETCHABLE)))
    return tuple(bars)


def read_link(directory: Path) -> Link:
    """Speed and width; the kernel writes `16.0 GT/s PCIe` (older ones `16 GT/s`) or `Unknown`."""

    def speed(name: str) -> float | None:
        found = re.match(r"(\d+(?:\.\d+)?) GT/s", read_text(directory / name) or "")
        return float(found[1]) if found else None

    def width(name: str) -> int | None:
        number = read_number(directory / name)
        return None if number in _NO_WIDTH else number

    return Link(
        speed("current_link_speed"),
        width("current_link_width"),
        speed("max_link_speed"),
        width("max_link_width"),
    )


def read_memory_mib(directory: Path) -> int | None:
    """The card's memory where its driver writes it to sysfs: only amdgpu does."""
    size = read_number(directory / "mem_info_vram_total")
    return None if size is None else size >> 20


def read_console(root: Path, directory: Path) -> str | None:
    """The kernel's console on framebuffers, if the card has one; which it uses is not told."""
    if not any(one.name.startswith("fb") for one in entries(directory / "graphics")):
        return None
    for one in entries(root / "sys/class/vtconsole"):
        if "frame buffer" in (read_text(one / "name") or "") and read_text(one / "bind") == "1":
            return one.name
    return None


def read_monitors(directory: Path) -> tuple[str, ...]:
    """The connectors with a monitor: `drm/card0/card0-DP-1/status` is `connected`."""
    return tuple(
        connector.name.partition("-")[2]
        for card in entries(directory / "drm")
        if card.name.startswith("card")
        for connector in entries(card)
        if read_text(connector / "status") == "connected"
    )


def read_mdev_types(directory: Path) -> tuple[MdevType, ...]:
    """The types of mediated devices, and the devices that exist of each."""
    return tuple(
        MdevType(
            id=entry.name,
            name=read_text(entry / "name"),
            description=read_text(entry / "description"),
            available=read_number(entry / "available_instances"),
            uuids=tuple(one.name for one in entries(entry / "devices")),
        )
        for entry in entries(directory / MDEV_TYPES)
    )


def read_sriov(root: Path, address: str, devices: dict[str, PciDevice]) -> Sriov:
    """How many VFs the card can have, and those that it has (`virtfn0`, `virtfn1`, ...)."""
    directory = directory_of(root, address)
    total = read_number(directory / "sriov_totalvfs")
    if not os.path.lexists(directory / "sriov_totalvfs"):
        total = 0  # it has no SR-IOV
    links = [one for one in entries(directory) if re.fullmatch(r"virtfn\d+", one.name)]
    links.sort(key=lambda one: int(one.name.removeprefix("virtfn")))
    addresses = [link.resolve().name for link in links]
    return Sriov(
        total, tuple(_read_vf(root, devices.get(one, PciDevice(one))) for one in addresses)
    )


def _read_vf(root: Path, seen: PciDevice) -> VirtualFunction:
    directory = directory_of(root, seen.address)
    return VirtualFunction(
        address=seen.address,
        driver=seen.driver,
        iommu_group=seen.iommu_group,
        mdev_types=read_mdev_types(directory),
        creatable_types=_read_vgpu_types(directory),
        current_type=read_number(directory / "nvidia/current_vgpu_type"),
    )


def _read_vgpu_types(directory: Path) -> tuple[VgpuType, ...] | None:
    """`1148  : NVIDIA L40S-2Q` on each line, after a header; no line where the card is full."""
    if not (directory / VGPU_TYPES).parent.is_dir():
        return None
    text = read_text(directory / VGPU_TYPES) or ""
    return tuple(VgpuType(int(number), name) for number, name in _VGPU_TYPE.findall(text))


def find_unreadable(directory: Path, seen: PciDevice) -> tuple[str, ...]:
    """What is there and cannot be read, by the names of the files."""
    files = ("resource", "numa_node", "sriov_totalvfs", "current_link_speed", "max_link_speed")
    hidden = {name for name in files if is_withheld(directory / name)} | seen.withheld
    return tuple(sorted(hidden | _unreadable_types(directory)))


def _unreadable_types(directory: Path) -> set[str]:
    """The directory of mdev types, if it cannot be listed."""
    try:
        _ = list((directory / MDEV_TYPES).iterdir())
    except FileNotFoundError:
        return set()
    except OSError:
        return {MDEV_TYPES}
    return set()
