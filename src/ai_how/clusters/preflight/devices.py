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

    `functions` are those of the cards of each node, by its name. An IOMMU group goes to one node as
    a whole. Whoever uses the devices of an `unstarted` node goes on: it is on itself, or stays off.
    """
    asked: dict[str, list[AskedDevice]] = {}
    for node in nodes:
        cards: list[AskedDevice] = [AnyDevice(one) for one in functions.get(node.name, ())]
        if cards or node.pcie_devices:
            asked[node.name] = [*cards, *node.pcie_devices]
    if not asked:
        return []
    devices, uplinks = read_pci_devices(machine), uplinks_of(facts.routes or ())
    iommu, uses = read_iommu(machine), read_uses(devices, machine)
    free = {address: CardUse(use.card) for address, use in uses.items()}
    return [
        check
        for name, own in asked.items()
        for check in check_passthrough(
            own,
            devices,
            uplinks=uplinks,
            iommu=iommu,
            uses=free if name in unstarted else uses,
        )
    ]
