"""Chooses the images of nodes, and KVM or emulation."""

import shlex
from collections.abc import Iterable

from ai_how.clusters.kind import ClusterKind
from ai_how.errors import HostError
from ai_how.host.kvm import choose_accelerator
from ai_how.host.place import HypervisorHost
from ai_how.images.build import find_default_image
from ai_how.images.manifest import Image
from ai_how.images.recipe import default_recipe
from ai_how.images.store import ImageStore
from ai_how.spec.models import HardwareSpec
from ai_how.spec.nodes import Node
from ai_how.state.paths import Roots
from ai_how.vm_management.nodes.domain_definition import Accel


def needs_default_image(nodes: Iterable[Node], store: ImageStore) -> bool:
    """Whether a node boots the default image, and it is not built yet."""
    return any(_named_image(node) is None for node in nodes) and find_default_image(store) is None


def get_image(node: Node, store: ImageStore, kind: ClusterKind) -> Image:
    """The image that a node boots.

    Raises HostError if the store does not have it, or if nodes of this kind cannot boot it.
    """
    name = _named_image(node)
    if name is None:
        image = find_default_image(store)
        if image is None:
            raise HostError("the default image is not built yet", hint="ai-how image build")
    elif "/" in name:
        raise HostError(
            f"{name} is a file; nodes boot images from the store",
            hint=f"ai-how image import {shlex.quote(name)}  # then give its name",
        )
    else:
        image = store.get(name)
    kind.check_image(image)
    return image


def _named_image(node: Node) -> str | None:
    """The image that the file names for a node; None for the default image."""
    return None if node.base_image == default_recipe().name else node.base_image


def choose_accel(
    hardware: HardwareSpec, place: HypervisorHost, roots: Roots
) -> tuple[Accel, str | None]:
    """The accelerator of the VMs, and a warning if it is not KVM."""
    enabled = hardware.acceleration.enable_kvm
    verdict = place.kvm(roots) if enabled and place.runs_guests else None
    name, warning = choose_accelerator(enable_kvm=enabled, verdict=verdict)
    return Accel(name), warning
