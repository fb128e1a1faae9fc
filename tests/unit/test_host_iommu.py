"""Why the IOMMU is off, and the commands that switch it on; each is run on a file of its own."""

import shlex
from pathlib import Path

import pytest

from ai_how.host.iommu import BootLoader, Iommu, Maker, read_iommu, why_off
from ai_how.process import run
from gpu_host import AMD_CPU, INTEL_CPU, GpuHost

GUEST_CPU = "vendor_id : GenuineIntel\nflags : fpu hypervisor vmx\n"


@pytest.fixture
def host(tmp_path: Path) -> GpuHost:
    return GpuHost(tmp_path)


def test_a_host_with_groups_has_its_iommu_on(host: GpuHost) -> None:
    host.add_uhd()
    assert read_iommu(host.root) == Iommu(
        is_on=True, maker=Maker.INTEL, is_in_firmware=True, boot_loader=BootLoader.GRUB
    )


CASES = {
    "no parameter": (INTEL_CPU, "quiet", ["DMAR"], "the IOMMU is off", "intel_iommu=on iommu=pt"),
    "VT-d off": (INTEL_CPU, "quiet", ["FACP"], "VT-d is off in the firmware", "enable VT-d"),
    "asked for in vain": (INTEL_CPU, "intel_iommu=on", [], "VT-d is off in", "enable VT-d"),
    "AMD's off": (AMD_CPU, "quiet", ["FACP"], "IOMMU (AMD-Vi) is off in", "enable IOMMU"),
    "AMD's unknown": (AMD_CPU, "quiet", ["IVRS"], "the IOMMU is off", "sudo dmesg | grep"),
    "a guest": (GUEST_CPU, "quiet", ["FACP"], "a VM that was given no IOMMU", "<iommu model="),
    "switched off": (
        *(INTEL_CPU, "quiet intel_iommu=off ro", ["DMAR"]),
        *("switched off by intel_iommu=off on the kernel command line", "sudo sed -i"),
    ),
    "off on AMD": (AMD_CPU, "amd_iommu=off", ["IVRS"], "off by amd_iommu=off", "sudo sed -i"),
    "other processors": ("model : x", "quiet", ["FACP"], "the IOMMU is off", "sudo dmesg"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_reason_and_the_remedy_fit_the_host(host: GpuHost, case: str) -> None:
    cpu, command_line, tables, text, advice = CASES[case]
    host.write("proc/cpuinfo", cpu)
    host.write("proc/cmdline", command_line)
    (host.root / "sys/firmware/acpi/tables/DMAR").unlink()
    for table in tables:
        host.write(f"sys/firmware/acpi/tables/{table}", "")
    seen = read_iommu(host.root)
    assert seen.is_on is False
    told, remedy = why_off(seen)
    assert text in told
    assert advice in remedy


def test_a_container_without_the_firmwares_tables_blames_no_firmware(host: GpuHost) -> None:
    (host.root / "sys/firmware/acpi/tables/DMAR").unlink()
    seen = read_iommu(host.root)
    assert seen.is_in_firmware is None
    assert why_off(seen)[0] == "the IOMMU is off"


def test_a_host_whose_groups_cannot_be_listed_is_unknown(host: GpuHost, tmp_path: Path) -> None:
    groups = host.root / "sys/kernel/iommu_groups"
    groups.rmdir()
    assert read_iommu(host.root).is_on is False
    host.hide(groups)
    assert read_iommu(host.root).is_on is None
    assert read_iommu(tmp_path / "nothing").is_on is None


@pytest.mark.parametrize(
    ("before", "command_line", "after"),
    [
        ('GRUB_CMDLINE_LINUX=""', "quiet", 'GRUB_CMDLINE_LINUX="intel_iommu=on iommu=pt "'),
        (
            *('GRUB_CMDLINE_LINUX="console=ttyS0"', "quiet"),
            'GRUB_CMDLINE_LINUX="intel_iommu=on iommu=pt console=ttyS0"',
        ),
        (
            *('GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=off"', "intel_iommu=off"),
            'GRUB_CMDLINE_LINUX_DEFAULT="quiet"',
        ),
        ('GRUB_CMDLINE_LINUX="iommu=off ro"', "iommu=off", 'GRUB_CMDLINE_LINUX=" ro"'),
    ],
)
def test_the_command_for_grub_edits_its_file(
    host: GpuHost, before: str, command_line: str, after: str
) -> None:
    """What is pasted is run, but for sudo and update-grub."""
    host.write("proc/cmdline", command_line)
    file = host.write("etc/default/grub", f"# GRUB_CMDLINE_LINUX is below\n{before}\n")
    edit, _, rest = why_off(read_iommu(host.root))[1].partition(" && ")
    assert rest == "sudo update-grub  # then reboot"
    words = shlex.split(edit.replace("/etc/default/grub", str(file)))
    assert words.pop(0) == "sudo"
    run(words)
    assert file.read_text().splitlines()[-1] == after


@pytest.mark.parametrize(
    ("command_line", "advice"),
    [
        (
            "quiet",
            'sudo grubby --update-kernel=ALL --args="intel_iommu=on iommu=pt"  # then reboot',
        ),
        (
            "iommu=off",
            'sudo grubby --update-kernel=ALL --remove-args="iommu=off"  # then reboot',
        ),
    ],
)
def test_a_host_with_grubby_gets_its_command(host: GpuHost, command_line: str, advice: str) -> None:
    host.write("usr/sbin/grubby", "")
    host.write("proc/cmdline", command_line)
    assert why_off(read_iommu(host.root))[1] == advice


@pytest.mark.parametrize("command_line", ["quiet", "iommu=off"])
def test_another_boot_loader_gets_a_sentence(host: GpuHost, command_line: str) -> None:
    (host.root / "usr/sbin/update-grub").unlink()
    host.write("proc/cmdline", command_line)
    assert "the kernel command line, then reboot" in why_off(read_iommu(host.root))[1]
