"""All GPUs of the host, from sysfs and /proc; nothing is opened, loaded or changed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import HostError, SpecError
from ai_how.gpu.models import Function, FunctionKind, Gpu, Sriov, User
from ai_how.gpu.nvidia_smi import SmiAnswer, SmiCard, ask_nvidia_smi
from ai_how.gpu.pci_names import PciNames, read_pci_names
from ai_how.gpu.remedies import users_in_the_way
from ai_how.gpu.sysfs import (
    directory_of,
    find_unreadable,
    read_bars,
    read_console,
    read_link,
    read_mdev_types,
    read_memory_mib,
    read_monitors,
    read_sriov,
)
from ai_how.gpu.users import Processes, nodes_of_card, read_processes, users_of
from ai_how.host.iommu import Iommu, read_iommu
from ai_how.host.network_facts import read_kernel_routes, uplinks_of
from ai_how.host.pci import BRIDGE_CLASS, CardUse, PciDevice, read_pci_devices
from ai_how.host.reading import read_number, read_text

_KINDS = {
    0x0300: FunctionKind.VGA,
    0x0302: FunctionKind.THREE_D,
    0x0380: FunctionKind.DISPLAY,
    0x1200: FunctionKind.ACCELERATOR,
    0x0403: FunctionKind.AUDIO,
    0x0C03: FunctionKind.USB,
    0x0C80: FunctionKind.UCSI,  # NVIDIA's USB Type-C controller
}
_CARDS = (0x03, 0x12)
_WITH_NODES = (
    *(FunctionKind.VGA, FunctionKind.THREE_D, FunctionKind.DISPLAY),
    *(FunctionKind.ACCELERATOR, FunctionKind.AUDIO),
)
NVIDIA_DRIVER = "nvidia"
PATIENCE_S = 5.0  # with nvidia-smi, which wakes each card that nobody uses
# MIG user guide, "Supported GPUs"; used only where nvidia-smi does not say it.
_WITH_MIG = re.compile(
    r"\b(A100|A30|A800|H100|H200|H800|H20|GH200|B200|B300|GB200|GB300)\b"
    r"|RTX PRO (6000|5000|4500) Blackwell"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs, and what the answers about them depend on."""

    gpus: tuple[Gpu, ...]
    devices: dict[str, PciDevice]
    iommu: Iommu
    kernel: tuple[int, int] | None  # (6, 8)
    has_vgpu_driver: bool  # NVIDIA's, for hosts
    has_names: bool
    has_initramfs_tools: bool
    uplinks: frozenset[str]
    smi_trouble: str | None


def read_machine(root: Path = Path("/")) -> Machine:
    """Look at the host; `root` contains /sys, /proc and /usr.

    nvidia-smi is only asked if a card has NVIDIA's driver: it would load the driver.
    """
    devices = read_pci_devices(root)
    pairs = {(one.vendor_id, one.device_id) for one in devices.values()}
    cards = find_cards(devices.values(), root)
    names = read_pci_names(root, pairs if cards else ())
    has_nvidia = any(one.driver == NVIDIA_DRIVER for one in cards)
    smi = ask_nvidia_smi(patience_s=PATIENCE_S) if has_nvidia else SmiAnswer()
    processes = read_processes(root) if cards else Processes((), hides_some=False)
    return Machine(
        gpus=tuple(
            _read_gpu(root, one, devices, names, processes, smi.cards.get(one.address))
            for one in cards
        ),
        devices=devices,
        iommu=read_iommu(root),
        kernel=_read_kernel(root),
        has_vgpu_driver=(root / "sys/module/nvidia_vgpu_vfio").is_dir()
        or any(one.virtualization == "Host VGPU" for one in smi.cards.values()),
        has_names=names.is_found,
        has_initramfs_tools=(root / "usr/sbin/update-initramfs").exists(),
        uplinks=uplinks_of(read_kernel_routes(root)),
        smi_trouble=smi.trouble,
    )


