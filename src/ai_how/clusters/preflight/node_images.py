"""Chooses the images of nodes, and KVM or emulation."""

import shlex

from ai_how.clusters.kind import ClusterKind
from ai_how.errors import HostError
from ai_how.host.kvm import choose_accelerator
from ai_how.host.place import HypervisorHost
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import Image
from ai_how.images.recipe import DEFAULT
from ai_how.images.store import ImageStore
from ai_how.spec.models import ClusterFile, HardwareSpec
from ai_how.state.paths import Roots
from ai_how.vm_management.nodes.domain_definition import Accel


def catalogue_of(roots: Roots, file: ClusterFile) -> ImageCatalogue:
    """The images that a cluster file can name."""
    return ImageCatalogue(ImageStore(roots.images), file)


def get_image(name: str | None, catalogue: ImageCatalogue, kind: ClusterKind) -> Image:
    """The image that nodes of this `base_image` boot.

    Raises HostError with the command that makes it available, or if nodes of this kind cannot boot
    it.
    """
    image = catalogue.find(name)
    if image is None:
        if name is None or name == DEFAULT:
            raise HostError("the default image is not built yet", hint="ai-how image build")
        if catalogue.is_ours(name):
            catalogue.require_base(name)
            if catalogue.has_disk(name):
                made = "prepared"
            else:
                made = "imported" if catalogue.is_from_elsewhere(name) else "built"
            raise HostError(
                f"the image {name} is not {made} yet",
                hint=f"ai-how image build {shlex.quote(name)}",
            )
        image = catalogue.store.get(name)
    kind.check_image(image)
    return image


def choose_accel(
    hardware: HardwareSpec, place: HypervisorHost, roots: Roots
) -> tuple[Accel, str | None]:
    """The accelerator of the VMs, and a warning if it is not KVM."""
    enabled = hardware.acceleration.enable_kvm
    verdict = place.kvm(roots) if enabled and place.runs_guests else None
    name, warning = choose_accelerator(enable_kvm=enabled, verdict=verdict)
    return Accel(name), warning
