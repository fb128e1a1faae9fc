"""Which PCI devices may be given away, on small machines drawn as sysfs trees."""

from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import pytest

from ai_how.host.checks import Check, Status
from ai_how.host.iommu import read_iommu
from ai_how.host.pci import check_passthrough, read_pci_devices

GPU, SOUND, NIC, NVME, PORT = (
    "0000:01:00.0",
    "0000:01:00.1",
    "0000:02:00.0",
    "0000:03:00.0",
    "0000:00:01.0",
)
CLASSES = {GPU: 0x030000, SOUND: 0x040300, NIC: 0x020000, NVME: 0x010802, PORT: 0x060400}
GROUPS = {PORT: 1, GPU: 1, SOUND: 1, NIC: 2, NVME: 3}


@dataclass(frozen=True)
class Asked:
    pci_address: str
    vendor_id: str | None = None
    device_id: str | None = None
    iommu_group: int | None = None


class Machine:
    """A GPU with its sound function behind a port, a network card and an NVMe disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for address, class_code in CLASSES.items():
            self.write(f"devices/{address}/vendor", "0x10de\n")
            self.write(f"devices/{address}/device", "0x2204\n")
            self.write(f"devices/{address}/class", f"0x{class_code:06x}\n")
            self.link(f"bus/pci/devices/{address}", f"devices/{address}")
            self.put_in_group(address, GROUPS[address])
        self.add_interface("eth0", f"devices/{NIC}/net/eth0")
        self.add_block("nvme0n1", f"devices/{NVME}/nvme/nvme0/nvme0n1", "259:0")
        self.add_block("nvme0n1p1", f"devices/{NVME}/nvme/nvme0/nvme0n1/nvme0n1p1", "259:1")

    def write(self, name: str, text: str) -> None:
        path = self.root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def link(self, name: str, target: str) -> None:
        path = self.root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.root / "sys" / target)

    def put_in_group(self, address: str, group: int) -> None:
        (self.root / f"sys/kernel/iommu_groups/{group}").mkdir(parents=True, exist_ok=True)
        self.link(f"devices/{address}/iommu_group", f"kernel/iommu_groups/{group}")

    def bind(self, address: str, driver: str, users: int | None = None) -> None:
        (self.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True)
        self.link(f"devices/{address}/driver", f"bus/pci/drivers/{driver}")
        if users is not None:
            self.write(f"module/{driver}/refcnt", f"{users}\n")
            self.link(f"bus/pci/drivers/{driver}/module", f"module/{driver}")

    def add_interface(self, name: str, place: str) -> None:
        (self.root / "sys" / place).mkdir(parents=True)
        self.link(f"class/net/{name}", place)

    def stack(self, lower: str, upper: str) -> None:
        """Puts a bridge, bond or VLAN upon an interface."""
        if not (self.root / f"sys/class/net/{upper}").exists():
            self.add_interface(upper, f"devices/virtual/net/{upper}")
        self.link(f"class/net/{lower}/upper_{upper}", f"devices/virtual/net/{upper}")

    def add_block(self, name: str, place: str, number: str) -> None:
        self.write(f"{place}/dev", f"{number}\n")
        self.link(f"class/block/{name}", place)

    def write_proc(self, name: str, text: str) -> None:
        path = self.root / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def check(self, *asked: str | Asked, uplink: str = "wlan0", force: bool = False) -> list[Check]:
        devices = [Asked(item) if isinstance(item, str) else item for item in asked]
        return check_passthrough(
            devices,
            read_pci_devices(self.root),
            uplinks=[uplink],
            iommu=read_iommu(self.root),
            force=force,
        )

    def refusals(self, *asked: str | Asked, uplink: str = "wlan0") -> list[str]:
        found = self.check(*asked, uplink=uplink)
        assert all(check.status is Status.FAILURE for check in found), found
        return [f"{check.name}: {check.found}" for check in found]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_whole_group_that_nobody_uses_may_be_given_away(machine: Machine) -> None:
    assert machine.check(GPU, SOUND) == []
    assert machine.check(NIC) == []
    assert machine.check(NVME) == []


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_the_bridge_of_a_group_need_not_be_listed_and_the_sound_function_must(
    machine: Machine,
) -> None:
    assert machine.refusals(GPU) == [f"pci {GPU}: IOMMU group 1 also has {SOUND}: list all or none"]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_a_bridge_whose_driver_does_more_than_bridging_blocks_its_group(machine: Machine) -> None:
    machine.bind(PORT, "lpc_ich")
    assert machine.refusals(GPU, SOUND) == [
        f"pci {device}: IOMMU group 1 also has {PORT}: list all or none" for device in (GPU, SOUND)
    ]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_a_bridge_is_not_given_away(machine: Machine) -> None:
    assert machine.refusals(PORT, GPU, SOUND) == [
        f"pci {PORT}: it is a bridge: name the devices behind it"
    ]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_a_device_that_is_not_there_is_named(machine: Machine) -> None:
    assert machine.refusals("0000:09:00.0") == ["pci 0000:09:00.0: there is no such device"]


def test_addresses_are_the_same_in_capitals(machine: Machine, tmp_path: Path) -> None:
    machine.write("devices/0000:0a:00.0/class", "0x020000")
    machine.link("bus/pci/devices/0000:0a:00.0", "devices/0000:0a:00.0")
    machine.put_in_group("0000:0a:00.0", 9)
    assert machine.check("0000:0A:00.0") == []


@pytest.mark.fault("S27", "machines drawn in sysfs")
@pytest.mark.parametrize("flag", ["1", "0"])
def test_the_boot_display_stays_with_the_host(machine: Machine, flag: str) -> None:
    machine.write(f"devices/{GPU}/boot_vga", f"{flag}\n")
    refused = [f"pci {GPU}: it is the display that the host booted with"]
    assert machine.refusals(GPU, SOUND) == (refused if flag == "1" else [])


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_the_card_of_the_default_route_stays_with_the_host(machine: Machine) -> None:
    assert machine.refusals(NIC, uplink="eth0") == [
        f"pci {NIC}: the host's default route uses eth0"
    ]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_a_card_under_the_bridge_of_the_default_route_stays_too(machine: Machine) -> None:
    machine.stack("eth0", "bond0")
    machine.stack("bond0", "br0")
    assert machine.refusals(NIC, uplink="br0") == [f"pci {NIC}: the host's default route uses br0"]


MOUNT = "36 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
BTRFS = "36 1 0:31 /@ / rw,relatime shared:1 - btrfs /dev/nvme0n1p1 rw\n"
OTHER = "36 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\nrubbish\n"


@pytest.mark.fault("S27", "machines drawn in sysfs")
@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        (MOUNT, [f"pci {NVME}: the host uses nvme0n1p1 (mounted on /)"]),
        (BTRFS, [f"pci {NVME}: the host uses nvme0n1p1 (mounted on /)"]),
        (OTHER, []),
    ],
)
def test_a_disk_with_a_mounted_partition_stays_with_the_host(
    machine: Machine, mounts: str, found: list[str]
) -> None:
    machine.write_proc("self/mountinfo", mounts)
    assert machine.refusals(NVME) == found


@pytest.mark.fault("S27", "machines drawn in sysfs")
@pytest.mark.parametrize(
    ("mount", "found"),
    [
        ("36 1 259:3 / /srv rw - ext4 /dev/nvme3n1p2 rw\n", "nvme3n1p2 (mounted on /srv)"),
        ("36 1 259:2 / /srv rw - ext4 /dev/nvme3n1 rw\n", "nvme3n1 (mounted on /srv)"),
        ("36 1 259:5 / /srv rw - ext4 /dev/nvme4n1 rw\n", None),
    ],
    ids=["a partition", "all of it", "another disk"],
)
def test_a_disk_behind_nvme_multipath_stays_with_the_host(
    machine: Machine, mount: str, found: str | None
) -> None:
    """As emulated_host.py's is: what is mounted is not below the device."""
    for name in ("nvme0n1p1", "nvme0n1"):
        (machine.root / "sys/class/block" / name).unlink()
    machine.link("class/block/nvme3c0n1", f"devices/{NVME}/nvme/nvme0/nvme3c0n1")
    (machine.root / f"sys/devices/{NVME}/nvme/nvme0/nvme3c0n1").mkdir()
    for name, number in (
        ("nvme3n1", "259:2"),
        ("nvme3n1/nvme3n1p2", "259:3"),
        ("nvme4n1", "259:5"),
    ):
        place = f"devices/virtual/nvme-subsystem/nvme-subsys{name[4]}/{name}"
        machine.add_block(Path(name).name, place, number)
    machine.write_proc("self/mountinfo", mount)
    assert machine.refusals(NVME) == ([f"pci {NVME}: the host uses {found}"] if found else [])


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_a_disk_with_swap_stays_with_the_host(machine: Machine) -> None:
    machine.write_proc("swaps", "Filename Type Size\n/dev/nvme0n1p1 partition 1 0 -2\n")
    assert machine.refusals(NVME) == [f"pci {NVME}: the host uses nvme0n1p1 (swap)"]


