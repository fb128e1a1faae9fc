"""Which cards of the host the nodes of a file get: those that it names, or free ones."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ai_how.clusters.preflight.device_users import DeviceUser
from ai_how.clusters.preflight.mig_of_cards import require_mig
from ai_how.errors import HostError
from ai_how.gpu.abilities import Answer, Hurdle, whole_of
from ai_how.gpu.inventory import Machine, read_machine
from ai_how.gpu.models import Gpu
from ai_how.gpu.requests import defined_in, read_requests
from ai_how.spec.gpus import AskedCards
from ai_how.spec.nodes import Node
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots


@dataclass(frozen=True, slots=True)
class NodeCards:
    """The cards of one node."""

    cards: tuple[str, ...]
    """The address of each: that of its first function."""
    functions: tuple[str, ...]
    """All functions that the VM gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What decides which cards are chosen."""

    machine: Machine
    users: Mapping[str, DeviceUser] = field(default_factory=dict)
    """Who has each device of the host now, or will have it in a moment."""
    elsewhere: frozenset[str] = frozenset()
    """Cards that VMs of other clusters have in their definition: the last to be chosen."""

    def find(self, address: str) -> Gpu | None:
        """The card whose first function has this address."""
        return next((gpu for gpu in self.machine.gpus if gpu.address == address), None)

    def find_by_function(self, address: str) -> Gpu | None:
        """The card that has a function of this address."""
        for gpu in self.machine.gpus:
            if any(one.address == address for one in gpu.functions):
                return gpu
        return None


def read_card_facts(
    root: Path, users: Mapping[str, DeviceUser], roots: Roots, *, cluster: str
) -> CardFacts:
    """Look at the host below `root`, and at the other clusters of this state directory."""
    machine = read_machine(root)
    others = tuple(one for one in read_requests(roots) if one.cluster != cluster)
    named = (gpu.address for gpu in machine.gpus if defined_in(gpu, others))
    return CardFacts(machine=machine, users=users, elsewhere=frozenset(named))


def remembered_cards(previous: ClusterState | None) -> dict[str, tuple[str, ...]]:
    """The cards that were chosen for each node before."""
    return {node.name: node.cards for node in previous.nodes if node.cards} if previous else {}


def assign_cards(
    nodes: Sequence[Node],
    facts: CardFacts,
    remembered: Mapping[str, tuple[str, ...]],
    *,
    wanted: Collection[str],
) -> dict[str, NodeCards]:
    """The cards of each node that asks for some; the same facts give the same cards.

    A node keeps what was chosen for it as long as that fits the file. Only `wanted` nodes get new
    cards. Raises HostError for a card of theirs that is not there, and where too few are free;
    whether the host can do without a card is checked later.
    """
    given: dict[str, list[Gpu]] = {
        node.name: [
            _get_card(node.name, one, facts)
            for one in node.cards.addresses
            if node.name in wanted or facts.find_by_function(one)
        ]
        for node in nodes
        if node.cards
    }
    owners = {gpu.address: name for name, gpus in given.items() for gpu in gpus}
    passed = {device.pci_address: node.name for node in nodes for device in node.pcie_devices}
    for gpu in facts.machine.gpus:
        for function in gpu.functions:
            if function.address in passed:
                owners.setdefault(gpu.address, passed[function.address])
    choosing = [(node.name, node.cards) for node in nodes if node.cards and node.cards.count]
    for name, asked in choosing:
        for gpu in _kept(name, asked, facts, remembered.get(name, ())):
            if gpu.address not in owners and len(given[name]) < asked.count:
                owners[gpu.address] = name
                given[name].append(gpu)
    for name, asked in choosing:
        missing = asked.count - len(given[name])
        if missing <= 0 or name not in wanted:
            continue
        free = _free(asked, facts, owners)
        if len(free) < missing:
            raise _too_few(name, asked, facts, owners)
        for gpu in free[:missing]:
            owners[gpu.address] = name
            given[name].append(gpu)
    for node in nodes:
        if node.name in wanted and node.cards and node.cards.slices:
            require_mig(node.name, given[node.name], node.cards.slices)
    return {name: _as_cards(gpus) for name, gpus in given.items()}


def _as_cards(gpus: Iterable[Gpu]) -> NodeCards:
    every = tuple(gpus)
    return NodeCards(
        tuple(gpu.address for gpu in every),
        tuple(one.address for gpu in every for one in gpu.functions),
    )


def _get_card(node: str, address: str, facts: CardFacts) -> Gpu:
    """The card that has a function of this address."""
    if card := facts.find_by_function(address):
        return card
    for gpu in facts.machine.gpus:
        if any(one.address == address for one in gpu.sriov.vfs):
            raise HostError(
                f"{address}, which {node} is to have, is a VF of the card {gpu.address}",
                details="gpu.pci takes whole cards; a VF is given by pcie_passthrough",
                hint=f"ai-how gpu explain {gpu.address}",
            )
    there = _list_cards(facts) or "this host has no GPU"
    if address in facts.machine.devices:
        raise HostError(
            f"{address}, which {node} is to have, is no GPU",
            details=f"other devices are given by pcie_passthrough\n{there}",
            hint="ai-how gpu list",
        )
    raise HostError(
        f"there is no device {address}, which {node} is to have",
        details=there,
        hint="ai-how gpu list",
    )


def _kept(
    name: str, asked: AskedCards, facts: CardFacts, remembered: Iterable[str]
) -> Iterable[Gpu]:
    """What was chosen before, then what its VM has now, as far as it fits the file."""
    held = [
        gpu.address
        for gpu in facts.machine.gpus
        if (user := facts.users.get(gpu.address)) and user.own_node == name
    ]
    for address in dict.fromkeys((*remembered, *held)):
        if (gpu := facts.find(address)) and fits(asked, gpu):
            yield gpu


def fits(asked: AskedCards, gpu: Gpu) -> bool:
    if any(asked.slices or ()) and gpu.can_mig is False:
        return False
    return asked.model is None or asked.model.lower() in gpu.name.lower()


def _free(asked: AskedCards, facts: CardFacts, owners: Mapping[str, str]) -> list[Gpu]:
    """Free cards in the order in which they are chosen."""
    free = [
        gpu
        for gpu in facts.machine.gpus
        if fits(asked, gpu) and _why_not(gpu, facts, owners) is None
    ]
    return sorted(
        free, key=lambda gpu: (gpu.address in facts.elsewhere, _is_on_board(gpu), gpu.address)
    )


def _is_on_board(gpu: Gpu) -> bool:
    """Whether it is on the bus of the processor itself, as graphics and NPUs in it are."""
    return gpu.address.startswith("0000:00:")


def _why_not(gpu: Gpu, facts: CardFacts, owners: Mapping[str, str]) -> Hurdle | None:
    """Why a card is not free, and the command that frees it; None if it is."""
    if owner := owners.get(gpu.address):
        return Hurdle(f"{owner} of this file has it")
    for one in gpu.functions:
        if user := facts.users.get(one.address):
            return Hurdle(f"in use by {user.who}", user.hint)
    whole = whole_of(gpu, facts.machine)
    if whole.answer is Answer.YES:
        return None
    advice = f"ai-how gpu explain {gpu.address}"
    return next(iter(whole.hurdles), Hurdle(f"whole: {whole.answer.value}", advice))


def _too_few(
    name: str, asked: AskedCards, facts: CardFacts, owners: Mapping[str, str]
) -> HostError:
    like = "" if asked.model is None else f" whose name has '{asked.model}'"
    fitting = [gpu for gpu in facts.machine.gpus if fits(asked, gpu)]
    wants = f"{name} is to have {asked.count} card{'s' * (asked.count > 1)}{like}"
    if not fitting:
        there = _list_cards(facts)
        told = "no card of this host is one" if there else "this host has no GPU"
        return HostError(f"{wants}, and {told}", details=there, hint="ai-how gpu list")
    reasons = [(gpu, _why_not(gpu, facts, owners)) for gpu in fitting]
    own = sum(owners.get(gpu.address) == name for gpu in fitting)
    free = own + sum(why is None for _, why in reasons)
    others = [(gpu, why) for gpu, why in reasons if owners.get(gpu.address) != name]
    hints = [why.advice for _, why in others if why and why.advice]
    counted = "none is" if free == 0 else f"{free} {'is' if free == 1 else 'are'}"
    return HostError(
        f"{wants}, and {counted} free",
        details="\n".join(
            f"{gpu.address} {gpu.name}: {why.text if why else 'free'}" for gpu, why in others
        ),
        hint=min(hints, key=_is_of_others) if hints else "ai-how gpu list",
    )


def _is_of_others(advice: str) -> bool:
    """Whether a command is none of ours: one that stops a cluster is told first."""
    return not advice.startswith("ai-how ")


def _list_cards(facts: CardFacts) -> str | None:
    return "\n".join(f"{gpu.address} {gpu.name}" for gpu in facts.machine.gpus) or None
