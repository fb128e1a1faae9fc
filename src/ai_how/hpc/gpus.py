"""Simulated GPUs of a node (pure): their device files, what slurmd is told, and what they list.

slurmd takes GPUs from a `fake_gpus.conf` beside its slurm.conf, as if it had found them
(`_add_fake_gpus_from_file` in SLURM's gres_gpu.c; the same in 22.05 and 24.11, in interfaces/gpu.c
since). Configless nodes do not fetch that file, and keep it when they fetch the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from ai_how.guest.base_identity import Entry
from ai_how.hpc.guest_file import read_guest_file
from ai_how.hpc.slurm_config import SlurmNode
from ai_how.spec.gpus import SimulatedGpusSpec
from ai_how.spec.mig import find_card, sorted_slices

GPUS_UNIT = "ai-how-gpus.service"
_UNIT = """\
[Unit]
Description=Device files of simulated GPUs
Before=slurmd.service

[Service]
Type=oneshot
ExecStart=/bin/busybox sh /etc/ai-how/make-gpus
"""
GRES_UNIT = "ai-how-gres.service"
_GRES_UNIT = """\
[Unit]
Description=An older slurmctld takes up other GPUs
Before=slurmctld.service

[Service]
Type=oneshot
ExecStart=/bin/busybox sh /etc/ai-how/restart-for-gres
"""
CARD_MAJOR = 195
"""NVIDIA's own, of Linux' list of allocated devices. Without the driver, nothing is behind it."""
SLICE_MAJOR = 300
"""NVIDIA's driver asks for any free one. Linux gives none from 261 to 383 by itself."""
_NONE = "(null)"
_MIB_PER_GB = 1024


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A character device."""

    path: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A MIG slice of a card."""

    profile: str
    uuid: str
    memory_mib: int
    instance: int
    """The id of its GPU instance on the card."""
    files: tuple[DeviceFile, ...]
    """Without that of its card, which a job needs as well."""


@dataclass(frozen=True, slots=True)
class Card:
    """A simulated card."""

    index: int
    gres_type: str
    name: str
    uuid: str
    memory_mib: int
    file: DeviceFile
    slices: tuple[Slice, ...]
    links: tuple[int, ...] | None


def cards_of(asked: SimulatedGpusSpec, node: UUID) -> tuple[Card, ...]:
    """The cards of a node. Their UUIDs derive from the node's, so they stay the same."""
    return tuple(
        Card(
            index=index,
            gres_type=asked.type,
            name=f"Simulated {asked.type} {asked.card_memory_gb}GB",
            uuid=f"GPU-{uuid5(node, f'gpu/{index}')}",
            memory_mib=asked.card_memory_gb * _MIB_PER_GB,
            file=DeviceFile(f"/dev/nvidia{index}", CARD_MAJOR, index),
            slices=tuple(_slices(asked, index, node)),
            links=asked.links_of(index),
        )
        for index in range(asked.count)
    )


def _slices(asked: SimulatedGpusSpec, card: int, node: UUID) -> Iterator[Slice]:
    """Each slice is one GPU instance with one compute instance."""
    kind = find_card(asked.type, asked.memory_gb)
    if kind is None:
        return
    taken: set[int] = set()
    for profile in sorted_slices(kind, asked.mig):
        instance = next(n for n in range(profile.first_id, 15) if n not in taken)
        taken.add(instance)
        minor = _minor(card, instance)
        memory_mib = kind.memory_gb * _MIB_PER_GB * profile.width // kind.memory_slices
        yield Slice(
            profile=profile.name,
            uuid=f"MIG-{uuid5(node, f'gpu/{card}/{instance}')}",
            memory_mib=memory_mib,
            instance=instance,
            files=tuple(
                DeviceFile(f"/dev/nvidia-caps/nvidia-cap{one}", SLICE_MAJOR, one)
                for one in (minor, minor + 1)
            ),
        )


def _minor(card: int, instance: int) -> int:
    """The minor number of the access to a GPU instance; that of its compute instance 0 is next.

    As in `/proc/driver/nvidia-caps/mig-minors` in NVIDIA's MIG user guide: 15 instances a card,
    each with one number for itself and 8 for compute instances, after two numbers for others.
    """
    return 3 + (card * 15 + instance) * 9


