"""Hosts with GPUs, drawn as trees of sysfs and /proc.

Written after the kernel's Documentation/ABI and NVIDIA's and AMD's documents, not recorded on such
hosts; the ids and names are those of pci.ids.
"""

from pathlib import Path

PCI_IDS = """\
# List of PCI ID's
0b05  Not asked for
\t2684  Another vendor's
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX]
\tab30  Navi 31 HDMI/DP Audio
10de  NVIDIA Corporation
\t1eb8  TU104GL [Tesla T4]
\t2235  GA102GL [A40]
\t2330  GH100[H100 SXM5 80GB]
\t22ba  AD102 High Definition Audio Controller
\t2684  AD102 [GeForce RTX 4090]
\t\t1462 5103  GeForce RTX 4090 Gaming X Trio
\t26b9  AD102GL [L40S]
10df  Not asked for either
\t2684  Another vendor's
8086  Intel Corporation
\t1533  I210 Gigabit Network Connection
\t4680  AlderLake-S GT1
C 03  Display controller
\t00  VGA compatible controller
"""
NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
GEFORCE, SOUND, PORT = "0000:65:00.0", "0000:65:00.1", "0000:64:00.0"
T4, A40, L40S, H100 = "0000:17:00.0", "0000:3b:00.0", "0000:5e:00.0", "0000:af:00.0"
RADEON, RADEON_SOUND, UHD, NIC = "0000:0b:00.0", "0000:0b:00.1", "0000:00:02.0", "0000:66:00.0"
VGA, THREE_D, AUDIO, BRIDGE, NETWORK = 0x030000, 0x030200, 0x040300, 0x060400, 0x020000
INTEL_CPU = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n"
AMD_CPU = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n"


