"""Moves a card of the host to a node: what has it is stopped, and the node is started with it."""

import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ai_how.clusters.manager import ClusterManager
from ai_how.clusters.observation import observe
from ai_how.clusters.preflight.cards import fits
from ai_how.clusters.preflight.device_users import DeviceUser, find_device_users
from ai_how.clusters.preflight.devices import check_devices
from ai_how.errors import AiHowError, HostError, SpecError
from ai_how.gpu.abilities import whole_of
from ai_how.gpu.inventory import Machine
from ai_how.gpu.models import Gpu
from ai_how.host.checks import Status
from ai_how.host.facts import read_resources
from ai_how.host.pci import Reason
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.spec.models import ClusterFile
from ai_how.spec.nodes import Node
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState

Tell = Callable[[str], None]
Choice = Mapping[str, tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class NodeOf:
    """A node of a cluster."""

    manager: ClusterManager
    node: str

    def __str__(self) -> str:
        return f"{self.manager.name}/{self.node}"

    @property
    def start(self) -> str:
        """The command that starts it, from the file of its cluster's last start."""
        name = self.manager.name
        words = ["ai-how", self.manager.kind.name, "start", "--cluster", name, self.node]
        return shlex.join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMove:
    """A card that is to be moved, and all that it takes."""

    card: Gpu
    target: NodeOf
    spec: ClusterFile
    source_file: Path | None
    source: NodeOf | None
    """The node that runs with the card now."""
    is_target_on: bool
    choice: Choice
    """The cards to be remembered for nodes of the target's cluster."""

    @property
    def is_done(self) -> bool:
        """Whether the node runs with the card already."""
        return self.source is not None and str(self.source) == str(self.target)

    @property
    def stops(self) -> tuple[NodeOf, ...]:
        """The nodes that are stopped, in this order."""
        if self.is_done:
            return ()
        running = (self.target,) if self.is_target_on else ()
        return ((self.source,) if self.source else ()) + running


def plan_move(
    card: Gpu,
    target: NodeOf,
    spec: ClusterFile,
    source_file: Path | None,
    *,
    machine: Machine,
    manager_of: Callable[[str], ClusterManager],
) -> CardMove:
    """Look at what has the card, and whether the node can have it; changes nothing.

    The `machine` has the card. `spec` is the file of the target's cluster, which must ask for the
    card. Raises HostError or SpecError for what stands in the way.
    """
    manager = target.manager
    state = manager.get_state()
    _refuse_unfinished(manager, target.node)
    nodes = manager.kind.nodes_of(manager.kind.section_of(spec))
    choice = _choose(card, target, nodes, state)
    place = manager.place()
    users: Mapping[str, DeviceUser] = {}
    is_on = False
    if place.is_up:
        with LibvirtClient(place.uri) as client:
            users = find_device_users(client, manager.roots, name=manager.name, own=state.lineage)
            seen = observe(client, state, manager.kind, asks_workload=False)
        one = state.get_node(target.node)
        is_on = seen.is_on(one)
        if seen.has_managed_save(one):
            raise HostError(
                f"{target} is suspended, and its memory knows no other card",
                hint=f"ai-how {manager.kind.name} start --cluster {manager.name}",
            )
    move = CardMove(
        card=card,
        target=target,
        spec=spec,
        source_file=source_file,
        source=_source(card, users, manager_of),
        is_target_on=is_on,
        choice=choice,
    )
    if not move.is_done:
        _refuse(move, nodes, machine)
    return move


def carry_out(move: CardMove, *, waits_s: float | None, tell: Tell) -> None:
    """Stop what has the card, remember the choice, and start the node.

    With `waits_s` a stop first waits so long for the jobs of its node; without, they are requeued
    or end at once. If the start fails, its undo frees the card; nothing is started again, and lines
    say how to.
    """
    stopped: list[NodeOf] = []
    try:
        for one in move.stops:
            tell(f"stopping {one}")
            one.manager.stop(only=[one.node], waits_s=waits_s)
            stopped.append(one)
        former = remember(move.target, move.choice)
        tell(f"starting {move.target} with {move.card.address}")
        try:
            move.target.manager.start(move.spec, source=move.source_file, only=[move.target.node])
        except AiHowError:
            with suppress(AiHowError):  # if its undo is not complete, the state must not change
                remember(move.target, former)
            raise
    except AiHowError:
        for one in stopped:
            tell(f"{one} is off; to start it as it was: {one.start}")
        raise
    if move.source:
        try:
            _forget(move.source, move.card)
        except AiHowError as error:
            # The card has moved all the same; its former node asks for it until it is told.
            tell(f"{move.source} remembers the card: {error.brief}")


def remember(one: NodeOf, choice: Choice) -> Choice:
    """Write these cards into the state of a node's cluster; return the former ones.

    Raises HostError if a run of the cluster was cut short: only a verb can recover from that.
    """
    manager = one.manager
    with held_lock(manager.paths.lock, doing=f"a choice of cards for {manager.name}"):
        _refuse_unfinished(manager, one.node)
        state = read_state(manager.paths)
        if state is None:
            return {}
        former = {node.name: node.cards for node in state.nodes if node.name in choice}
        changed = {name: cards for name, cards in choice.items() if former.get(name) != cards}
        if changed:
            nodes = tuple(
                node.model_copy(update={"cards": changed[node.name]})
                if node.name in changed
                else node
                for node in state.nodes
            )
            write_state(manager.paths, state.model_copy(update={"nodes": nodes}))
        return former


def _choose(card: Gpu, target: NodeOf, nodes: tuple[Node, ...], state: ClusterState) -> Choice:
    """What is to be remembered. Raises HostError if the node's file does not ask for the card."""
    node = next((one for one in nodes if one.name == target.node), None)
    if node is None:
        raise SpecError(
            f"the file of {target.manager.name} has no node {target.node}",
            details=f"it has: {', '.join(one.name for one in nodes)}",
        )
    functions = {one.address for one in card.functions}
    for other in nodes:
        if other is not node and functions & _named(other):
            raise HostError(
                f"the file of {target.manager.name} gives {card.address} to {other.name}",
                hint=f"ai-how gpu explain {card.address}",
            )
    asked = node.cards
    if functions & _named(node):
        return {}
    if asked is None or not asked.count:
        raise HostError(
            f"the file of {target.manager.name} does not ask for {card.address} for {target.node}",
            details=f'it may have `gpu: {{pci: "{card.address}"}}`, or `gpu: {{count: 1}}`',
            hint=f"ai-how {target.manager.kind.name} start FILE  # with a file that does",
        )
    if not fits(asked, card):
        raise HostError(
            f"{target} is to have a card whose name has '{asked.model}', and {card.address} is a "
            f"{card.name}",
            hint="ai-how gpu list",
        )
    kept = [one for one in state.get_node(node.name).cards or () if one != card.address]
    choice: dict[str, tuple[str, ...] | None] = {node.name: (card.address, *kept)[: asked.count]}
    for one in state.nodes:
        if one.name != node.name and card.address in (one.cards or ()):
            choice[one.name] = tuple(a for a in one.cards or () if a != card.address) or None
    return choice


def _named(node: Node) -> set[str]:
    """The addresses that the file has for a node."""
    passed = {device.pci_address for device in node.pcie_devices}
    return passed | set(node.cards.addresses if node.cards else ())


def _source(
    card: Gpu, users: Mapping[str, DeviceUser], manager_of: Callable[[str], ClusterManager]
) -> NodeOf | None:
    """The node that has the card now. Raises HostError if it is in the hands of others."""
    for one in card.functions:
        user = users.get(one.address)
        if user is None:
            continue
        if user.cluster is None or user.node is None:
            raise HostError(f"{card.address} is in use by {user.who}", hint=user.hint)
        manager = manager_of(user.cluster)
        manager.get_state()
        return NodeOf(manager, user.node)
    return None


def _refuse(move: CardMove, nodes: tuple[Node, ...], machine: Machine) -> None:
    """Raises HostError for what would stop the move on its way."""
    for one in move.stops:
        _refuse_unfinished(one.manager, one.node)
    node = next(one for one in nodes if one.name == move.target.node)
    functions = {node.name: tuple(one.address for one in move.card.functions)}
    # A stop closes what a running node has open. Whoever else has the card open stays.
    on = [node.name] if move.source or move.is_target_on else []
    root = move.target.manager.machine
    for check in check_devices([node], functions, read_resources(), unstarted=on, machine=root):
        if check.status is Status.FAILURE:
            raise HostError(f"{move.card.address}: {check.found}", hint=check.advice)
    if move.card.sriov.vfs or move.card.mdev_uuids:
        raise HostError(
            f"{move.card.address} is divided: it has VFs or mediated devices",
            hint=f"ai-how gpu explain {move.card.address}",
        )
    for hurdle in () if move.source else whole_of(move.card, machine).hurdles:
        if hurdle.reason in (Reason.OPENED, Reason.DRIVER_IN_USE):
            raise HostError(f"{move.card.address}: {hurdle.text}", hint=hurdle.advice)


def _refuse_unfinished(manager: ClusterManager, node: str) -> None:
    if manager.paths.journal.exists():
        kind, name = manager.kind.name, manager.name
        raise HostError(
            f"a run of {name} has not ended, or was cut short",
            hint=f"ai-how {kind} stop --cluster {name} {node}  # recovers from it",
        )


def _forget(source: NodeOf, card: Gpu) -> None:
    """A node that lost a card that was chosen for it gets another one at its next start."""
    state = read_state(source.manager.paths)
    node = state.find_node(source.node) if state else None
    if node and node.cards and card.address in node.cards:
        rest = tuple(one for one in node.cards if one != card.address)
        remember(source, {source.node: rest or None})