def render_fake_gpus(cards: Sequence[Card], node: SlurmNode) -> str:
    """fake_gpus.conf: a line for each card or slice.

    `<type>|<sys_cpu_count>|<cpu_range>|<links>|<device_file>|<unique_id>|<flags>`; slurmd reads at
    most 255 characters of a line. A card has no unique id, as with the real driver: its jobs get
    its number.
    """
    lines = []
    for card in cards:
        cores = _cores(card.index, len(cards), node)
        links = ",".join(map(str, card.links)) if card.links else _NONE
        common = f"{node.cpus}|{cores}|{links}"
        if not card.slices:
            lines.append(f"{card.gres_type}|{common}|{card.file.path}|{_NONE}|nvidia_gpu_env")
        for one in card.slices:
            paths = ",".join(file.path for file in (card.file, *one.files))
            lines.append(f"{one.profile}|{common}|{paths}|{one.uuid}|nvidia_gpu_env")
    return "".join(f"{line}\n" for line in lines)


def _cores(card: int, count: int, node: SlurmNode) -> str:
    """The cores of the card's socket: cards are spread evenly over sockets, in order.

    None if there is only one socket, so that all cores are equally near. Also with threads, where
    SLURM would count them, not cores.
    """
    if node.sockets == 1 or node.threads_per_core > 1:
        return _NONE
    first = card * node.sockets // count * node.cores_per_socket
    return f"{first}-{first + node.cores_per_socket - 1}"


def _cpus(card: int, count: int, node: SlurmNode) -> str:
    """The CPUs of the card's socket, by the numbers that Linux gives them."""
    size = node.cores_per_socket * node.threads_per_core
    first = card * node.sockets // count * size
    return f"{first}-{first + size - 1}"


def render_list(cards: Sequence[Card], node: SlurmNode | None = None) -> str:
    """The list by which a node makes its device files, and nvidia-smi lists them: with tabs.

    With `node` it also has what NVML is asked for: that node is detected by it.
    """
    lines = []
    for card in cards:
        lines.append(f"dev\t{_device(card.file)}")
        lines.append(_row("gpu", card.index, card.name, card.uuid, card.memory_mib, card.file.path))
        if node:
            # In a PCI domain that no machine has.
            lines.append(_row("bus", card.index, f"ffff:{card.index + 1:02x}:00.0"))
            lines.append(_row("cpus", card.index, _cpus(card.index, len(cards), node)))
        if node and card.links:
            lines.append(_row("links", card.index, ",".join(map(str, card.links))))
        for one in card.slices:
            lines += [f"dev\t{_device(file)}" for file in one.files]
            access = one.files[0]
            lines.append(
                _row("mig", card.index, one.profile, one.uuid, one.memory_mib, access.path)
            )
            if node:
                lines.append(_row("slice", card.index, one.instance, access.minor))
    return "".join(f"{line}\n" for line in lines)


def _device(file: DeviceFile) -> str:
    return f"{file.path}\t{file.major}\t{file.minor}"


def _row(*words: object) -> str:
    return "\t".join(map(str, words))


def gpu_entries(cards: Sequence[Card], node: SlurmNode) -> Iterator[Entry]:
    """The files of a node that has simulated GPUs, or that had some and shall have none."""
    yield Entry("etc/ai-how/gpus", render_list(cards, node if node.autodetect else None))
    fake = "" if node.autodetect else render_fake_gpus(cards, node)
    yield Entry("etc/ai-how/fake_gpus.conf", fake)
    yield Entry("etc/ai-how/make-gpus", read_guest_file("make-gpus"))
    yield Entry("etc/ai-how/nvidia-smi", read_guest_file("nvidia-smi"), 0o755)
    yield Entry(f"etc/systemd/system/{GPUS_UNIT}", _UNIT)


def gres_entries() -> Iterator[Entry]:
    """The files of a controller whose slurmctld has to start again for other GPUs."""
    yield Entry("etc/ai-how/restart-for-gres", read_guest_file("restart-for-gres"))
    yield Entry(f"etc/systemd/system/{GRES_UNIT}", _GRES_UNIT)
