"""What each card can give to a VM, what stands in the way, and the command that helps."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.preflight.devices import check_devices
from ai_how.gpu.abilities import Ability, Answer, Hurdle, What, abilities_of
from ai_how.gpu.inventory import get_gpu, read_machine
from ai_how.host.checks import Status
from ai_how.host.facts import read_facts
from ai_how.host.pci import Reason
from ai_how.process import run
from ai_how.spec.nodes import nodes_of
from cluster_bench import read_hpc
from gpu_host import (
    A40,
    AMD_CPU,
    GEFORCE,
    H100,
    INTEL,
    L40S,
    NETWORK,
    NIC,
    NVIDIA,
    RADEON,
    SOUND,
    T4,
    THREE_D,
    UHD,
    VGA,
    GpuHost,
)

UUID = "4b20d080-1b54-4048-85b3-a6a62d165c01"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    return GpuHost(tmp_path)


def ability(host: GpuHost, address: str, what: What) -> Ability:
    machine = read_machine(host.root)
    found = {one.what: one for one in abilities_of(get_gpu(machine.gpus, address), machine)}
    return found[what]


def whole(host: GpuHost, address: str = GEFORCE) -> Ability:
    return ability(host, address, What.WHOLE)


def vgpu(host: GpuHost, address: str) -> Ability:
    return ability(host, address, What.VGPU)


def hurdle(found: Ability, answer: Answer = Answer.NOT_NOW) -> tuple[str, str | None]:
    assert found.answer is answer, found
    [one] = found.hurdles
    return one.text, one.advice


# Whole


def test_a_card_that_nobody_uses_is_passed_with_all_its_functions(host: GpuHost) -> None:
    host.add_geforce()
    assert whole(host) == Ability(What.WHOLE, Answer.YES, "2 functions: VGA, audio")
    host.bind(GEFORCE, "nvidia")
    host.bind(SOUND, "snd_hda_intel")
    host.add_radeon()
    detached = "2 functions: VGA, audio; detached from {} and snd_hda_intel while the VM runs"
    assert whole(host) == Ability(What.WHOLE, Answer.YES, detached.format("nvidia"))
    assert whole(host, RADEON) == Ability(What.WHOLE, Answer.YES, detached.format("amdgpu"))


def test_without_an_iommu_no_card_is_passed_and_it_is_said_once(host: GpuHost) -> None:
    host.add_geforce()
    host.switch_iommu_off()
    text, advice = hurdle(whole(host))
    assert text == "the IOMMU is off"
    assert advice is not None
    assert "intel_iommu=on iommu=pt" in advice
    assert "update-grub" in advice


@pytest.mark.parametrize(
    ("cpu", "text"), [("", "VT-d is off in the firmware"), (AMD_CPU, "IOMMU (AMD-Vi) is off in")]
)
def test_a_firmware_that_hides_the_iommu_is_named(host: GpuHost, cpu: str, text: str) -> None:
    host.add_geforce()
    host.switch_iommu_off()
    (host.root / "sys/firmware/acpi/tables/DMAR").rename(host.root / "FACP")
    host.write("sys/firmware/acpi/tables/FACP", "")
    if cpu:
        host.write("proc/cpuinfo", cpu)
    assert text in hurdle(whole(host))[0]


def test_a_card_without_a_group_on_a_host_with_groups_is_told_apart(host: GpuHost) -> None:
    """Debian's kernel leaves the GPU of an Intel processor out, unless it is asked."""
    host.add_geforce()
    host.add(UHD, (INTEL, 0x4680), VGA)
    text, advice = hurdle(whole(host, UHD))
    assert text == "it is in no IOMMU group, though other devices are"
    assert advice is not None
    assert "intel_iommu=on" in advice


@pytest.mark.fault("S27", "GPUs drawn in sysfs, as gpu explain sees them")
def test_a_group_that_is_shared_names_who_shares_it(host: GpuHost) -> None:
    host.add_geforce()
    host.add(NIC, (INTEL, 0x1533), NETWORK, group=12, driver="igb")
    found = whole(host)
    text, advice = hurdle(found)
    assert text == (
        f"its IOMMU group also has {NIC} (Intel I210 Gigabit Network Connection): another slot, "
        "or ACS in the firmware, separates them"
    )
    assert advice == "ls /sys/kernel/iommu_groups/12/devices"
    assert found.hurdles[0].is_defect


