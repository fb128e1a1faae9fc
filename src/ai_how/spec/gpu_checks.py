"""Checks of a node's GPUs: against what the cards are, and against its other devices."""

from collections.abc import Iterator

from ai_how.spec.gpus import MOST_LANES, GpuSpec, SimulatedGpusSpec
from ai_how.spec.mig import CARDS, find_card, fits
from ai_how.spec.mig_layouts import MigFileSpec, absent_cards
from ai_how.spec.models import ComputeNodeSpec, HpcSpec
from ai_how.spec.nodes import devices_of
from ai_how.spec.problems import Finding, Loc, error_at, render_path, render_value, warning_at
from ai_how.spec.view import LocatedCluster, LocatedNode


def check_gpus(cluster: LocatedCluster) -> Iterator[Finding]:
    """One way for each node; a card belongs to one node; what is simulated fits on its card."""
    for node in cluster.nodes:
        if not isinstance(node.spec, ComputeNodeSpec) or node.spec.gpu is None:
            continue
        loc = (*node.loc, "gpu")
        yield from _check_ways(node.spec.gpu, loc)
        yield from _check_mig(node.spec.gpu, node.spec, loc)
        yield from _check_vgpu(node, node.spec, loc)
        asked = node.spec.gpu.simulated
        if asked is None:
            continue
        if not isinstance(cluster.spec, HpcSpec):
            yield error_at("simulated GPUs are for SLURM; remove it", loc)
            continue
        yield from _check_neighbours(node, node.spec, (*loc, "simulated"))
        yield from _check_card(asked, (*loc, "simulated"))
        yield from _check_links(asked, (*loc, "simulated"))
        yield from _check_lanes(asked, (*loc, "simulated"))
    yield from _check_owners(cluster)


def _check_ways(asked: GpuSpec, loc: Loc) -> Iterator[Finding]:
    ways = [
        name
        for name, is_given in (
            ("pci", bool(asked.pci)),
            ("count", asked.count is not None),
            ("vgpu", asked.vgpu is not None),
            ("simulated", asked.simulated is not None),
        )
        if is_given
    ]
    if not ways and asked.model is None:
        yield warning_at(
            "is empty, and has no effect; it may have `pci`, `count`, `vgpu` or `simulated`", loc
        )
    for other in ways[1:]:
        yield error_at(
            f"a node has `{ways[0]}` or `{other}`, not both; give one to another node",
            (*loc, other),
            (*loc, ways[0]),
        )
    if asked.model is not None and asked.count is None:
        yield error_at("needs `count`; `pci` names the card itself", (*loc, "model"), loc)


def _check_mig(asked: GpuSpec, spec: ComputeNodeSpec, loc: Loc) -> Iterator[Finding]:
    if asked.mig is None:
        return
    here = (*loc, "mig")
    if any(device.device_type == "gpu" for device in devices_of(spec)):
        yield error_at(
            "the node also has a GPU by `pcie_passthrough`, which stays whole: SLURM cannot tell "
            "them apart; name it in `gpu.pci`",
            here,
        )
    if asked.simulated is not None:
        yield error_at("is of real cards; that of simulated ones is `simulated.mig`", here)
        return
    if (cards := asked.cards) is None:
        yield error_at("needs `pci` or `count`", here, loc)
        return
    for index, card in absent_cards(asked.mig, cards.total):
        text = f"there is no card {card}: the node has {cards.total}, numbered from 0"
        if isinstance(asked.mig, MigFileSpec):
            yield error_at(f"{asked.mig.place_of(index)}: {text}", here)
        else:
            yield error_at(text, (*here, index, "devices"))
    whole = [number for number, one in enumerate(cards.slices or ()) if not one]
    if 0 < len(whole) < cards.total:
        yield error_at(
            f"card {whole[0]} stays whole, and others are divided: SLURM cannot tell them apart; "
            "its widest profile, such as 7g.80gb, has all of a card",
            here,
        )


def _check_vgpu(node: LocatedNode, spec: ComputeNodeSpec, loc: Loc) -> Iterator[Finding]:
    """A node has one vGPU; a VF of its own has room for one."""
    if spec.gpu and spec.gpu.vgpu and spec.vgpu:
        yield error_at(
            "the node also has a vGPU by `vgpu.mdev_uuid`; give one to another node",
            (*loc, "vgpu"),
            (*node.loc, "vgpu"),
        )


