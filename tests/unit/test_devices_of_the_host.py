"""More machines, drawn as sysfs trees, each with one reason why the host needs a device itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_host_pci import GPU, NIC, NVME, PORT, SOUND, Machine

from ai_how.host.checks import Status

SATA, USB = "0000:04:00.0", "0000:05:00.0"
SDA = f"devices/{SATA}/ata1/host0/target0:0:0/0:0:0:0/block/sda"
STICK = f"devices/{USB}/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"
Change = Callable[[Machine], None]


def mount(number: str, source: str, where: str) -> str:
    return f"36 1 {number} / {where} rw,relatime shared:1 - ext4 {source} rw\n"


def add_controller(machine: Machine, address: str, code: int, group: int) -> None:
    machine.write(f"devices/{address}/class", f"0x{code:06x}\n")
    machine.link(f"bus/pci/devices/{address}", f"devices/{address}")
    machine.put_in_group(address, group)


def with_sata(*lines: str) -> Change:
    def draw(machine: Machine) -> None:
        add_controller(machine, SATA, 0x010601, 4)
        machine.add_block("sda", SDA, "8:0")
        machine.add_block("sda1", f"{SDA}/sda1", "8:1")
        machine.write_proc("self/mountinfo", "".join(lines))

    return draw


def with_stick(machine: Machine) -> None:
    add_controller(machine, USB, 0x0C0330, 5)
    machine.add_block("sdb", STICK, "8:16")
    machine.write_proc("self/mountinfo", mount("8:16", "/dev/sdb", "/boot/efi"))


def held(place: str, holder: str) -> Change:
    def draw(machine: Machine) -> None:
        (machine.root / "sys" / place / "holders" / holder).mkdir(parents=True)

    return draw


def mounts(*lines: str) -> Change:
    return lambda machine: machine.write_proc("self/mountinfo", "".join(lines))


def stacked(*pairs: tuple[str, str]) -> Change:
    def draw(machine: Machine) -> None:
        for lower, upper in pairs:
            machine.stack(lower, upper)

    return draw


def joined(address: str, group: int) -> Change:
    """The device is in another's IOMMU group after all."""

    def draw(machine: Machine) -> None:
        (machine.root / f"sys/devices/{address}/iommu_group").unlink()
        machine.put_in_group(address, group)

    return draw


DISK = f"devices/{NVME}/nvme/nvme0/nvme0n1"
CASES: dict[str, tuple[Change, tuple[str, ...], str, str]] = {
    "root on SATA": (with_sata(mount("8:1", "/dev/sda1", "/")), (SATA,), "", "sda1 (mounted on /)"),
    "home on SATA": (with_sata(mount("8:1", "/dev/sda1", "/home")), (SATA,), "", "on /home)"),
    "a whole disk without partitions": (
        *(with_sata(mount("8:0", "/dev/sda", "/srv")), (SATA,), "", "sda (mounted on /srv)"),
    ),
    "the boot partition of a stick": (with_stick, (USB,), "", "sdb (mounted on /boot/efi)"),
    "one mount of many": (
        mounts(mount("8:1", "/dev/sda1", "/"), mount("259:1", "/dev/nvme0n1p1", "/data")),
        *((NVME,), "", "nvme0n1p1 (mounted on /data)"),
    ),
    "LVM on a partition": (held(f"{DISK}/nvme0n1p1", "dm-3"), (NVME,), "", "(held by dm-3)"),
    "md on a partition": (held(f"{DISK}/nvme0n1p1", "md0"), (NVME,), "", "(held by md0)"),
    "dm-crypt on a disk": (held(DISK, "dm-0"), (NVME,), "", "nvme0n1 (held by dm-0)"),
    "bcache on a disk": (held(DISK, "bcache0"), (NVME,), "", "nvme0n1 (held by bcache0)"),
    "swap on a whole disk": (
        lambda machine: machine.write_proc("swaps", "Filename\n/dev/nvme0n1 partition 1 0 -2\n"),
        *((NVME,), "", "nvme0n1 (swap)"),
    ),
    "a VLAN on the card": (stacked(("eth0", "eth0.7")), (NIC,), "eth0.7", "route uses eth0.7"),
    "a bond on the card": (stacked(("eth0", "bond0")), (NIC,), "bond0", "route uses bond0"),
    "a bridge on a bond": (
        *(stacked(("eth0", "bond0"), ("bond0", "br0")), (NIC,), "br0", "route uses br0"),
    ),
    "a VLAN on a bridge on a bond": (
        stacked(("eth0", "bond0"), ("bond0", "br0"), ("br0", "br0.9")),
        *((NIC,), "br0.9", "route uses br0.9"),
    ),
    "a ring of links": (
        *(stacked(("eth0", "br0"), ("br0", "eth0")), (NIC,), "br0", "route uses br0"),
    ),
    "the card beside a GPU": (joined(NIC, 1), (GPU, SOUND), "", f"also has {NIC}"),
    "a disk beside the card": (joined(NVME, 2), (NIC,), "", f"also has {NVME}"),
    "a used disk in a whole group": (
        lambda machine: (joined(NVME, 2)(machine), mounts(mount("259:1", "x", "/"))(machine)),
        *((NIC, NVME), "", "nvme0n1p1 (mounted on /)"),
    ),
    "only the sound of a GPU": (lambda _: None, (SOUND,), "", f"also has {GPU}"),
    "the boot display, whole group": (
        lambda machine: machine.write(f"devices/{GPU}/boot_vga", "1\n"),
        *((GPU, SOUND), "", "the display that the host booted with"),
    ),
    "a port": (lambda _: None, (PORT,), "", "it is a bridge"),
    "a port that is bound": (lambda m: m.bind(PORT, "pcieport"), (PORT,), "", "it is a bridge"),
    "no such device": (lambda _: None, ("0000:ff:1f.7",), "", "there is no such device"),
}


@pytest.mark.fault("S27", "machines drawn in sysfs, with and without force")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_what_the_host_lives_on_stays_with_it_forced_or_not(
    tmp_path: Path, case: str, force: bool
) -> None:
    draw, asked, uplink, reason = CASES[case]
    machine = Machine(tmp_path)
    draw(machine)
    found = machine.check(*asked, uplink=uplink or "wlan0", force=force)
    failures = [check.found for check in found if check.status is Status.FAILURE]
    assert any(reason in text for text in failures), found


@pytest.mark.fault("S27", "the same machines, from which other devices may be given away")
@pytest.mark.parametrize("case", ["LVM on a partition", "a VLAN on the card", "root on SATA"])
def test_another_device_of_the_same_machine_may_go(tmp_path: Path, case: str) -> None:
    draw, _, uplink, _ = CASES[case]
    machine = Machine(tmp_path)
    draw(machine)
    assert machine.check(GPU, SOUND, uplink=uplink or "wlan0") == []
