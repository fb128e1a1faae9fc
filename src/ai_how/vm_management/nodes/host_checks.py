"""What the nodes of a file want of their host besides memory and disk: devices and directories."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ai_how.host.checks import Check, Status
from ai_how.host.facts import HostFacts
from ai_how.host.pci import check_passthrough, read_pci_devices
from ai_how.host.place import HypervisorHost
from ai_how.spec.nodes import Node


def check_devices(nodes: Sequence[Node], facts: HostFacts) -> list[Check]:
    """Whether the PCI devices can be passed through without taking the host's own."""
    asked = [device for node in nodes for device in node.pcie_devices]
    if not asked:
        return []
    routes = facts.routes or ()
    uplinks = {route.device for route in routes if route.is_default and route.device}
    return check_passthrough(asked, read_pci_devices(), uplinks=uplinks)


def check_shares(nodes: Sequence[Node], place: HypervisorHost) -> Iterator[Check]:
    """A failure for each shared directory that is not there, or not where the guests' QEMU runs."""
    root = place.root
    for node in nodes:
        for share in node.virtio_fs_mounts:
            path = Path(share.host_path)
            if not path.is_dir():
                found = f"{node.name} shares {path}, which is not a directory here"
                yield Check("shares", Status.FAILURE, found, f"mkdir -p {shlex.quote(str(path))}")
            elif root and not is_same(path, root / path.resolve().relative_to("/")):
                # A disk that was mounted later, or a directory among the system's sockets in /run.
                found = f"{node.name} shares {path}, which the embedded host does not see"
                yield Check("shares", Status.FAILURE, found, "ai-how host down")


def is_same(path: Path, other: Path) -> bool:
    """Whether both are there and are one directory."""
    try:
        return path.samefile(other)
    except OSError:
        return False
