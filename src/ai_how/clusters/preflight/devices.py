"""Whether the host can do without the PCI devices that the nodes of a file get."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ai_how.gpu.inventory import read_uses
from ai_how.host.checks import Check
from ai_how.host.facts import HostFacts
from ai_how.host.iommu import read_iommu
from ai_how.host.network_facts import uplinks_of
from ai_how.host.pci import (
    AnyDevice,
    AskedDevice,
    CardUse,
    check_passthrough,
    read_pci_devices,
)
from ai_how.spec.nodes import Node


def check_devices(
    nodes: Sequence[Node],
    functions: Mapping[str, Sequence[str]],
    facts: HostFacts,
    *,
    unstarted: Collection[str] = (),
    machine: Path = Path("/"),
) -> list[Check]:
    """Whether the devices can be passed through, and the host does not need them itself.

    `functions` are those of the cards of each node, by its name. Whoever uses the devices of an
    `unstarted` node goes on: it is on itself, or stays off.
    """
    asked: list[AskedDevice] = []
    left_alone: set[str] = set()
    for node in nodes:
        own: list[AskedDevice] = [AnyDevice(one) for one in functions.get(node.name, ())]
        own += node.pcie_devices
        asked += own
        if node.name in unstarted:
            left_alone |= {one.pci_address for one in own}
    if not asked:
        return []
    devices = read_pci_devices(machine)
    uses = {
        address: CardUse(use.card) if address in left_alone else use
        for address, use in read_uses(devices, machine).items()
    }
    uplinks = uplinks_of(facts.routes or ())
    return check_passthrough(asked, devices, uplinks=uplinks, iommu=read_iommu(machine), uses=uses)
