"""What `image warm` and `cache` say of saved VMs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ai_how import console

if TYPE_CHECKING:
    from ai_how.vm_management.nodes.domain_definition import DomainDefinition
    from ai_how.vm_management.saved_machines.store import SavedManifest


def size_of(one: "SavedManifest | DomainDefinition") -> str:
    """The size of a VM."""
    return f"{one.vcpus} vCPU, {one.memory_mib} MiB"


def show_cold(reasons: Mapping[str, str]) -> None:
    """Tell why nodes cannot be restored from a saved VM."""
    for name, reason in reasons.items():
        console.show_line(f"{name}: will boot, because {reason}")
