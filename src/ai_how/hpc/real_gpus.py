"""Real GPUs of a node in SLURM: how many, and how slurmd finds them (pure).

slurmd is told of no card that the node's own driver does not show: it would drain the node. So
without NVIDIA's driver in the image SLURM has none, whatever is passed through, and never one of
another maker: `AutoDetect=rsmi` needs AMD's driver, which the kernel of our images lacks, and
Debian has no plugin for `oneapi`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import HostError
from ai_how.hpc.mig import gres_counts
from ai_how.hpc.versions import release_of
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of
from ai_how.spec.nodes import Node

# Of the set nvidia, of Debian, Ubuntu, Fedora and its relatives, and of NVIDIA's own repositories.
_DRIVER = re.compile(
    r"ai-how-nvidia-modules|nvidia-.*dkms.*|a?kmod-nvidia.*|linux-modules-nvidia-.*"
)
_LIBRARY = re.compile(r"libnvidia-(.*-)?ml1")
_PLUGIN = "slurm-wlm-nvml-plugin"
_READS_PROC = (24, 11)


@dataclass(frozen=True, slots=True)
class RealGpus:
    """The cards of a node that SLURM can use."""

    counts: Mapping[str, int]
    """Slices by their profile; the number of whole cards has no name."""
    autodetect: str
    """The value of `AutoDetect` in gres.conf."""


def real_gpus_of(node: Node, image: Image | None, foreign: Collection[str] = ()) -> RealGpus | None:
    """What SLURM has of the cards that a node has; None if it has none, or cannot find them.

    `foreign` are the addresses of cards of other makers, as far as the cards are known.
    """
    # Two functions of a slot are one card.
    passed = {_slot_of(device.pci_address) for device in node.pcie_devices}
    slots = {_slot_of(one.pci_address) for one in node.pcie_devices if one.device_type == "gpu"}
    others = {_slot_of(address) for address in foreign}
    count = len(slots - others)
    if node.cards:
        count += max(0, node.cards.total - len(others - passed))
    autodetect = _autodetect_of(image) if count and image else None
    if autodetect is None:
        return None
    slices = node.cards.slices if node.cards else None
    return RealGpus(gres_counts(slices) if slices else {"": count}, autodetect)


def describe_foreign(desired: DesiredCluster) -> Iterator[str]:
    """The GPUs that SLURM has no use of, a line for each node."""
    for node, one in desired.nodes:
        chosen = desired.device_hardware.get(node.name)
        if chosen and chosen.foreign:
            which = ", ".join(chosen.foreign)
            yield f"{one.name} has {which}, which SLURM does not get: it is no GPU of NVIDIA"


def check_mig(desired: DesiredCluster) -> None:
    """Raises HostError where the image of a node with `mig` lacks what divides and finds cards."""
    for node, one in desired.nodes:
        image = desired.images.get(one.image_digest)
        slices = node.cards.slices if node.cards else None
        if slices is None or image is None:
            continue
        found_by = _autodetect_of(image)
        if found_by is None or (any(slices) and found_by != "nvml"):
            raise HostError(
                f"{one.name} has `mig`, and its image {image.name} lacks NVIDIA's driver, or what "
                "finds slices by it",
                details=f"It needs the driver, its library libnvidia-ml1, and {_PLUGIN}: describe "
                "an image with them, and name that as `base_image_path` of the node. A node keeps "
                "the image that it was made with: destroy it first.",
                hint="images: {gpus: {with: nvidia}}  # in the cluster file",
            )


def _slot_of(address: str) -> str:
    return address.rpartition(".")[0]


def _autodetect_of(image: Image) -> str | None:
    """By NVML if that is there, since it also finds MIG slices and links; else by /proc."""
    names = {one.name for one in packages_of(image) or ()}
    if not any(_DRIVER.fullmatch(name) for name in names):
        return None
    if _PLUGIN in names and any(_LIBRARY.fullmatch(name) for name in names):
        return "nvml"
    release = release_of(image.manifest.slurm_version)
    return "nvidia" if release and release >= _READS_PROC else None