@pytest.mark.fault("S27", "machines drawn in sysfs")
@pytest.mark.parametrize("holder", ["dm-0", "md127"])
def test_a_disk_of_lvm_or_md_stays_with_the_host(machine: Machine, holder: str) -> None:
    place = f"devices/{NVME}/nvme/nvme0/nvme0n1/holders/{holder}"
    (machine.root / "sys" / place).mkdir(parents=True)
    assert machine.refusals(NVME) == [f"pci {NVME}: the host uses nvme0n1 (held by {holder})"]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_without_an_iommu_nothing_can_be_given_away(machine: Machine) -> None:
    (machine.root / f"sys/devices/{NIC}/iommu_group").unlink()
    [check] = machine.check(NIC)
    assert check.found == "it is in no IOMMU group, though other devices are"
    machine.write_proc("cpuinfo", "vendor_id : GenuineIntel\n")
    rmtree(machine.root / "sys/kernel/iommu_groups")
    (machine.root / "sys/kernel/iommu_groups").mkdir()
    [check] = machine.check(NIC)
    assert check.found == "the IOMMU is off"
    assert check.advice is not None
    assert "intel_iommu=on" in check.advice


@pytest.mark.fault("S27", "machines drawn in sysfs")
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Asked(NIC, vendor_id="10de", device_id="2204", iommu_group=2), []),
        (Asked(NIC, vendor_id="8086"), ["its vendor id is 10de, not 8086"]),
        (Asked(NIC, device_id="1521"), ["its device id is 2204, not 1521"]),
        (Asked(NIC, iommu_group=7), ["its IOMMU group is 2, not 7"]),
    ],
)
def test_a_device_that_moved_to_another_slot_is_not_taken_for_it(
    machine: Machine, asked: Asked, found: list[str]
) -> None:
    assert machine.refusals(asked) == [f"pci {NIC}: {text}" for text in found]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_a_driver_in_use_is_refused_unless_forced(machine: Machine) -> None:
    machine.bind(NIC, "igb", users=2)
    [check] = machine.check(NIC)
    assert (check.status, check.found) == (Status.FAILURE, "its driver igb is in use")
    [check] = machine.check(NIC, force=True)
    assert check.status is Status.WARNING


