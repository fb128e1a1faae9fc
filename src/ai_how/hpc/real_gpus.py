"""Real GPUs of a node in SLURM: how many, and how slurmd finds them (pure).

slurmd is told of no card that the node's own driver does not show: it would drain the node. So
without NVIDIA's driver in the image SLURM has none, whatever is passed through.
"""

import re
from collections.abc import Mapping
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


def real_gpus_of(node: Node, image: Image | None) -> RealGpus | None:
    """What SLURM has of the cards that a node has; None if it has none, or cannot find them."""
    # Two functions of a slot are one card.
    slots = {
        device.pci_address.rpartition(".")[0]
        for device in node.pcie_devices
        if device.device_type == "gpu"
    }
    count = len(slots) + (node.cards.total if node.cards else 0)
    autodetect = _autodetect_of(image) if count and image else None
    if autodetect is None:
        return None
    slices = node.cards.slices if node.cards else None
    return RealGpus(gres_counts(slices) if slices else {"": count}, autodetect)


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


def _autodetect_of(image: Image) -> str | None:
    """By NVML if that is there, since it also finds MIG slices and links; else by /proc."""
    names = {one.name for one in packages_of(image) or ()}
    if not any(_DRIVER.fullmatch(name) for name in names):
        return None
    if _PLUGIN in names and any(_LIBRARY.fullmatch(name) for name in names):
        return "nvml"
    release = release_of(image.manifest.slurm_version)
    return "nvidia" if release and release >= _READS_PROC else None
