"""The definition of a VM: every value of its XML, typed and validated (pure)."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import SpecError
from ai_how.libvirt_client.facts import Mark
from ai_how.libvirt_client.host_devices import PciAddress

# With 128 a node needs 10 % longer for its first job, as QEMU translates code again.
TB_CACHE_MIB = 192


class Accel(StrEnum):
    """QEMU's accelerator."""

    KVM = "kvm"
    TCG = "tcg"

    @property
    def domain_type(self) -> str:
        """libvirt's `<domain type=…>`."""
        return "kvm" if self is Accel.KVM else "qemu"


class CpuMode(StrEnum):
    """libvirt's `<cpu mode=…>`."""

    HOST_PASSTHROUGH = "host-passthrough"
    HOST_MODEL = "host-model"
    MAXIMUM = "maximum"
    CUSTOM = "custom"


class DiskCache(StrEnum):
    """QEMU's cache mode of a node's own disk."""

    NONE = "none"  # O_DIRECT: not on every file system (tmpfs has it from Linux 6.6 on)
    WRITEBACK = "writeback"
    UNSAFE = "unsafe"


@dataclass(frozen=True, slots=True)
class CpuTopology:
    """The CPU topology that the guest sees; SLURM schedules by it."""

    sockets: int
    cores: int
    threads: int

    @property
    def vcpus(self) -> int:
        return self.sockets * self.cores * self.threads


@dataclass(frozen=True, slots=True)
class NumaCell:
    """One NUMA node of the guest."""

    cpus: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class CpuFeature:
    """A CPU feature that is required or disabled."""

    name: str
    is_required: bool

    @property
    def policy(self) -> str:
        return "require" if self.is_required else "disable"


@dataclass(frozen=True, slots=True)
class CpuDefinition:
    """The guest's CPU; `model` is set for mode custom only."""

    mode: CpuMode
    topology: CpuTopology
    model: str | None = None
    features: tuple[CpuFeature, ...] = ()
    numa: tuple[NumaCell, ...] = ()
    has_host_address_bits: bool = False
    """Whether it can address what the host's CPU can; else QEMU decides, by the model."""


@dataclass(frozen=True, slots=True)
class NumaBinding:
    """The NUMA node of the host that the guest's memory comes from; strict: or from none."""

    node: int
    is_strict: bool

    @property
    def mode(self) -> str:
        return "strict" if self.is_strict else "preferred"


@dataclass(frozen=True, slots=True)
class VcpuPin:
    """Pins a vCPU to a set of host CPUs."""

    vcpu: int
    cpuset: str


@dataclass(frozen=True, slots=True)
class MemoryBacking:
    """libvirt's `<memoryBacking>`; virtiofs needs shared memory."""

    hugepage_kib: int | None = None
    is_memfd: bool = False
    is_shared: bool = False

    @property
    def is_default(self) -> bool:
        return self.hugepage_kib is None and not self.is_memfd and not self.is_shared


@dataclass(frozen=True, slots=True)
class DirectKernel:
    """Direct kernel boot: QEMU loads kernel and initrd, without a boot loader."""

    kernel: Path
    initrd: Path | None
    cmdline: str


@dataclass(frozen=True, slots=True)
class VirtioFsShare:
    """A directory of the host that the guest mounts by its tag.

    `server` is the program that libvirt starts for it; None is virtiofsd itself.
    """

    source: Path
    tag: str
    server: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDefinition:
    """All properties of a VM.

    With `boot` None, the firmware boots the disk by its own boot loader. `seed` is a second disk,
    which the guest can only read. `nvram` is the file of the variables of UEFI, None for a file
    that libvirt chooses by the name of the VM and removes with its definition.
    """

    mark: Mark
    name: str
    uuid: UUID
    genid: UUID  # kept if redefined; libvirt changes it when a guest is restored
    title: str
    memory_mib: int
    vcpus: int
    accel: Accel
    cpu: CpuDefinition
    disk: Path
    backing_chain: tuple[Path, ...]  # the nearest first; qcow2 like the disk
    network: str | None  # None: an interface without a network
    mac: str
    console_log: Path
    boot: DirectKernel | None = None
    is_uefi: bool = False
    has_screen: bool = False  # for a boot loader that draws a menu; nobody sees it
    nvram: Path | None = None
    seed: Path | None = None
    disk_cache: DiskCache = DiskCache.NONE
    memory_backing: MemoryBacking = MemoryBacking()
    pins: tuple[VcpuPin, ...] = ()
    shares: tuple[VirtioFsShare, ...] = ()
    pci_devices: tuple[PciAddress, ...] = ()
    vfs: tuple[PciAddress, ...] = ()  # vGPUs, which stay with the host's driver
    mdevs: tuple[UUID, ...] = ()
    numa: NumaBinding | None = None
    pci_window_gib: int | None = None  # addresses for the memory of PCI devices; None: QEMU's 32
    has_balloon: bool = True
    hides_roms: bool = False
    rom_file: Path | None = None  # for the `graphics` among `pci_devices`
    graphics: tuple[PciAddress, ...] = ()

    template: ClassVar[str] = "domain.xml.j2"

    @property
    def tb_cache_mib(self) -> int | None:
        """The limit of QEMU's cache of translated code in MiB; its default is 1 GiB."""
        return TB_CACHE_MIB if self.accel is Accel.TCG else None

    def __post_init__(self) -> None:
        """Raises SpecError if the properties contradict each other."""
        for problem in self._problems():
            raise SpecError(f"{self.mark.node}: {problem}")

    def _problems(self) -> list[str]:
        page_kib = self.memory_backing.hugepage_kib or 1
        cells_mib = sum(cell.memory_mib for cell in self.cpu.numa)
        pinned = {pin.vcpu for pin in self.pins}
        checks = {
            f"its CPU topology has {self.cpu.topology.vcpus} CPUs, not {self.vcpus}": (
                self.cpu.topology.vcpus != self.vcpus
            ),
            f"its NUMA cells have {cells_mib} MiB, not {self.memory_mib}": (
                bool(self.cpu.numa) and cells_mib != self.memory_mib
            ),
            f"{self.memory_mib} MiB is not a whole number of huge pages of {page_kib} KiB": (
                any(mib * 1024 % page_kib for mib in self._memory_pieces_mib)
            ),
            "some of its vCPUs are pinned and some are not": (
                bool(pinned) and pinned != set(range(self.vcpus))
            ),
            "a virtiofs mount needs shared memory": (
                bool(self.shares) and not self.memory_backing.is_shared
            ),
            "a kernel that QEMU loads needs no UEFI": (self.boot is not None and self.is_uefi),
        }
        return [problem for problem, is_there in checks.items() if is_there]

    @property
    def wants_free_page_reporting(self) -> bool:
        """Whether memory that the guest frees returns to the host: not if it is pinned."""
        return self.memory_backing.hugepage_kib is None and not self.has_host_devices

    @property
    def has_host_devices(self) -> bool:
        return bool(self.pci_devices or self.vfs or self.mdevs)

    @property
    def pci_window_kib(self) -> int | None:
        return self.pci_window_gib and self.pci_window_gib * 1024 * 1024

    @property
    def emulator_cpuset(self) -> str:
        """The host CPUs of QEMU's other threads: those of the guest's vCPUs."""
        return ",".join(pin.cpuset for pin in self.pins)

    @property
    def _memory_pieces_mib(self) -> tuple[int, ...]:
        return tuple(cell.memory_mib for cell in self.cpu.numa) or (self.memory_mib,)
