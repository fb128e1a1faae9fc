"""Whether the cards of a node can be divided as its file asks (pure)."""

from collections.abc import Mapping, Sequence

from ai_how.errors import HostError
from ai_how.gpu.models import Gpu
from ai_how.spec.mig import Card, cards_named, fits


def require_mig(node: str, gpus: Sequence[Gpu], slices: Sequence[Mapping[str, int]]) -> None:
    """Raises HostError for a card without MIG, without a profile, or without room for the slices.

    A card that is not known is left to its driver in the node.
    """
    for gpu, layout in zip(gpus, slices, strict=False):
        if not layout:
            continue
        if gpu.can_mig is False:
            raise HostError(
                f"{gpu.address}, which {node} is to divide by `mig`, has no MIG: it is {gpu.name}",
                hint=f"ai-how gpu explain {gpu.address}",
            )
        known = cards_named(gpu.name)
        if known and not any(_can_be(card, layout) for card in known):
            wanted = ", ".join(f"{count} x {name}" for name, count in layout.items())
            raise HostError(
                f"{gpu.address} ({gpu.name}) cannot be divided into {wanted}, as {node} asks",
                details="\n".join(
                    f"with {card.memory_gb} GB it has: {', '.join(card.profiles)}" for card in known
                ),
                hint=f"ai-how gpu explain {gpu.address}",
            )


def _can_be(card: Card, layout: Mapping[str, int]) -> bool:
    # Profiles with media extensions take the place of those without.
    plain: dict[str, int] = {}
    for name, count in layout.items():
        base = name.partition("+")[0]
        plain[base] = plain.get(base, 0) + count
    return plain.keys() <= card.profiles.keys() and fits(card, plain)
