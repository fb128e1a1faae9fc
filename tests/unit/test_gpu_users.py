"""Who has a card open, by the links in /proc."""

from pathlib import Path

import pytest

from ai_how.gpu.inventory import read_machine
from ai_how.gpu.models import Container, Gpu, Unit, User, UserKind
from ai_how.gpu.users import find_container, find_unit
from gpu_host import GEFORCE, L40S, RADEON, RADEON_SOUND, T4, GpuHost

ID = "0123456789ab" * 5 + "cdef"
SCOPE = f"/system.slice/docker-{ID}.scope"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    host = GpuHost(tmp_path)
    host.add_geforce(driver="nvidia")
    host.add_t4()
    host.add_radeon()
    for minor, address in enumerate((GEFORCE, T4)):
        text = f"Model: \t\t NVIDIA\nDevice Minor: \t {minor}\n"
        host.write(f"proc/driver/nvidia/gpus/{address}/information", text)
    (host.device(GEFORCE) / "drm/card0").mkdir(parents=True)
    return host


def gpu_at(host: GpuHost, address: str) -> Gpu:
    return next(gpu for gpu in read_machine(host.root).gpus if gpu.address == address)


def used(host: GpuHost, address: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.command, one.kind.value, one.nodes) for one in gpu_at(host, address).users]