def find_cards(devices: Iterable[PciDevice], root: Path) -> list[PciDevice]:
    """The first display or accelerator function of each slot; VFs belong to their card."""
    cards: dict[str, PciDevice] = {}
    for one in devices:
        if one.base_class in _CARDS and not _is_vf(root, one):
            cards.setdefault(one.slot, one)
    return list(cards.values())


def read_uses(devices: dict[str, PciDevice], root: Path) -> dict[str, CardUse]:
    """Who has the cards open, for each function that has device nodes; asks no program."""
    cards = find_cards(devices.values(), root)
    processes = read_processes(root) if cards else Processes((), hides_some=False)
    found: dict[str, CardUse] = {}
    for card in cards:
        slot = _slot_of(root, card, devices)
        users = _users_of(root, slot, read_sriov(root, card.address, devices), processes)
        kinds = [(one.address, kind_of(one)) for one in slot]
        console = read_console(root, directory_of(root, card.address))
        hides_some = processes.hides_some or console is not None
        found |= use_of(card.address, kinds, users, hides_some=hides_some)
    return found


def use_of(
    card: str,
    kinds: Iterable[tuple[str, FunctionKind]],
    users: Sequence[User],
    *,
    hides_some: bool,
) -> dict[str, CardUse]:
    """The use of a card by its functions, given with their kinds; of a USB port it says nothing."""
    use = CardUse(card, tuple(users_in_the_way(users)), hides_some)
    return {address: use for address, kind in kinds if kind in _WITH_NODES}


def get_gpu(gpus: Iterable[Gpu], asked: str) -> Gpu:
    """The card of an address, with or without domain; any function of the card names it.

    Raises SpecError for what is no address, and HostError for a device that is no GPU of this host.
    """
    address = read_address(asked)
    for gpu in gpus:
        functions = {one.address for one in gpu.functions}
        if address in functions | {one.address for one in gpu.sriov.vfs}:
            return gpu
    raise HostError(f"there is no GPU at {address}", hint="ai-how gpu list")


def read_address(asked: str) -> str:
    """`65:00.0` and `0000:65:00.0` are the same. Raises SpecError for anything else."""
    pattern = r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-1][0-9a-f](?:\.[0-7])?)"
    found = re.fullmatch(pattern, asked.strip().lower())
    if found is None:
        raise SpecError(
            f"{asked} is no PCI address",
            details="an address is such as 0000:65:00.0",
            hint="ai-how gpu list",
        )
    rest = found[2] if "." in found[2] else f"{found[2]}.0"
    return f"{found[1] or '0000'}:{rest}"


def _read_gpu(
    root: Path,
    seen: PciDevice,
    devices: dict[str, PciDevice],
    names: PciNames,
    processes: Processes,
    told: SmiCard | None,
) -> Gpu:
    directory = directory_of(root, seen.address)
    slot = _slot_of(root, seen, devices)
    sriov = read_sriov(root, seen.address, devices)
    vendor, chip, name = _name(root, seen, names, told)
    return Gpu(
        address=seen.address,
        kind=kind_of(seen),
        vendor=vendor,
        name=name,
        chip=chip,
        functions=tuple(_function(one, names) for one in slot),
        iommu_group=seen.iommu_group,
        neighbours=_neighbours(slot, devices, names),
        driver=seen.driver,
        module_users=seen.driver_users,
        users=_users_of(root, slot, sriov, processes),
        hides_users=processes.hides_some,
        console=read_console(root, directory),
        is_boot_display=None if "boot_vga" in seen.withheld else seen.is_boot_display,
        monitors=read_monitors(directory),
        numa_node=read_number(directory / "numa_node"),  # -1, for none, is no number to it
        memory_mib=(told.memory_mib if told else None) or read_memory_mib(directory),
        bars=read_bars(directory),
        link=read_link(directory),
        sriov=sriov,
        mdev_types=read_mdev_types(directory),
        mig=told.mig if told else None,
        can_mig=_can_mig(vendor, name, told, is_named=name != _numbered(vendor, seen)),
        unknown=find_unreadable(directory, seen),
    )


