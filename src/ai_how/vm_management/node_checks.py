"""What the nodes of a file want of their host besides memory and disk: devices and directories."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ai_how.host.checks import Check, Status
from ai_how.host.facts import HostFacts
from ai_how.host.pci import check_passthrough, read_pci_devices
from ai_how.spec.nodes import Node


def check_devices(nodes: Sequence[Node], facts: HostFacts) -> list[Check]:
    """Whether the PCI devices can be passed through without taking the host's own."""
    asked = [device for node in nodes for device in node.pcie_devices]
    if not asked:
        return []
    routes = facts.routes or ()
    uplinks = {route.device for route in routes if route.is_default and route.device}
    return check_passthrough(asked, read_pci_devices(), uplinks=uplinks)


def check_shares(nodes: Sequence[Node]) -> Iterator[Check]:
    """A failure for each shared directory that is not there."""
    for node in nodes:
        for share in node.virtio_fs_mounts:
            if not Path(share.host_path).is_dir():
                found = f"{node.name} shares {share.host_path}, which is not a directory here"
                advice = f"mkdir -p {shlex.quote(str(share.host_path))}"
                yield Check("shares", Status.FAILURE, found, advice)