def test_a_process_uses_the_cards_whose_nodes_it_has_open(host: GpuHost) -> None:
    host.add_process(812, "Xorg", "/dev/dri/card0", "/dev/nvidia0", "/dev/nvidiactl", "/dev/tty7")
    host.add_process(950, "python3", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm")
    host.add_process(951, "bash", "/dev/pts/1", "/dev/nvidia1 (deleted)")
    assert used(host, GEFORCE) == [("Xorg", "display server", ("/dev/dri/card0", "/dev/nvidia0"))]
    assert used(host, T4) == [("python3", "process", ("/dev/nvidia1",))]
    assert used(host, RADEON) == []
    assert not gpu_at(host, T4).hides_users


def test_a_node_of_the_driver_counts_only_without_one_of_a_card(host: GpuHost) -> None:
    host.add_process(970, "nvidia-persiste", "/dev/nvidiactl")
    host.add_process(971, "ollama", "/dev/kfd")
    host.add_process(972, "rocm", "/dev/kfd", "/dev/dri/renderD129")
    shared = [("nvidia-persiste", "persistence daemon", ("/dev/nvidiactl",))]
    assert used(host, GEFORCE) == used(host, T4) == shared
    assert used(host, RADEON) == [
        ("ollama", "process", ("/dev/kfd",)),
        ("rocm", "process", ("/dev/dri/renderD129",)),
    ]


def test_the_sound_of_a_card_is_part_of_its_use(host: GpuHost) -> None:
    (host.device(RADEON_SOUND) / "sound/card2/pcmC2D3p").mkdir(parents=True)
    host.add_process(700, "wireplumber", "/dev/snd/controlC2", "/dev/snd/controlC0")
    host.add_process(701, "mpv", "/dev/snd/pcmC2D3p")
    assert used(host, RADEON) == [
        ("wireplumber", "sound server", ("/dev/snd/controlC2",)),
        ("mpv", "process", ("/dev/snd/pcmC2D3p",)),
    ]


def test_a_vm_has_the_group_of_the_card_or_its_own_node_of_vfio(host: GpuHost) -> None:
    host.bind(GEFORCE, "vfio-pci")
    (host.device(RADEON) / "vfio-dev/vfio3").mkdir(parents=True)
    host.add_process(2000, "qemu-system-x86", "/dev/vfio/vfio", "/dev/vfio/12")
    host.add_process(2001, "qemu-system-x86", "/dev/vfio/devices/vfio3", "/dev/iommu")
    assert used(host, GEFORCE) == [("qemu-system-x86", "VM", ("/dev/vfio/12",))]
    assert used(host, RADEON) == [("qemu-system-x86", "VM", ("/dev/vfio/devices/vfio3",))]


def test_a_vm_with_a_vf_or_an_mdev_uses_the_card(host: GpuHost, tmp_path: Path) -> None:
    host.add_l40s()
    host.add_process(2000, "qemu-system-x86", "/dev/vfio/61")
    assert used(host, L40S) == [("qemu-system-x86", "VM", ("/dev/vfio/61",))]
    other = GpuHost(tmp_path / "other")
    other.add_t4(15, "4b20d080-1b54-4048-85b3-a6a62d165c01")
    other.add_process(2001, "qemu-system-x86", "/dev/vfio/90")
    assert used(other, T4) == [("qemu-system-x86", "VM", ("/dev/vfio/90",))]


def test_a_process_in_a_container_is_told_with_it(host: GpuHost) -> None:
    host.add_process(950, "python3", "/dev/nvidia1", cgroup=SCOPE)
    assert gpu_at(host, T4).users == (
        User(
            *(950, "python3", UserKind.CONTAINER, Container("docker", ID[:12]), None),
            ("/dev/nvidia1",),
        ),
    )


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ("0::/system.slice/ollama.service\n", Unit("ollama.service", is_of_user=False)),
        (
            "0::/system.slice/system-getty.slice/getty@tty1.service\n",
            Unit("getty@tty1.service", is_of_user=False),
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sunshine.service\n",
            Unit("sunshine.service", is_of_user=True),
        ),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", None),
        ("0::/\n", None),
    ],
)
def test_the_service_of_a_process_is_known_by_its_cgroup(
    cgroup: str, expected: Unit | None
) -> None:
    assert find_unit(cgroup) == expected


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"0::{SCOPE}\n", Container("docker", ID[:12])),
        (f"12:pids:/docker/{ID}\n0::/system.slice\n", Container("docker", ID[:12])),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/ctr\n",
            Container("podman", ID[:12]),
        ),
        (
            f"0::/kubepods.slice/kubepods-burstable-pod1.slice/cri-containerd-{ID}.scope\n",
            Container("kubernetes", ID[:12]),
        ),
        (f"11:cpu:/kubepods/besteffort/pod-uid/{ID}\n", Container("kubernetes", ID[:12])),
        ("0::/lxc.payload.web-1/system.slice\n", Container("lxc", "web-1")),
        ("0::/machine.slice/machine-web.scope/payload\n", Container("machine", "web")),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        ("0::/system.slice/docker.service\n", None),
        ("", None),
    ],
)
def test_each_runtime_is_known_by_its_cgroup(cgroup: str, expected: Container | None) -> None:
    assert find_container(cgroup) == expected


def test_a_machine_of_libvirt_is_a_vm_and_no_container(host: GpuHost) -> None:
    scope = "/machine.slice/machine-qemu\\x2d1\\x2ddemo.scope/libvirt/emulator"
    host.add_process(2000, "CPU 0/KVM", "/dev/vfio/12", cgroup=scope)
    [user] = gpu_at(host, GEFORCE).users
    assert (user.kind, user.container) == (UserKind.VM, None)


def test_files_of_others_that_cannot_be_seen_are_told(host: GpuHost) -> None:
    host.add_process(950, "python3", "/dev/nvidia1")
    for entry in (host.root / "proc/1/fd").iterdir():
        entry.unlink()
    (host.root / "proc/1/fd").rmdir()
    host.hide(host.root / "proc/1/fd")
    gpu = gpu_at(host, T4)
    assert gpu.hides_users
    assert [one.pid for one in gpu.users] == [950]


def test_a_process_that_ends_meanwhile_is_no_unknown(host: GpuHost) -> None:
    (host.root / "proc/4711").mkdir()
    assert not gpu_at(host, T4).hides_users


def test_a_host_without_proc_hides_its_users(host: GpuHost) -> None:
    (host.root / "proc").rename(host.root / "gone")
    assert gpu_at(host, T4).hides_users
