"""What is read of each card, on hosts drawn in sysfs and /proc."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ai_how.errors import HostError, SpecError
from ai_how.gpu.inventory import Machine, get_gpu, read_address, read_machine
from ai_how.gpu.models import (
    Bar,
    Function,
    FunctionKind,
    Gpu,
    Link,
    MdevType,
    Sriov,
    VgpuType,
    VgpuWay,
    VirtualFunction,
)
from ai_how.host.pci import DEVICES
from gpu_host import (
    A40,
    AMD,
    GEFORCE,
    H100,
    INTEL,
    L40S,
    NETWORK,
    NIC,
    NVIDIA,
    PORT,
    RADEON,
    RADEON_SOUND,
    SOUND,
    T4,
    THREE_D,
    UHD,
    VGA,
    GpuHost,
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """Without nvidia-smi, whatever this machine has."""
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    return GpuHost(tmp_path)


def only(host: GpuHost) -> Gpu:
    [gpu] = read_machine(host.root).gpus
    return gpu


def test_a_card_is_one_thing_with_all_functions_of_its_slot(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia", module_users=4)
    gpu = only(host)
    assert (gpu.address, gpu.vendor, gpu.name, gpu.chip) == (
        *(GEFORCE, "NVIDIA"),
        *("NVIDIA GeForce RTX 4090", "AD102"),
    )
    sound_name = "NVIDIA AD102 High Definition Audio Controller"
    assert gpu.functions == (
        Function(GEFORCE, FunctionKind.VGA, gpu.name, "10de", "2684", "nvidia", 12),
        Function(SOUND, FunctionKind.AUDIO, sound_name, "10de", "22ba", "snd_hda_intel", 12),
    )
    assert (gpu.iommu_group, gpu.driver, gpu.module_users) == (12, "nvidia", 4)
    assert gpu.unknown == ()


def test_usb_functions_of_a_card_are_known_by_their_class(host: GpuHost) -> None:
    host.add_geforce()
    host.add("0000:65:00.2", (NVIDIA, 0x1AD8), 0x0C0330, group=12)
    host.add("0000:65:00.3", (NVIDIA, 0x1AD9), 0x0C8000, group=12)
    assert [one.kind.value for one in only(host).functions] == ["VGA", "audio", "USB", "UCSI"]


def test_what_else_is_in_the_slot_of_a_processor_is_no_part_of_its_gpu(host: GpuHost) -> None:
    """An APU: to give its USB controllers away with it could take the keyboard."""
    apu = "0000:0e:00"
    host.add(f"{apu}.0", (AMD, 0x164E), VGA, group=20, driver="amdgpu")
    host.add(f"{apu}.1", (AMD, 0x1640), 0x040300, group=21)
    host.add(f"{apu}.2", (0x1022, 0x1649), 0x108000, group=22, driver="ccp")
    host.add(f"{apu}.3", (0x1022, 0x15B6), 0x0C0330, group=23, driver="xhci_hcd")
    assert [one.address for one in only(host).functions] == [f"{apu}.0", f"{apu}.1"]
    assert only(host).neighbours == ()


def test_who_shares_the_group_is_listed_and_bridges_are_told_apart(host: GpuHost) -> None:
    host.add_geforce()
    host.add(NIC, (INTEL, 0x1533), NETWORK, group=12, driver="igb")
    host.add("0000:00:1f.0", (INTEL, 0x1111), NETWORK, group=13)
    assert [(one.address, one.kind.value, one.blocks_group) for one in only(host).neighbours] == [
        (PORT, "bridge", False),
        (NIC, "other", True),
    ]
    host.bind(PORT, "some-driver")
    assert only(host).neighbours[0].blocks_group


def test_memory_regions_and_link_are_those_of_the_card(host: GpuHost) -> None:
    host.add_geforce()
    gpu = only(host)
    assert gpu.bars == (
        Bar(0, 16 << 20, is_prefetchable=False),
        Bar(1, 32 << 30, is_prefetchable=True),
        Bar(3, 32 << 20, is_prefetchable=True),
    )
    assert gpu.link == Link(2.5, 16, 16.0, 16)


@pytest.mark.parametrize(("speed", "width"), [("Unknown", "63"), ("Unknown speed", "0"), ("", "")])
def test_a_link_that_is_down_has_neither_speed_nor_width(
    host: GpuHost, speed: str, width: str
) -> None:
    host.add_geforce()
    host.set(GEFORCE, current_link_speed=speed, current_link_width=width)
    assert only(host).link == Link(None, None, 16.0, 16)


def test_each_card_has_its_numa_node(host: GpuHost) -> None:
    host.add_geforce()
    host.add_t4()
    host.add_radeon()
    host.set(T4, numa_node="0")
    assert {gpu.address: gpu.numa_node for gpu in read_machine(host.root).gpus} == {
        RADEON: None,  # -1: a machine with one node
        T4: 0,
        GEFORCE: 1,
    }


def test_the_display_in_a_processor_is_the_boot_display(host: GpuHost) -> None:
    host.add_uhd()
    host.add_geforce()
    uhd, geforce = read_machine(host.root).gpus
    assert (uhd.vendor, uhd.name) == ("Intel", "Intel AlderLake-S GT1")
    assert (uhd.is_boot_display, uhd.monitors) == (True, ("DP-1",))
    assert (geforce.is_boot_display, geforce.monitors) == (False, ())


def test_amds_driver_tells_the_memory(host: GpuHost) -> None:
    host.add_radeon()
    gpu = only(host)
    assert (gpu.vendor, gpu.memory_mib) == ("AMD", 24 * 1024)
    assert [one.address for one in gpu.functions] == [RADEON, RADEON_SOUND]
    assert (gpu.can_mig, gpu.vgpu_way) == (False, None)


def test_the_first_generation_has_its_types_on_the_card(host: GpuHost) -> None:
    host.add_t4(15, "4b20d080-1b54-4048-85b3-a6a62d165c01")
    gpu = only(host)
    about = "num_heads=4, framebuffer=2048M"
    assert gpu.mdev_types == (
        MdevType("nvidia-222", "GRID T4-1B", about, 15, ("4b20d080-1b54-4048-85b3-a6a62d165c01",)),
        MdevType("nvidia-230", "GRID T4-1Q", about, 15, ()),
    )
    assert gpu.sriov == Sriov(0, ())
    assert gpu.vgpu_way is VgpuWay.MDEV


def test_the_second_generation_has_its_types_on_vfs(host: GpuHost) -> None:
    host.add_a40(vfs=2)
    gpu = only(host)
    kind = MdevType("nvidia-557", "NVIDIA A40-1B", "num_heads=4, framebuffer=2048M", 1, ())
    assert gpu.sriov == Sriov(
        32,
        (
            VirtualFunction("0000:3b:00.4", "nvidia", 40, (kind,), None, None),
            VirtualFunction("0000:3b:00.5", "nvidia", 41, (kind,), None, None),
        ),
    )
    assert [one.address for one in gpu.functions] == [A40], "a VF is no function to pass along"
    assert gpu.vgpu_way is VgpuWay.MDEV_ON_VF


def test_the_third_generation_has_types_to_set_and_no_mdev(host: GpuHost) -> None:
    host.add_l40s()
    host.set("0000:5e:00.5", nvidia__current_vgpu_type="1148")
    host.set("0000:5e:00.5", nvidia__creatable_vgpu_types="ID    : vGPU Name")
    gpu = only(host)
    first, second = gpu.sriov.vfs
    assert first.creatable_types == (
        VgpuType(1147, "NVIDIA L40S-1Q"),
        VgpuType(1148, "NVIDIA L40S-2Q"),
    )
    assert (first.current_type, second.current_type) == (0, 1148)
    assert second.creatable_types == ()
    assert gpu.vgpu_way is VgpuWay.VF_TYPE
    assert read_machine(host.root).kernel == (6, 12)


def test_ten_vfs_are_in_the_order_of_their_numbers(host: GpuHost) -> None:
    host.add(L40S, (NVIDIA, 0x26B9), THREE_D)
    for number in range(12):
        host.add_vf(L40S, f"0000:5e:0{1 + number // 8}.{number % 8}", number)
    addresses = [vf.address for vf in only(host).sriov.vfs]
    assert addresses == sorted(addresses)
    assert len(addresses) == 12


def test_accelerators_and_cards_of_any_vendor_are_listed(host: GpuHost) -> None:
    host.add(H100, (NVIDIA, 0x2330), THREE_D)
    host.add("0000:b0:00.0", (AMD, 0x9999), 0x120000)
    host.add("0000:02:00.0", (0x1A03, 0x2000), VGA)
    host.add(NIC, (INTEL, 0x1533), NETWORK)
    assert [(gpu.kind.value, gpu.name) for gpu in read_machine(host.root).gpus] == [
        ("VGA", "vendor 1a03 2000"),
        ("3D", "NVIDIA H100 SXM5 80GB"),
        ("accelerator", "AMD 9999"),
    ]


@pytest.mark.parametrize("place", ["usr/share/hwdata/pci.ids", None])
def test_without_debians_names_another_place_or_numbers_are_used(
    host: GpuHost, place: str | None
) -> None:
    host.add_geforce()
    ours = host.root / "usr/share/misc/pci.ids"
    if place:
        host.write(place, ours.read_text())
    ours.unlink()
    gpu, machine = only(host), read_machine(host.root)
    expected = ("NVIDIA GeForce RTX 4090", "AD102") if place else ("NVIDIA 2684", None)
    assert (gpu.name, gpu.chip) == expected
    assert machine.has_names is (place is not None)
    assert gpu.can_mig is (False if place else None), "a model without a name may have MIG"


def test_nvidias_driver_knows_the_name_that_pci_ids_has_not(host: GpuHost) -> None:
    host.add("0000:01:00.0", (NVIDIA, 0x2B85), VGA, driver="nvidia")
    text = "Model: \t\t NVIDIA GeForce RTX 5090\nIRQ:   \t\t 100\nDevice Minor: \t 0\n"
    host.write("proc/driver/nvidia/gpus/0000:01:00.0/information", text)
    assert only(host).name == "NVIDIA GeForce RTX 5090"
    assert only(host).is_geforce


HIDDEN: dict[str, tuple[str, Callable[[Gpu], object]]] = {
    "boot_vga": ("boot_vga", lambda gpu: gpu.is_boot_display),
    "resource": ("resource", lambda gpu: gpu.bars or None),
    "numa_node": ("numa_node", lambda gpu: gpu.numa_node),
    "sriov_totalvfs": ("sriov_totalvfs", lambda gpu: gpu.sriov.total_vfs),
    "current_link_speed": ("current_link_speed", lambda gpu: gpu.link.speed_gt_s),
    "mdev_supported_types": ("mdev_supported_types", lambda gpu: gpu.mdev_types or None),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_cannot_be_read_is_unknown_and_named(host: GpuHost, name: str) -> None:
    host.add_geforce()
    host.hide(host.root / DEVICES / GEFORCE / name)
    file, asked = HIDDEN[name]
    gpu = only(host)
    assert asked(gpu) is None
    assert gpu.unknown == (file,)


def test_a_group_or_driver_that_is_no_link_is_unknown(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia")
    for name in ("iommu_group", "driver"):
        link = host.device(GEFORCE) / name
        link.unlink()
        link.write_text("")
    gpu = only(host)
    assert (gpu.iommu_group, gpu.driver) == (None, None)
    assert gpu.unknown == ("driver", "iommu_group")


def test_rubbish_in_the_files_is_nothing(host: GpuHost) -> None:
    host.add_geforce()
    host.set(GEFORCE, resource="x y z\n1 2", numa_node="many", sriov_totalvfs="?")
    gpu = only(host)
    assert (gpu.bars, gpu.numa_node, gpu.sriov.total_vfs) == ((), None, None)


@pytest.mark.parametrize("asked", [GEFORCE, "65:00.0", "65:00", " 0000:65:00.0 ", SOUND])
def test_a_card_is_found_by_any_of_its_addresses(host: GpuHost, asked: str) -> None:
    host.add_geforce()
    host.add_radeon()
    assert get_gpu(read_machine(host.root).gpus, asked).address == GEFORCE


def test_a_card_is_found_in_capitals_and_by_a_vf(host: GpuHost) -> None:
    host.add_l40s()
    gpus = read_machine(host.root).gpus
    assert get_gpu(gpus, "5E:00.0").address == L40S
    assert get_gpu(gpus, "5e:00.4").address == L40S


@pytest.mark.parametrize("asked", ["0000:99:00.0", "0000:64:00.0", "0001:65:00.0"])
def test_a_device_that_is_no_gpu_is_refused_by_name(host: GpuHost, asked: str) -> None:
    host.add_geforce()
    with pytest.raises(HostError) as caught:
        get_gpu(read_machine(host.root).gpus, asked)
    assert str(caught.value) == f"there is no GPU at {asked}"
    assert caught.value.hint == "ai-how gpu list"


@pytest.mark.parametrize("asked", ["", "gpu0", "65", "65:00.8", "65:20.0", "65:00.0.1", "G5:00"])
def test_what_is_no_address_is_refused(asked: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_address(asked)
    assert str(caught.value) == f"{asked} is no PCI address\nan address is such as 0000:65:00.0"
    assert caught.value.hint == "ai-how gpu list"


def test_a_host_without_gpus_or_sysfs_has_none(host: GpuHost, tmp_path: Path) -> None:
    host.add(NIC, (INTEL, 0x1533), NETWORK)
    assert read_machine(host.root).gpus == ()
    machine = read_machine(tmp_path / "nothing")
    assert isinstance(machine, Machine)
    assert (machine.gpus, machine.iommu.is_on, machine.kernel) == ((), None, None)


def test_reading_changes_nothing(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia")
    host.add_l40s()
    host.add_uhd()

    def everything() -> list[tuple[str, int, int]]:
        seen = ((path, path.lstat()) for path in sorted(host.root.rglob("*")))
        return [(str(path), stat.st_mtime_ns, stat.st_size) for path, stat in seen]

    before = everything()
    read_machine(host.root)
    assert everything() == before


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert {gpu.address for gpu in machine.gpus} <= set(machine.devices)
    assert UHD not in machine.devices or machine.kernel
