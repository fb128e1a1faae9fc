"""Why the IOMMU is off, and what switches it on with this machine's boot loader."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ai_how.host.reading import read_text

ACPI_TABLES = Path("sys/firmware/acpi/tables")
GROUPS = Path("sys/kernel/iommu_groups")
_GRUB_LINE = "GRUB_CMDLINE_LINUX"


class Maker(StrEnum):
    """Who made the processors; each has its own word for the same thing."""

    INTEL = "Intel"
    AMD = "AMD"

    @property
    def table(self) -> str:
        """The ACPI table by which the firmware describes the IOMMU."""
        return "DMAR" if self is Maker.INTEL else "IVRS"

    @property
    def word(self) -> str:
        """What the firmware's menu calls it."""
        return "VT-d" if self is Maker.INTEL else "IOMMU (AMD-Vi)"


class BootLoader(StrEnum):
    """What writes the kernel's command line."""

    GRUBBY = "grubby"
    GRUB = "update-grub"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Iommu:
    """The IOMMU of the host; None is what cannot be known here."""

    is_on: bool | None = None
    maker: Maker | None = None
    is_in_firmware: bool | None = None
    is_guest: bool = False
    switched_off_by: str | None = None  # a parameter of the running kernel
    is_asked_for: bool = False  # intel_iommu=on is a parameter of the running kernel
    boot_loader: BootLoader = BootLoader.UNKNOWN


def read_iommu(root: Path = Path("/")) -> Iommu:
    """What sysfs, /proc and the installed boot loader tell; `root` contains /sys, /proc and /usr.

    The IOMMU is on if there are IOMMU groups (Documentation/driver-api/vfio.rst of the kernel).
    """
    cpu = read_text(root / "proc/cpuinfo") or ""
    maker = Maker.INTEL if "GenuineIntel" in cpu else Maker.AMD if "AuthenticAMD" in cpu else None
    command_line = read_text(root / "proc/cmdline") or ""
    off = re.search(r"(?:^|\s)((?:intel_iommu|amd_iommu|iommu)=off)(?=\s|$)", command_line)
    return Iommu(
        is_on=_has_groups(root / GROUPS),
        maker=maker,
        is_in_firmware=_has_table(root / ACPI_TABLES, maker),
        is_guest=re.search(r"^flags\s*:.*\bhypervisor\b", cpu, re.MULTILINE) is not None,
        switched_off_by=off[1] if off else None,
        is_asked_for="intel_iommu=on" in command_line.split(),
        boot_loader=_boot_loader(root),
    )


def why_no_group(iommu: Iommu) -> tuple[str, str]:
    """Why a device is in no IOMMU group, as far as that is known, and what to do."""
    text, advice = why_off(iommu)
    if iommu.is_on:
        # Debian's kernel has it on by default, except for the GPU in an Intel processor.
        return "it is in no IOMMU group, though other devices are", advice
    return text, advice


def why_off(iommu: Iommu) -> tuple[str, str]:
    """Why there are no groups, as far as that is known, and what to do."""
    if iommu.switched_off_by:
        text = f"the IOMMU is switched off by {iommu.switched_off_by} on the kernel command line"
        return text, _without_parameter(iommu.switched_off_by, iommu.boot_loader)
    if iommu.is_in_firmware is False and iommu.is_guest:
        text = "this host is a VM that was given no IOMMU"
        return text, "<iommu model='intel'/> in the VM's XML, on the machine that runs it"
    is_off_below = iommu.is_in_firmware is False or iommu.is_asked_for
    if iommu.maker and is_off_below:
        text = f"{iommu.maker.word} is off in the firmware"
        return text, f"enable {iommu.maker.word} in the firmware's set-up"
    if iommu.maker is not Maker.INTEL:
        # AMD's is used by default: the kernel has no amd_iommu=on.
        return "the IOMMU is off", "sudo dmesg | grep -i -e AMD-Vi -e IOMMU  # tells why"
    return "the IOMMU is off", _with_parameters("intel_iommu=on iommu=pt", iommu.boot_loader)


def _with_parameters(words: str, boot_loader: BootLoader) -> str:
    match boot_loader:
        case BootLoader.GRUBBY:
            return f'sudo grubby --update-kernel=ALL --args="{words}"  # then reboot'
        case BootLoader.GRUB:
            edit = f"""sudo sed -i "s/^{_GRUB_LINE}=['\\"]/&{words} /" /etc/default/grub"""
            return f"{edit} && sudo update-grub  # then reboot"
        case BootLoader.UNKNOWN:
            return f"add {words} to the kernel command line, then reboot"


def _without_parameter(word: str, boot_loader: BootLoader) -> str:
    match boot_loader:
        case BootLoader.GRUBBY:
            return f'sudo grubby --update-kernel=ALL --remove-args="{word}"  # then reboot'
        case BootLoader.GRUB:
            edit = f"sudo sed -i '/^{_GRUB_LINE}/s/ *\\b{word}\\b//' /etc/default/grub"
            return f"{edit} && sudo update-grub  # then reboot"
        case BootLoader.UNKNOWN:
            return f"remove {word} from the kernel command line, then reboot"


def _has_groups(directory: Path) -> bool | None:
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        # A kernel without IOMMU support has no such directory, and neither has a host without /sys.
        return False if directory.parent.is_dir() else None
    except OSError:
        return None


def _has_table(directory: Path, maker: Maker | None) -> bool | None:
    """None where the tables are hidden, as in a container, or the processor is not known."""
    try:
        names = {entry.name for entry in directory.iterdir()}
    except OSError:
        return None
    return maker.table in names if maker and names else None


def _boot_loader(root: Path) -> BootLoader:
    for directory in ("usr/sbin", "sbin", "usr/bin"):
        for one in (BootLoader.GRUBBY, BootLoader.GRUB):
            if (root / directory / one).exists():
                return one
    return BootLoader.UNKNOWN