@pytest.mark.parametrize("users", [0, None])
def test_a_driver_that_is_only_bound_is_a_warning(machine: Machine, users: int | None) -> None:
    machine.bind(NIC, "igb", users=users)
    [check] = machine.check(NIC)
    assert check == Check(
        f"pci {NIC}",
        Status.WARNING,
        "it is detached from its driver igb while the VM runs",
        "sudo virsh nodedev-detach pci_0000_02_00_0",
    )


def test_vfio_is_what_a_device_should_be_bound_to(machine: Machine) -> None:
    machine.bind(NIC, "vfio-pci", users=3)
    assert machine.check(NIC) == []


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_force_does_not_give_away_what_the_host_lives_on(machine: Machine) -> None:
    machine.write_proc("self/mountinfo", MOUNT)
    assert [check.status for check in machine.check(NVME, force=True)] == [Status.FAILURE]


@pytest.mark.fault("S27", "machines drawn in sysfs")
def test_every_reason_is_given_at_once(machine: Machine) -> None:
    machine.write(f"devices/{GPU}/boot_vga", "1\n")
    assert len(machine.refusals(Asked(GPU, vendor_id="8086"), NIC, uplink="eth0")) == 4


def test_a_world_without_pci_has_no_devices(tmp_path: Path) -> None:
    assert read_pci_devices(tmp_path / "nothing") == {}


def test_this_machine_can_be_read() -> None:
    for address, device in read_pci_devices().items():
        assert device.address == address
