"""Whether the host can do without the PCI devices that the nodes of a file get."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ai_how.host.checks import Check
from ai_how.host.facts import HostFacts
from ai_how.host.iommu import read_iommu
from ai_how.host.network_facts import uplinks_of
from ai_how.host.pci import AnyDevice, AskedDevice, check_passthrough, read_pci_devices
from ai_how.spec.nodes import Node


def check_devices(
    nodes: Sequence[Node],
    functions: Mapping[str, Sequence[str]],
    facts: HostFacts,
    *,
    machine: Path = Path("/"),
) -> list[Check]:
    """Whether the devices can be passed through, and the host does not need them itself.

    `functions` are those of the cards of each node, by its name.
    """
    asked: list[AskedDevice] = []
    for node in nodes:
        asked += [AnyDevice(address) for address in functions.get(node.name, ())]
        asked += node.pcie_devices
    if not asked:
        return []
    uplinks = uplinks_of(facts.routes or ())
    return check_passthrough(
        asked, read_pci_devices(machine), uplinks=uplinks, iommu=read_iommu(machine)
    )