def test_each_function_has_its_own_group_and_the_shared_one_is_named(host: GpuHost) -> None:
    host.add_radeon()
    host.add(NIC, (INTEL, 0x1533), NETWORK, group=21)
    text, advice = hurdle(whole(host, RADEON))
    assert text.startswith(f"its IOMMU group also has {NIC} (Intel I210")
    assert advice == "ls /sys/kernel/iommu_groups/21/devices"


@pytest.mark.fault("S27", "GPUs drawn in sysfs, as gpu explain sees them")
def test_the_boot_display_stays_with_the_host(host: GpuHost) -> None:
    host.add_uhd()
    host.add_process(812, "Xorg", "/dev/dri/card0")
    assert hurdle(whole(host, UHD)) == (
        "it is the display that the host booted with",
        "choose another card as the primary display in the firmware's set-up",
    )


def test_whoever_has_the_card_open_is_named_with_what_ends_it(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia", module_users=40)
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    (host.device(SOUND) / "sound/card1").mkdir(parents=True)
    container = f"/system.slice/docker-{'ab' * 32}.scope"
    host.add_process(700, "wireplumber", "/dev/snd/controlC1")
    host.add_process(812, "Xorg", "/dev/nvidia0")
    service = "/system.slice/nvidia-persistenced.service"
    host.add_process(900, "nvidia-persiste", "/dev/nvidia0", cgroup=service)
    host.add_process(901, "systemd-logind", "/dev/nvidia0", cgroup="/system.slice/x.service")
    own = "/user.slice/user-1000.slice/user@1000.service/app.slice/sunshine.service"
    host.add_process(902, "sunshine", "/dev/nvidia0", cgroup=own)
    host.add_process(950, "python3", "/dev/nvidia0", cgroup=container)
    host.add_process(951, "python3", "/dev/nvidia0", cgroup=container)
    host.add_process(960, "blender", "/dev/nvidia0")
    pairs = [(one.text, one.advice) for one in whole(host).hurdles]
    assert pairs[:-1] == [
        (
            "wireplumber (pid 700, sound server) has /dev/snd/controlC1 open",
            "systemctl --user stop wireplumber",
        ),
        (
            "Xorg (pid 812, display server) has /dev/nvidia0 open",
            "sudo systemctl stop display-manager",
        ),
        (
            "nvidia-persiste (pid 900, persistence daemon) has /dev/nvidia0 open",
            "sudo systemctl stop nvidia-persistenced.service",
        ),
        (
            "systemd-logind (pid 901, login manager) has /dev/nvidia0 open",
            "sudo systemctl stop display-manager",
        ),
        (
            "sunshine (pid 902) has /dev/nvidia0 open",
            "systemctl --user stop sunshine.service",
        ),
        (
            "python3 (pid 950) in docker abababababab has /dev/nvidia0 open",
            "sudo docker stop abababababab",
        ),
        ("blender (pid 960) has /dev/nvidia0 open", "sudo kill 960"),
    ]
    assert pairs[-1][0] == "its driver nvidia is in use: give the card to vfio-pci at boot"


def test_what_gives_the_card_to_vfio_at_boot_writes_its_file(host: GpuHost) -> None:
    """What is pasted is run, but for sudo and the initramfs."""
    host.add_geforce(driver="nvidia", module_users=40)
    host.add("0000:65:00.3", (NVIDIA, 0x1AD9), 0x0C8000, group=12, driver="nvidia-gpu")
    link = host.root / "sys/bus/pci/drivers/nvidia-gpu/module"
    link.unlink()
    link.symlink_to(host.root / "sys/module/i2c_nvidia_gpu")
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    host.add_process(960, "blender", "/dev/nvidia0")
    advice = whole(host).hurdles[-1].advice
    assert advice is not None
    command, _, rest = advice.partition(" && ")
    assert rest == "sudo update-initramfs -u  # then reboot"
    file = host.root / "vfio-gpu.conf"
    command = command.replace("sudo ", "").replace("/etc/modprobe.d/vfio-gpu.conf", str(file))
    run(["sh", "-c", command])
    assert file.read_text().splitlines() == [
        "options vfio-pci ids=10de:2684,10de:22ba,10de:1ad9",
        "softdep nvidia pre: vfio-pci",
        "softdep snd_hda_intel pre: vfio-pci",
        "softdep i2c_nvidia_gpu pre: vfio-pci",
    ]
    (host.root / "usr/sbin/update-initramfs").unlink()
    advice = whole(host).hurdles[-1].advice
    assert advice is not None
    assert advice.endswith(" && sudo dracut --force  # then reboot")


def test_of_two_equal_cards_one_is_given_by_its_address(host: GpuHost) -> None:
    """By the ids both would go."""
    host.add_geforce(driver="nvidia", module_users=40)
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    host.add("0000:17:00.0", (NVIDIA, 0x2684), VGA, group=30, driver="nvidia")
    host.add_process(960, "blender", "/dev/nvidia0")
    advice = whole(host).hurdles[-1].advice
    files = f"/etc/driverctl.d/pci-{GEFORCE} /etc/driverctl.d/pci-{SOUND}"
    assert advice == (
        f"sudo apt-get install driverctl && echo vfio-pci | sudo tee {files}  # then reboot"
    )


def test_the_use_of_one_card_leaves_another_of_the_same_driver_free(host: GpuHost) -> None:
    """The kernel counts the users of the driver, not of a card."""
    host.add_geforce(driver="nvidia", module_users=40)
    host.add("0000:17:00.0", (NVIDIA, 0x2684), VGA, group=30, driver="nvidia")
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    host.write("proc/driver/nvidia/gpus/0000:17:00.0/information", "Device Minor: \t 1\n")
    host.add_process(960, "blender", "/dev/nvidia1", "/dev/nvidiactl")
    assert whole(host).answer is Answer.YES
    assert whole(host, "0000:17:00.0").hurdles[0].text == (
        "blender (pid 960) has /dev/nvidia1 open"
    )


def test_the_driver_of_a_usb_port_is_counted_as_ever(host: GpuHost) -> None:
    """What uses it has no device node of the card open."""
    host.add_geforce(driver="nvidia", module_users=40)
    port = "0000:65:00.2"
    host.add(port, (NVIDIA, 0x1AD8), 0x0C0330, group=12, driver="xhci_hcd", module_users=1)
    assert whole(host).answer is Answer.NOT_NOW
    assert "its driver nvidia and xhci_hcd is in use" in whole(host).hurdles[0].text
    host.write("sys/module/xhci_hcd/refcnt", "0\n")
    assert whole(host).answer is Answer.YES


def test_a_card_that_may_have_the_kernels_console_is_told(host: GpuHost) -> None:
    host.add_geforce(driver="nouveau", module_users=1)
    (host.device(GEFORCE) / "graphics/fb0").mkdir(parents=True)
    host.write("sys/class/vtconsole/vtcon0/name", "(S) dummy device\n")
    host.write("sys/class/vtconsole/vtcon0/bind", "1\n")
    host.write("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n")
    host.write("sys/class/vtconsole/vtcon1/bind", "1\n")
    assert whole(host).answer is Answer.NOT_NOW
    assert whole(host).hurdles[-1] == Hurdle(
        "the kernel's console vtcon1 may be on it",
        "echo 0 | sudo tee /sys/class/vtconsole/vtcon1/bind",
    )
    host.write("sys/class/vtconsole/vtcon1/bind", "0\n")
    assert whole(host).answer is Answer.YES


def test_what_an_ordinary_user_cannot_see_is_said(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia", module_users=40)
    hide_a_process(host)
    assert [one.text for one in whole(host).hurdles] == [
        "its driver nvidia is in use: give the card to vfio-pci at boot",
        "processes of other users may have it open: they cannot be seen",
    ]
    assert whole(host).hurdles[-1].advice == f"sudo ai-how gpu explain {GEFORCE}"


def test_a_card_in_a_running_vm_is_not_free(host: GpuHost) -> None:
    host.add_geforce(driver="vfio-pci")
    assert whole(host).answer is Answer.YES
    host.add_process(2000, "qemu-system-x86", "/dev/vfio/12")
    assert hurdle(whole(host)) == (
        "qemu-system-x86 (pid 2000, VM) has /dev/vfio/12 open",
        "sudo virsh list",
    )


def test_a_card_that_is_divided_is_not_passed_whole(host: GpuHost) -> None:
    host.add_l40s()
    assert hurdle(whole(host, L40S)) == (
        "it is divided into 2 VFs",
        f"sudo /usr/lib/nvidia/sriov-manage -d {L40S}",
    )
    host.add_t4(15, UUID)
    assert hurdle(whole(host, T4)) == (
        f"the mediated device {UUID} is on it",
        f"sudo mdevctl stop --uuid {UUID}",
    )


@pytest.mark.parametrize("name", ["boot_vga", "iommu_group"])
def test_what_is_not_readable_is_unknown_and_no_yes(host: GpuHost, name: str) -> None:
    host.add_geforce()
    link = host.device(GEFORCE) / name
    link.unlink()
    if name == "iommu_group":
        link.write_text("")
    else:
        host.hide(link)
    assert hurdle(whole(host), Answer.UNKNOWN) == (f"not readable: {name}", None)


@pytest.mark.parametrize(
    ("destination", "mask"), [("00000000", "00000000"), ("00000080", "00000080")]
)
def test_a_card_with_the_default_route_behind_it_stays(
    host: GpuHost, destination: str, mask: str
) -> None:
    """A network adapter at the USB port of a card; a VPN has the default route in two halves."""
    host.add_geforce()
    host.add("0000:65:00.2", (NVIDIA, 0x1AD8), 0x0C0330, group=12)
    (host.device("0000:65:00.2") / "usb1/net/eth9").mkdir(parents=True)
    (host.root / "sys/class/net").mkdir(parents=True)
    (host.root / "sys/class/net/eth9").symlink_to(host.device("0000:65:00.2") / "usb1/net/eth9")
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n"
    row = f"eth9\t{destination}\t0102A8C0\t0003\t0\t0\t0\t{mask}\t0\t0\t0\n"
    host.write("proc/net/route", f"{head}damaged\n{row}")
    assert hurdle(whole(host)) == (
        "0000:65:00.2: the host's default route uses eth9",
        "ip route",
    )


def hide_a_process(host: GpuHost) -> None:
    host.add_process(700, "sleep")
    descriptors = host.root / "proc/700/fd"
    descriptors.rename(host.root / "gone")
    host.hide(descriptors)


def open_by(host: GpuHost, node: str) -> None:
    host.bind(GEFORCE, "nvidia", 3)
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    (host.device(SOUND) / "sound/card1").mkdir(parents=True)
    host.add_process(812, "some", node)


def hidden(host: GpuHost) -> None:
    host.bind(GEFORCE, "nvidia", 3)
    hide_a_process(host)


STATES: dict[str, tuple[Callable[[GpuHost], object], bool]] = {
    "free": (lambda host: None, True),
    "bound": (lambda host: host.bind(GEFORCE, "nvidia"), True),
    "counted": (lambda host: host.bind(GEFORCE, "nvidia", 3), True),
    "counted, and users are hidden": (hidden, False),
    "not counted, and users are hidden": (hide_a_process, True),
    "open": (lambda host: open_by(host, "/dev/nvidia0"), False),
    "its sound is open": (lambda host: open_by(host, "/dev/snd/controlC1"), False),
    "another card is open": (lambda host: open_by(host, "/dev/nvidia1"), True),
    "open by a VM": (
        lambda host: (
            host.bind(GEFORCE, "vfio-pci"),
            host.add_process(2000, "qemu-system-x86", "/dev/vfio/12"),
        ),
        False,
    ),
    "boot display": (lambda host: host.set(GEFORCE, boot_vga="1"), False),
    "shared": (lambda host: host.add(NIC, (INTEL, 0x1533), NETWORK, group=12), False),
    "no IOMMU": (lambda host: host.switch_iommu_off(), False),
}


@pytest.mark.fault("S27", "one card in twelve states: gpu explain and a start agree")
@pytest.mark.parametrize("state", STATES)
def test_the_answer_is_that_of_a_start(host: GpuHost, state: str) -> None:
    host.add_geforce()
    change, is_free = STATES[state]
    change(host)
    facts = replace(read_facts(), routes=())
    nodes = nodes_of(read_hpc())
    functions = {"compute-01": (GEFORCE, SOUND)}
    checks = check_devices(nodes, functions, facts, machine=host.root)
    failures = {check.found for check in checks if check.status is Status.FAILURE}
    assert (failures == set()) is is_free
    assert (whole(host).answer is Answer.YES) is is_free
    if state.startswith(("open", "its sound", "boot", "no IOMMU")):  # in the same words
        assert failures <= {one.text for one in whole(host).hurdles}


def test_the_card_of_a_node_that_is_not_started_may_be_used(host: GpuHost) -> None:
    host.add_geforce(driver="vfio-pci")
    host.bind(SOUND, "vfio-pci")
    host.add_process(2000, "qemu-system-x86", "/dev/vfio/12")
    nodes, functions = nodes_of(read_hpc()), {"compute-01": (GEFORCE, SOUND)}
    facts = replace(read_facts(), routes=())
    assert check_devices(nodes, functions, facts, unstarted=["compute-01"], machine=host.root) == []
    [check] = check_devices(nodes, functions, facts, unstarted=["compute-02"], machine=host.root)
    assert check.found == "qemu-system-x86 (pid 2000, VM) has /dev/vfio/12 open"


# Parts


def test_each_generation_is_known_by_its_way(host: GpuHost) -> None:
    host.add_t4()
    host.add_a40()
    host.add_l40s()
    yes = {
        T4: "mdev: 2 types",
        A40: "mdev on 2 VFs",
        L40S: "by a type for one of 2 VFs; there is no mdev",
    }
    for address, how in yes.items():
        assert vgpu(host, address) == Ability(What.VGPU, Answer.YES, how)


def test_a_card_whose_instances_are_taken_offers_none_now(host: GpuHost) -> None:
    host.add_t4(0)
    host.add_a40(available=0)
    host.add_l40s()
    for vf in ("0000:5e:00.4", "0000:5e:00.5"):
        host.set(vf, nvidia__creatable_vgpu_types="ID    : vGPU Name")
    for address in (T4, A40, L40S):
        assert hurdle(vgpu(host, address)) == ("no instance of any type is free", None)


def test_a_geforce_has_no_vgpu_whatever_its_driver(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia")
    host.write("sys/module/nvidia_vgpu_vfio/refcnt", "0")
    host.set(GEFORCE, sriov_totalvfs="16")
    text, advice = hurdle(vgpu(host, GEFORCE), Answer.NO)
    assert "signed firmware has SR-IOV switched off: it can only be passed whole" in text
    assert advice is None


@pytest.mark.parametrize("driver", ["nouveau", "vfio-pci", None])
def test_a_host_without_nvidias_driver_is_told_what_it_takes(
    host: GpuHost, driver: str | None
) -> None:
    host.add(L40S, (NVIDIA, 0x26B9), THREE_D, group=50, driver=driver)
    host.set(L40S, sriov_totalvfs="32")
    text, _ = hurdle(vgpu(host, L40S))
    assert text == (
        f"it takes NVIDIA's licensed vGPU driver for hosts; its driver now is {driver or 'none'}"
    )


def test_nvidias_ordinary_driver_is_not_the_one_for_hosts(host: GpuHost) -> None:
    host.add(L40S, (NVIDIA, 0x26B9), THREE_D, group=50, driver="nvidia")
    expected = "the host's NVIDIA driver is not the licensed vGPU driver for hosts"
    assert hurdle(vgpu(host, L40S), Answer.UNKNOWN)[0] == expected
    host.set(L40S, sriov_totalvfs="32")
    assert hurdle(vgpu(host, L40S))[0] == expected


def test_vfs_that_are_not_made_have_their_command(host: GpuHost) -> None:
    host.add_l40s(vfs=0)
    assert hurdle(vgpu(host, L40S)) == (
        "its VFs are not made",
        f"sudo /usr/lib/nvidia/sriov-manage -e {L40S}",
    )


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        ("6.8.0-45-generic", "from Linux 6.8 on NVIDIA's driver has no mdev, and here it"),
        ("6.1.0-25-amd64", "the vGPU driver offers no types"),
        ("5.14.0-570.el9", "the vGPU driver offers no types"),
    ],
)
def test_vfs_without_types_are_explained_by_the_kernel(
    host: GpuHost, kernel: str, text: str
) -> None:
    host.add_l40s(vfs=0, kernel=kernel)
    host.add_vf(L40S, "0000:5e:00.4", 0, group=60)
    assert hurdle(vgpu(host, L40S))[0].startswith(text)


def test_cards_of_others_have_vfs_or_nothing(host: GpuHost) -> None:
    host.add_radeon()
    assert vgpu(host, RADEON) == Ability(
        What.VGPU, Answer.NO, "it has neither mdev types nor SR-IOV"
    )
    host.set(RADEON, sriov_totalvfs="8")
    assert hurdle(vgpu(host, RADEON)) == (
        "it has no VFs yet; it can have 8",
        f"echo 1 | sudo tee /sys/bus/pci/devices/{RADEON}/sriov_numvfs",
    )
    host.add_vf(RADEON, "0000:0b:02.0", 0, group=70)
    assert vgpu(host, RADEON) == Ability(What.VGPU, Answer.YES, "each of 1 VF is a device")


def test_types_that_cannot_be_read_are_unknown_and_no_no(host: GpuHost) -> None:
    host.add_radeon()
    host.hide(host.device(RADEON) / "mdev_supported_types")
    assert hurdle(vgpu(host, RADEON), Answer.UNKNOWN)[0] == "not readable: mdev_supported_types"


# MIG


def test_mig_is_for_the_guest_that_has_the_whole_card(host: GpuHost) -> None:
    host.add(H100, (NVIDIA, 0x2330), THREE_D, group=80)
    how = "in the guest that has the whole card"
    assert ability(host, H100, What.MIG) == Ability(What.MIG, Answer.YES, how)
    host.switch_iommu_off()
    assert ability(host, H100, What.MIG) == Ability(
        What.MIG, Answer.NOT_NOW, how, (Hurdle("it cannot be passed whole now"),)
    )


def test_other_cards_have_no_mig_and_one_without_a_name_is_open(host: GpuHost) -> None:
    host.add_geforce()
    host.add_radeon()
    host.add("0000:c1:00.0", (NVIDIA, 0x9999), THREE_D, group=90)
    assert ability(host, GEFORCE, What.MIG).answer is Answer.NO
    assert ability(host, RADEON, What.MIG).answer is Answer.NO
    assert ability(host, "c1:00.0", What.MIG).answer is Answer.UNKNOWN


def test_every_advice_is_a_command_for_a_shell(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia", module_users=40)
    host.add_l40s()
    host.add_uhd()
    host.add_radeon()
    unit = "/system.slice/a b;c.service"
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    host.add_process(812, "Xorg", "/dev/dri/card1", "/dev/nvidia0")
    host.add_process(813, "odd", "/dev/dri/renderD129", cgroup=unit)
    host.add(NIC, (INTEL, 0x1533), NETWORK, group=12)
    machine = read_machine(host.root)
    hurdles = [
        one for gpu in machine.gpus for each in abilities_of(gpu, machine) for one in each.hurdles
    ]
    commands = [
        one.advice for one in hurdles if one.advice and one.reason is not Reason.BOOT_DISPLAY
    ]
    assert len(commands) >= 5
    for command in commands:
        run(["sh", "-n", "-c", command])
        assert shlex.split(command, comments=True)