def _check_owners(cluster: LocatedCluster) -> Iterator[Finding]:
    """A card is given with its whole slot; what `pcie_passthrough` has twice is told elsewhere."""
    owners: dict[str, tuple[Loc, bool]] = {}
    parents: list[tuple[str, Loc]] = []
    for node in cluster.nodes:
        if not isinstance(node.spec, ComputeNodeSpec):
            continue
        vgpu = node.spec.gpu.vgpu if node.spec.gpu else None
        if vgpu and vgpu.parent:
            parents.append((vgpu.parent, (*node.loc, "gpu", "vgpu", "parent")))
        devices = (*node.loc, "pcie_passthrough", "devices")
        named = [
            (device.pci_address, (*devices, index, "pci_address"), False)
            for index, device in enumerate(devices_of(node.spec))
        ]
        addresses = node.spec.gpu.pci if node.spec.gpu else ()
        named += [
            (address, (*node.loc, "gpu", "pci", index), True)
            for index, address in enumerate(addresses)
        ]
        for address, loc, is_card in named:
            if is_card and node.count > 1:
                yield error_at(
                    f"{node.count} nodes cannot all have the card {address}; "
                    "`gpu.count` gives each one",
                    loc,
                )
            slot = address.rpartition(".")[0]
            first = owners.setdefault(slot, (loc, is_card))
            if first[0] != loc and (is_card or first[1]):
                yield error_at(
                    f"the card at {address} is also {render_path(first[0])}", loc, first[0]
                )
    for address, loc in parents:
        whole = owners.get(address.rpartition(".")[0])
        if whole and whole[1]:
            yield error_at(
                f"the card at {address} is given whole by {render_path(whole[0])}", loc, whole[0]
            )


def _check_neighbours(node: LocatedNode, spec: ComputeNodeSpec, loc: Loc) -> Iterator[Finding]:
    """A driver in the guest would make device files of the same names."""
    for index, device in enumerate(devices_of(spec)):
        if device.device_type == "gpu":
            real = (*node.loc, "pcie_passthrough", "devices", index)
            yield error_at(
                f"the node has a real GPU, {device.pci_address}; give the simulated ones to "
                "another node",
                loc,
                real,
            )
    if spec.vgpu:
        yield error_at(
            "the node has a vGPU; give the simulated ones to another node",
            loc,
            (*node.loc, "vgpu"),
        )


def _check_card(asked: SimulatedGpusSpec, loc: Loc) -> Iterator[Finding]:
    known = CARDS.get(asked.type)
    if known is None:
        if asked.memory_gb is None:
            yield error_at(
                f"is required: the memory of a {render_value(asked.type)} is not known",
                (*loc, "memory_gb"),
                (*loc, "type"),
            )
        if asked.mig:
            yield error_at(
                f"{render_value(asked.type)} has no known MIG profiles; types with MIG: "
                f"{', '.join(CARDS)}",
                (*loc, "mig"),
                (*loc, "type"),
            )
        return
    card = find_card(asked.type, asked.memory_gb)
    if card is None:
        sizes = " or ".join(str(one.memory_gb) for one in known)
        yield error_at(
            f"found {asked.memory_gb}; a card of type {asked.type} has {sizes} GB",
            (*loc, "memory_gb"),
            (*loc, "type"),
        )
        return
    unknown = [name for name in asked.mig if name not in card.profiles]
    for name in unknown:
        yield error_at(
            f"a card of type {asked.type} with {card.memory_gb} GB has no such profile; it has: "
            f"{', '.join(card.profiles)}",
            (*loc, "mig", name),
            (*loc, "type"),
            (*loc, "memory_gb"),
        )
    if not unknown and not fits(card, asked.mig):
        slices = ", ".join(f"{count} x {name}" for name, count in asked.mig.items())
        yield error_at(
            f"{slices} do not fit on one card of type {asked.type} with {card.memory_gb} GB; "
            "`mig` is the layout of each card",
            (*loc, "mig"),
        )


def _check_links(asked: SimulatedGpusSpec, loc: Loc) -> Iterator[Finding]:
    links, here = asked.links, (*loc, "links")
    if links is None:
        return
    if asked.mig:
        yield error_at("MIG slices have no links to each other; remove it", here, (*loc, "mig"))
        return
    if isinstance(links, int):
        return
    count = asked.count
    if len(links) != count or any(len(row) != count for row in links):
        yield error_at(
            f"found rows of {', '.join(str(len(row)) for row in links) or 'no'} numbers; "
            f"{count} cards need {count} rows of {count}",
            here,
            (*loc, "count"),
        )
        return
    for card, row in enumerate(links):
        for other, number in enumerate(row):
            if (number == -1) is not (card == other):
                yield error_at(
                    f"found {number} from card {card} to card {other}; -1 is a card itself, "
                    "and nothing else",
                    (*here, card),
                    (*loc, "count"),
                )
            elif card < other and number != links[other][card]:
                yield error_at(
                    f"found {number} from card {card} to card {other}, but "
                    f"{links[other][card]} back; a link has two ends",
                    (*here, card),
                    (*loc, "count"),
                )


def _check_lanes(asked: SimulatedGpusSpec, loc: Loc) -> Iterator[Finding]:
    if not asked.nvml or asked.mig:
        return
    if isinstance(asked.links, tuple) and len(asked.links) != asked.count:
        return
    for card in range(asked.count):
        lanes = sum(one for one in asked.links_of(card) or () if one > 0)
        if lanes > MOST_LANES:
            yield error_at(
                f"card {card} has {lanes} links; NVML knows at most {MOST_LANES} of a card",
                (*loc, "links"),
                (*loc, "nvml"),
            )
            return
