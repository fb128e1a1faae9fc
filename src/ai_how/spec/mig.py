"""What MIG can make of each known kind of card (pure).

Profiles, their memory and their placements are those of NVIDIA's MIG user guide ("Supported MIG
Profiles": A30, A100, H100, H200), and of `nvidia-smi mig -lgip` and `-lgipp`. Profiles with media
extensions (`+me`, `+gfx`) are left out. Nothing here was compared with a card.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of slice, such as 1g.5gb: one of 7 parts of the processors, with 5 GB of memory."""

    name: str
    width: int
    """The memory slices that it takes."""
    starts: tuple[int, ...]
    """The memory slices at which it may begin."""
    first_id: int
    """The id of the first GPU instance of this profile; the driver numbers them from there."""


@dataclass(frozen=True, slots=True)
class Card:
    """A known kind of card."""

    memory_gb: int
    memory_slices: int
    profiles: Mapping[str, Profile]


def _profiles(*profiles: Profile) -> Mapping[str, Profile]:
    return {one.name: one for one in profiles}


def _seven(memory_gb: int, *names: str) -> Card:
    """A card of seven parts, with the names of its profiles from the smallest to the whole."""
    one, roomy, two, three, four, whole = names
    return Card(
        memory_gb,
        8,
        _profiles(
            Profile(one, 1, (0, 1, 2, 3, 4, 5, 6), 7),
            Profile(roomy, 2, (0, 2, 4, 6), 3),
            Profile(two, 2, (0, 2, 4), 3),
            Profile(three, 4, (0, 4), 1),
            Profile(four, 4, (0,), 1),
            Profile(whole, 8, (0,), 0),
        ),
    )


CARDS: Mapping[str, tuple[Card, ...]] = {
    "a30": (
        Card(
            24,
            4,
            _profiles(
                Profile("1g.6gb", 1, (0, 1, 2, 3), 3),
                Profile("2g.12gb", 2, (0, 2), 1),
                Profile("4g.24gb", 4, (0,), 0),
            ),
        ),
    ),
    "a100": (
        _seven(40, "1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
        _seven(80, "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    ),
    "h100": (
        _seven(80, "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
        _seven(94, "1g.12gb", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb"),
        _seven(96, "1g.12gb", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb"),
    ),
    "h200": (_seven(141, "1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"),),
}
"""The cards by the type that the file gives, the usual memory first."""


def find_card(card_type: str, memory_gb: int | None) -> Card | None:
    """The known card of a type: of this memory, or of the usual one."""
    cards = CARDS.get(card_type, ())
    return next((one for one in cards if memory_gb in (None, one.memory_gb)), None)


def cards_named(name: str) -> tuple[Card, ...]:
    """The known cards that a product name may mean, such as `GA100 [A100 SXM4 80GB]`.

    Empty if none is known. Several if the name does not tell the memory.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    cards = next((CARDS[word] for word in words if word in CARDS), ())
    sizes = {int(found[1]) for word in words if (found := re.fullmatch(r"(\d+)gb", word))}
    return tuple(one for one in cards if one.memory_gb in sizes) or cards


def sorted_slices(card: Card, layout: Mapping[str, int]) -> tuple[Profile, ...]:
    """The slices of a layout, the widest first."""
    wanted = [card.profiles[name] for name, count in layout.items() for _ in range(count)]
    return tuple(sorted(wanted, key=lambda one: (-one.width, one.name)))


def fits(card: Card, layout: Mapping[str, int]) -> bool:
    """Whether the slices of a layout can be placed on one card, in whatever order.

    All of them are profiles of the card.
    """
    if sum(layout.values()) > card.memory_slices:
        return False
    return _can_place(sorted_slices(card, layout), frozenset(range(card.memory_slices)))


def _can_place(slices: Sequence[Profile], free: frozenset[int]) -> bool:
    if not slices:
        return True
    return any(_can_place(slices[1:], free - taken) for taken in _places(slices[0], free))


def _places(profile: Profile, free: frozenset[int]) -> Iterator[frozenset[int]]:
    for start in profile.starts:
        taken = frozenset(range(start, start + profile.width))
        if taken <= free:
            yield taken