def _slot_of(root: Path, card: PciDevice, devices: Mapping[str, PciDevice]) -> list[PciDevice]:
    """The functions of a card, itself among them."""
    # In the slot of a GPU in a processor are also its USB controllers, of another vendor id.
    return [
        one
        for one in devices.values()
        if (one.slot, one.vendor_id) == (card.slot, card.vendor_id) and not _is_vf(root, one)
    ]


def _users_of(
    root: Path, slot: list[PciDevice], sriov: Sriov, processes: Processes
) -> tuple[User, ...]:
    """Who has the card of these functions open; its driver is that of its first GPU function."""
    vfs = {one.address: one.iommu_group for one in sriov.vfs}
    # A function in vfio's hands has its group's node; that is the use of the whole card.
    nodes = nodes_of_card(root, {one.address: one.iommu_group for one in slot} | vfs)
    driver = next(one.driver for one in slot if one.base_class in _CARDS)
    return tuple(users_of(nodes, driver, processes))


def kind_of(seen: PciDevice) -> FunctionKind:
    """What a function is, by its class."""
    if seen.base_class == BRIDGE_CLASS:
        return FunctionKind.BRIDGE
    return _KINDS.get(seen.class_code >> 8, FunctionKind.OTHER)


def _name(
    root: Path, seen: PciDevice, names: PciNames, told: SmiCard | None
) -> tuple[str, str | None, str]:
    """Vendor, chip and product; NVIDIA's driver knows products that an old pci.ids does not."""
    vendor = names.vendor(seen.vendor_id)
    chip, product = names.chip_and_product((seen.vendor_id, seen.device_id))
    if product == _numbered(vendor, seen):
        driver = read_text(root / "proc/driver/nvidia/gpus" / seen.address / "information") or ""
        model = re.search(r"^Model:\s*(\S.*)$", driver, re.MULTILINE)
        product = (told.name if told else None) or (model[1].strip() if model else product)
    return vendor, chip, product


def _numbered(vendor: str, seen: PciDevice) -> str:
    return f"{vendor} {seen.device_id:04x}"


def _function(seen: PciDevice, names: PciNames) -> Function:
    return Function(
        address=seen.address,
        kind=kind_of(seen),
        name=names.chip_and_product((seen.vendor_id, seen.device_id))[1],
        vendor_id=None if "vendor" in seen.withheld else f"{seen.vendor_id:04x}",
        device_id=None if "device" in seen.withheld else f"{seen.device_id:04x}",
        driver=seen.driver,
        iommu_group=seen.iommu_group,
        blocks_group=seen.blocks_its_group,
    )


def _neighbours(
    slot: list[PciDevice], devices: Mapping[str, PciDevice], names: PciNames
) -> tuple[Function, ...]:
    """The other members of the IOMMU groups of a card's functions."""
    groups = {one.iommu_group for one in slot} - {None}
    own = {one.address for one in slot}
    return tuple(
        _function(one, names)
        for one in devices.values()
        if one.iommu_group in groups and one.address not in own
    )


def _can_mig(vendor: str, name: str, told: SmiCard | None, *, is_named: bool) -> bool | None:
    if vendor != "NVIDIA":
        return False
    if told and told.can_mig is not None:
        return told.can_mig
    return bool(_WITH_MIG.search(name)) if is_named else None


def _is_vf(root: Path, seen: PciDevice) -> bool:
    return (directory_of(root, seen.address) / "physfn").is_symlink()


def _read_kernel(root: Path) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", read_text(root / "proc/sys/kernel/osrelease") or "")
    return (int(found[1]), int(found[2])) if found else None