class GpuHost:
    """A host with names, an IOMMU and no device; each `add_` puts a card into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("usr/share/misc/pci.ids", PCI_IDS)
        self.write("proc/cpuinfo", INTEL_CPU)
        self.write("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 quiet\n")
        self.write("proc/sys/kernel/osrelease", "6.1.0-25-amd64\n")
        self.write("sys/firmware/acpi/tables/DMAR", "")
        self.write("usr/sbin/update-grub", "")
        self.write("usr/sbin/update-initramfs", "")
        (root / "sys/kernel/iommu_groups").mkdir(parents=True)
        self.add_process(1, "systemd")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def device(self, address: str) -> Path:
        return self.root / "sys/devices/pci0000:00" / address

    def set(self, address: str, **files: str) -> None:
        """Files of a device by name; `__` is a slash."""
        for name, text in files.items():
            path = self.device(address) / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    def hide(self, path: Path) -> None:
        """Something is there that nobody can read, root neither: a link that leads to itself."""
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(path)

    def add(
        self,
        address: str,
        ids: tuple[int, int],
        class_code: int,
        *,
        group: int | None = None,
        driver: str | None = None,
        module_users: int = 0,
    ) -> None:
        """A function of a device."""
        self.set(address, vendor=f"{ids[0]:#06x}", device=f"{ids[1]:#06x}")
        self.set(address, **{"class": f"{class_code:#08x}", "numa_node": "-1"})
        if class_code >> 8 == VGA >> 8:
            self.set(address, boot_vga="0")
        link = self.root / "sys/bus/pci/devices" / address
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.device(address))
        if group is not None:
            place = self.root / "sys/kernel/iommu_groups" / str(group)
            place.mkdir(exist_ok=True)
            (self.device(address) / "iommu_group").symlink_to(place)
        if driver:
            self.bind(address, driver, module_users)

    def bind(self, address: str, driver: str, module_users: int = 0) -> None:
        place = self.root / "sys/bus/pci/drivers" / driver
        module = self.root / "sys/module" / driver.replace("-", "_")
        if not place.is_dir():
            place.mkdir(parents=True)
            (place / "module").symlink_to(module)
        if module_users or not (module / "refcnt").exists():
            self.write(f"sys/module/{module.name}/refcnt", f"{module_users}\n")
        link = self.device(address) / "driver"
        link.unlink(missing_ok=True)
        link.symlink_to(place)

    def add_vf(self, parent: str, address: str, number: int, **more: object) -> None:
        """A VF has the ids of its card."""
        ids = tuple(
            int((self.device(parent) / name).read_text(), 16) for name in ("vendor", "device")
        )
        self.add(address, (ids[0], ids[1]), THREE_D, **more)  # type: ignore[arg-type]
        (self.device(address) / "physfn").symlink_to(self.device(parent))
        (self.device(parent) / f"virtfn{number}").symlink_to(self.device(address))

    def add_mdev_type(
        self, address: str, kind: str, name: str, available: int, *uuids: str
    ) -> None:
        place = f"sys/devices/pci0000:00/{address}/mdev_supported_types/{kind}"
        self.write(f"{place}/name", f"{name}\n")
        self.write(f"{place}/description", "num_heads=4, framebuffer=2048M\n")
        self.write(f"{place}/available_instances", f"{available}\n")
        for number, uuid in enumerate(uuids):
            group = self.root / f"sys/kernel/iommu_groups/{90 + number}"
            group.mkdir()
            (self.root / place / "devices" / uuid).mkdir(parents=True)
            (self.root / place / "devices" / uuid / "iommu_group").symlink_to(group)

    def add_process(self, pid: int, command: str, *nodes: str, cgroup: str = "/") -> None:
        self.write(f"proc/{pid}/comm", f"{command}\n")
        self.write(f"proc/{pid}/cgroup", f"0::{cgroup}\n")
        descriptors = self.root / f"proc/{pid}/fd"
        descriptors.mkdir()
        for number, node in enumerate(("/dev/null", *nodes)):
            (descriptors / str(number)).symlink_to(node)

    def switch_iommu_off(self) -> None:
        for link in (self.root / "sys/devices").rglob("iommu_group"):
            link.unlink()
        for group in (self.root / "sys/kernel/iommu_groups").iterdir():
            group.rmdir()

    def add_numa_node(self, number: int, cpus: str, **pages: int) -> None:
        """A NUMA node with its CPUs, and the number of free huge pages by size: `_2048kB=512`."""
        place = f"sys/devices/system/node/node{number}"
        self.write(f"{place}/cpulist", f"{cpus}\n")
        for size, free in pages.items():
            self.write(f"{place}/hugepages/hugepages-{size[1:]}/free_hugepages", f"{free}\n")

    def mount_hugepages(self, *sizes: str) -> None:
        """Each a hugetlbfs of one page size, `2M` or `1024M`."""
        lines = (
            f"2{n} 20 0:2{n} / /dev/hugepages-{size} rw - hugetlbfs hugetlbfs rw,pagesize={size}\n"
            for n, size in enumerate(sizes)
        )
        self.write("proc/self/mountinfo", "".join(lines))

    def add_geforce(self, *, driver: str | None = None, module_users: int = 0) -> None:
        """With its audio function behind a port of the same group, in a wide slot of node 1."""
        sound = "snd_hda_intel" if driver else None
        self.add(PORT, (INTEL, 0x2030), BRIDGE, group=12, driver="pcieport")
        self.add(GEFORCE, (NVIDIA, 0x2684), VGA, group=12, driver=driver, module_users=module_users)
        self.add(SOUND, (NVIDIA, 0x22BA), AUDIO, group=12, driver=sound)
        self.set(GEFORCE, numa_node="1", current_link_speed="2.5 GT/s PCIe")
        self.set(GEFORCE, current_link_width="16", max_link_width="16")
        self.set(
            GEFORCE,
            max_link_speed="16.0 GT/s PCIe",
            resource="0x0000000094000000 0x0000000094ffffff 0x0000000000040200\n"
            "0x0000021000000000 0x00000217ffffffff 0x000000000014220c\n"
            "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
            "0x0000021800000000 0x0000021801ffffff 0x000000000014220c\n"
            "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
            "0x0000000000003000 0x000000000000307f 0x0000000000040101\n"
            "0x0000000095000000 0x000000009507ffff 0x0000000000046200",
        )

    def add_t4(self, available: int = 16, *uuids: str) -> None:
        """The first generation: mdev types on the card itself."""
        self.add(T4, (NVIDIA, 0x1EB8), THREE_D, group=17, driver="nvidia")
        self.write("sys/module/nvidia_vgpu_vfio/refcnt", "0\n")
        self.add_mdev_type(T4, "nvidia-222", "GRID T4-1B", available, *uuids)
        self.add_mdev_type(T4, "nvidia-230", "GRID T4-1Q", available)

    def add_a40(self, *, vfs: int = 2, available: int = 1) -> None:
        """The second generation: VFs with mdev types on each."""
        self.add(A40, (NVIDIA, 0x2235), THREE_D, group=30, driver="nvidia")
        self.write("sys/module/nvidia_vgpu_vfio/refcnt", "0\n")
        self.set(A40, sriov_totalvfs="32", sriov_numvfs=f"{vfs}")
        for number in range(vfs):
            vf = f"0000:3b:00.{4 + number}"
            self.add_vf(A40, vf, number, group=40 + number, driver="nvidia")
            self.add_mdev_type(vf, "nvidia-557", "NVIDIA A40-1B", available)

    def add_l40s(self, *, vfs: int = 2, kernel: str = "6.12.0-amd64") -> None:
        """The third generation: VFs without mdev, with the directory `nvidia`."""
        self.write("proc/sys/kernel/osrelease", f"{kernel}\n")
        self.write("sys/module/nvidia_vgpu_vfio/refcnt", "0\n")
        self.add(L40S, (NVIDIA, 0x26B9), THREE_D, group=50, driver="nvidia")
        self.set(L40S, sriov_totalvfs="32", sriov_numvfs=f"{vfs}")
        for number in range(vfs):
            vf = f"0000:5e:00.{4 + number}"
            self.add_vf(L40S, vf, number, group=60 + number, driver="nvidia")
            types = "ID    : vGPU Name\n1147  : NVIDIA L40S-1Q\n1148  : NVIDIA L40S-2Q"
            self.set(vf, nvidia__creatable_vgpu_types=types, nvidia__current_vgpu_type="0")

    def add_radeon(self) -> None:
        self.add(RADEON, (AMD, 0x744C), VGA, group=20, driver="amdgpu")
        self.add(RADEON_SOUND, (AMD, 0xAB30), AUDIO, group=21, driver="snd_hda_intel")
        self.set(RADEON, mem_info_vram_total=f"{24 << 30}")
        (self.device(RADEON) / "drm/card1").mkdir(parents=True)
        (self.device(RADEON) / "drm/renderD129").mkdir()

    def add_uhd(self) -> None:
        """The GPU in the processor, which the host booted with and shows its desktop on."""
        self.add(UHD, (INTEL, 0x4680), VGA, group=0, driver="i915", module_users=5)
        self.set(UHD, boot_vga="1")
        self.set(UHD, **{"drm__card0__card0-DP-1__status": "connected"})
        self.set(UHD, **{"drm__card0__card0-HDMI-A-1__status": "disconnected"})
