"""The specification of MIG on the cards of a node: one layout for all, or one for each.

The second form is an entry of `mig-configs` in a file of NVIDIA's MIG manager (mig-parted, v1).
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import AliasGenerator, ConfigDict, Discriminator, Field, Tag, model_validator

from ai_how.spec import fields
from ai_how.spec.hardware import Spec
from ai_how.spec.lists import LAYOUT, LIST

Layout = Annotated[
    dict[fields.MigProfile, Annotated[int, Field(ge=1, le=8)]],
    Field(max_length=8),
]


class MigDevicesSpec(Spec):
    """What some cards are divided into, as in mig-parted's file."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(lambda name: name.replace("_", "-")),
    )

    devices: Annotated[
        Literal["all"] | tuple[Annotated[int, Field(ge=0, le=15)], ...],
        Field(description="all, or the numbers of cards, from 0.", examples=["all"]),
    ] = "all"
    mig_enabled: Annotated[
        bool, Field(description="false: the cards stay whole.", examples=[True])
    ] = True
    mig_devices: Annotated[
        Layout, Field(description="The slices of each of these cards.", examples=[{}])
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _slices_where_enabled(self) -> Self:
        if self.mig_enabled is not bool(self.mig_devices):
            raise fields.not_allowed(
                "`mig-devices` with slices if `mig-enabled` is true, and without if it is false"
            )
        return self

    def has(self, card: int) -> bool:
        return self.devices == "all" or card in self.devices


def _tag(value: object) -> str:
    return LIST if isinstance(value, list | tuple) else LAYOUT


Mig = Annotated[
    Annotated[Layout, Tag(LAYOUT)] | Annotated[tuple[MigDevicesSpec, ...], Tag(LIST)],
    Discriminator(_tag),
]


def layouts_of(
    mig: Mapping[str, int] | tuple[MigDevicesSpec, ...], cards: int
) -> tuple[Mapping[str, int], ...]:
    """The slices of each card of a node; empty for one that stays whole.

    Later entries win, as with mig-parted.
    """
    return tuple(_layout_of(mig, card) for card in range(cards))


def _layout_of(mig: Mapping[str, int] | tuple[MigDevicesSpec, ...], card: int) -> Mapping[str, int]:
    if not isinstance(mig, tuple):
        return mig
    return next((one.mig_devices for one in reversed(mig) if one.has(card)), {})


def absent_cards(
    mig: Mapping[str, int] | tuple[MigDevicesSpec, ...], cards: int
) -> Iterator[tuple[int, int]]:
    """The index of an entry, and the number of a card that the node does not have."""
    if isinstance(mig, tuple):
        for index, entry in enumerate(mig):
            if entry.devices != "all":
                yield from ((index, card) for card in entry.devices if card >= cards)
