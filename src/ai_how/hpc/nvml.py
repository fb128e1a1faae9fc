"""Nodes whose SLURM finds simulated GPUs by NVML: whether their image can (pure)."""

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import HostError
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of

PACKAGES = ("ai-how-nvml", "slurm-wlm-nvml-plugin")
"""Our library, and SLURM's plugin that asks it."""


def check_nvml(desired: DesiredCluster) -> None:
    """Raises HostError where the image of a node with `nvml: true` lacks what it needs."""
    for node, one in desired.nodes:
        image = desired.images.get(one.image_digest)
        if node.gpus is None or not node.gpus.nvml or image is None or _has_nvml(image):
            continue
        raise HostError(
            f"{one.name} has `nvml: true`, and its image {image.name} has no NVML",
            details="The set simulated-gpus brings it: describe an image with it, and name that as "
            "`base_image_path` of the node. A node keeps the image that it was made with: destroy "
            "it first.",
            hint="images: {gpus: {with: simulated-gpus}}  # in the cluster file",
        )


def _has_nvml(image: Image) -> bool:
    packages = packages_of(image) or ()
    return set(PACKAGES) <= {one.name for one in packages}
