"""What the nodes of a file get of the host's GPUs: whole cards, and vGPUs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from ai_how.clusters.desired_cluster import host_devices_of
from ai_how.clusters.preflight.cards import (
    CardFacts,
    NodeCards,
    assign_cards,
    read_card_facts,
    remembered_cards,
)
from ai_how.clusters.preflight.device_users import DeviceUser
from ai_how.clusters.preflight.vgpus import VgpuChoices
from ai_how.errors import HostError
from ai_how.spec.nodes import Node
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots
from ai_how.vm_management.vgpus import Vgpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The cluster that asks, and its state if it exists."""

    name: str
    id: UUID
    previous: ClusterState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGpus:
    """What each node gets, by its name."""

    cards: Mapping[str, NodeCards] = field(default_factory=dict)
    vgpus: Mapping[str, Vgpu] = field(default_factory=dict)

    @property
    def functions(self) -> dict[str, tuple[str, ...]]:
        """All functions of the cards of each node."""
        return {name: one.functions for name, one in self.cards.items()}

    @property
    def host_devices(self) -> dict[str, tuple[str, ...]]:
        """The functions of each node's cards, and its vGPU as VMs have it."""
        return host_devices_of(self.functions, self.vgpus)

    @property
    def remembered(self) -> dict[str, tuple[str, ...]]:
        """The addresses that the next start prefers."""
        vfs = {name: (one.parent,) for name, one in self.vgpus.items() if one.uuid is None}
        return {name: one.cards for name, one in self.cards.items()} | vfs


def assign_gpus(
    nodes: Sequence[Node],
    asker: Asker,
    find_users: Callable[[], Mapping[str, DeviceUser]],
    roots: Roots,
    *,
    wanted: Collection[str],
    machine: Path,
) -> HostGpus:
    """Choose cards and vGPUs; the host is looked at only if a node asks for some.

    Raises HostError for what is not there, or not free.
    """
    if not any(node.cards or node.vgpu for node in nodes):
        return HostGpus()
    facts = read_card_facts(machine, find_users(), roots, cluster=asker.name)
    remembered = remembered_cards(asker.previous)
    cards = assign_cards(nodes, facts, remembered, wanted=wanted)
    for name in cards.keys() & set(wanted):
        _require_undivided(name, cards[name], facts)
    given = {address: name for name, one in cards.items() for address in one.functions}
    for node in nodes:
        given |= {device.pci_address: node.name for device in node.pcie_devices}
    choices = VgpuChoices(
        facts=facts,
        root=machine,
        cluster_id=asker.id,
        given=given,
        remembered=remembered,
    )
    return HostGpus(cards=cards, vgpus=choices.assign(nodes, wanted=wanted))


def _require_undivided(node: str, cards: NodeCards, facts: CardFacts) -> None:
    """Raises HostError for a card with vGPUs: its driver does not let go of it."""
    for gpu in filter(None, map(facts.find, cards.cards)):
        made = [*gpu.mdev_uuids, *(vf.address for vf in gpu.sriov.vfs if vf.current_type)]
        if made:
            raise HostError(
                f"{gpu.address}, which {node} is to have whole, has vGPUs",
                details="\n".join(made),
                hint=f"ai-how gpu explain {gpu.address}",
            )
