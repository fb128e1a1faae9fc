"""A GPU as the host shows it. None is what could not be read; nothing here is guessed."""

from dataclasses import dataclass
from enum import StrEnum, auto


class FunctionKind(StrEnum):
    """What a function of a card is, by its PCI class."""

    VGA = "VGA"
    THREE_D = "3D"
    DISPLAY = "display"
    ACCELERATOR = "accelerator"
    AUDIO = "audio"
    USB = "USB"
    UCSI = "UCSI"
    BRIDGE = "bridge"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the card's slot, or another member of its IOMMU group."""

    address: str
    kind: FunctionKind
    name: str
    vendor_id: str | None  # four hexadecimal digits
    device_id: str | None
    driver: str | None
    iommu_group: int | None = None
    blocks_group: bool = True  # not a bridge that VFIO tolerates


class UserKind(StrEnum):
    """What a process is, where its name or its cgroup tells."""

    DISPLAY_SERVER = "display server"
    LOGIN_MANAGER = "login manager"
    PERSISTENCE_DAEMON = "persistence daemon"
    SOUND_SERVER = "sound server"
    MONITOR = "monitoring"
    VM = "VM"
    CONTAINER = "container"
    OTHER = "process"


@dataclass(frozen=True, slots=True)
class Container:
    """The container of a process, by its cgroup."""

    runtime: str  # docker, podman, kubernetes, lxc, machine
    name: str  # its name, or the first twelve digits of its id


@dataclass(frozen=True, slots=True)
class Unit:
    """The service of systemd that a process is in, by its cgroup."""

    name: str  # ollama.service
    is_of_user: bool  # of a user's own systemd


@dataclass(frozen=True, slots=True)
class User:
    """A process that has a device node of the card open."""

    pid: int
    command: str
    kind: UserKind
    container: Container | None
    unit: Unit | None
    nodes: tuple[str, ...]  # /dev/dri/card0


@dataclass(frozen=True, slots=True)
class Bar:
    """A memory region of the card."""

    number: int
    size_bytes: int
    is_prefetchable: bool


@dataclass(frozen=True, slots=True)
class Link:
    """The PCI Express link; an idle card lowers its speed."""

    speed_gt_s: float | None
    width: int | None
    max_speed_gt_s: float | None
    max_width: int | None


@dataclass(frozen=True, slots=True)
class MdevType:
    """A type of mediated devices that a card, or one of its VFs, can make."""

    id: str  # nvidia-63
    name: str | None
    description: str | None
    available: int | None
    uuids: tuple[str, ...]  # of those that exist


@dataclass(frozen=True, slots=True)
class VgpuType:
    """A type of vGPU that can be set on a VF without mdev."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class VirtualFunction:
    """A VF of SR-IOV."""

    address: str
    driver: str | None
    iommu_group: int | None
    mdev_types: tuple[MdevType, ...]
    creatable_types: tuple[VgpuType, ...] | None  # None: it has no such interface
    current_type: int | None  # 0: no vGPU


@dataclass(frozen=True, slots=True)
class Sriov:
    """SR-IOV of the card; `total_vfs` is 0 where it has none."""

    total_vfs: int | None
    vfs: tuple[VirtualFunction, ...]


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A size of MIG instances, as `nvidia-smi mig -lgip` lists it."""

    name: str
    id: int
    free: int
    total: int
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Mig:
    """MIG on the host; it is off while the card is free for a guest."""

    is_enabled: bool
    is_pending: bool  # another mode applies after a reset
    instances: int
    profiles: tuple[MigProfile, ...]


class VgpuWay(StrEnum):
    """The ways to a part of a card, in the order in which they appeared."""

    MDEV = auto()
    MDEV_ON_VF = auto()
    VF_TYPE = auto()
    VF = auto()


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card: the functions of one maker in a slot with a display, 3D or accelerator function.

    `name` is the product, `chip` the processor. `hides_users` says that processes exist whose open
    files cannot be seen. `unknown` names what could not be read.
    """

    address: str
    kind: FunctionKind
    vendor: str
    name: str
    chip: str | None
    functions: tuple[Function, ...]
    iommu_group: int | None
    neighbours: tuple[Function, ...]
    driver: str | None
    module_users: int
    users: tuple[User, ...]
    hides_users: bool
    console: str | None  # vtcon1: the kernel's console, where it may be on this card
    is_boot_display: bool | None
    monitors: tuple[str, ...]
    numa_node: int | None
    memory_mib: int | None
    bars: tuple[Bar, ...]
    link: Link
    sriov: Sriov
    mdev_types: tuple[MdevType, ...]
    mig: Mig | None
    can_mig: bool | None
    unknown: tuple[str, ...]

    @property
    def is_nvidia(self) -> bool:
        return self.vendor == "NVIDIA"

    @property
    def is_geforce(self) -> bool:
        return self.is_nvidia and "geforce" in self.name.lower()

    @property
    def vgpu_way(self) -> VgpuWay | None:
        """By which way parts of it can be had now; None where it offers none."""
        if self.mdev_types:
            return VgpuWay.MDEV
        if any(vf.mdev_types for vf in self.sriov.vfs):
            return VgpuWay.MDEV_ON_VF
        if any(vf.creatable_types is not None for vf in self.sriov.vfs):
            return VgpuWay.VF_TYPE
        return VgpuWay.VF if self.sriov.vfs and not self.is_nvidia else None

    @property
    def mdev_uuids(self) -> tuple[str, ...]:
        """The mediated devices that exist on it."""
        kinds = (*self.mdev_types, *(kind for vf in self.sriov.vfs for kind in vf.mdev_types))
        return tuple(uuid for kind in kinds for uuid in kind.uuids)
