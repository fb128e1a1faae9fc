"""The specification of MIG on the cards of a node: one layout for all, one for each, or a file.

The second form is an entry of `mig-configs` in a file of NVIDIA's MIG manager (mig-parted, v1), the
third names such a file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasGenerator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)

from ai_how.spec import fields
from ai_how.spec.hardware import Spec
from ai_how.spec.lists import LAYOUT, LIST, MIG_FILE

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


class MigFileSpec(Spec):
    """An entry of `mig-configs` in a file of mig-parted."""

    file: Annotated[
        fields.PathOfFile,
        Field(
            description="A file of mig-parted; a relative path begins where the cluster file is.",
            examples=["./mig.yaml"],
        ),
    ]
    config: Annotated[
        str | None,
        Field(
            max_length=128,
            description="The name in its `mig-configs`. Default: the only one.",
            examples=["all-balanced"],
        ),
    ] = None

    _read: tuple[Path, str, tuple[MigDevicesSpec, ...]] | None = PrivateAttr(default=None)

    def keep(self, path: Path, name: str, entries: tuple[MigDevicesSpec, ...]) -> None:
        """Keep what was read: the file, the name of its entry, and the layouts in it."""
        self._read = (path, name, entries)

    @property
    def entries(self) -> tuple[MigDevicesSpec, ...]:
        """The layouts; empty if the file could not be read, which is an error of the file."""
        return self._read[2] if self._read else ()

    def place_of(self, index: int) -> str:
        """A layout in words: its file, and its place there."""
        path, name, _ = self._read or (Path(self.file), self.config or "", ())
        return f"{path}: mig-configs.{name}[{index}]"


MigSpec = Mapping[str, int] | tuple[MigDevicesSpec, ...] | MigFileSpec


def _tag(value: object) -> str:
    if isinstance(value, MigFileSpec) or (isinstance(value, dict) and "file" in value):
        return MIG_FILE
    return LIST if isinstance(value, list | tuple) else LAYOUT


Mig = Annotated[
    Annotated[Layout, Tag(LAYOUT)]
    | Annotated[tuple[MigDevicesSpec, ...], Tag(LIST)]
    | Annotated[MigFileSpec, Tag(MIG_FILE)],
    Discriminator(_tag),
]


def layouts_of(mig: MigSpec, cards: int) -> tuple[Mapping[str, int], ...]:
    """The slices of each card of a node; empty for one that stays whole.

    Later entries win, as with mig-parted.
    """
    return tuple(_layout_of(mig, card) for card in range(cards))


def _layout_of(mig: MigSpec, card: int) -> Mapping[str, int]:
    entries = _entries_of(mig)
    if entries is None:
        return mig if isinstance(mig, Mapping) else {}
    return next((one.mig_devices for one in reversed(entries) if one.has(card)), {})


def absent_cards(mig: MigSpec, cards: int) -> Iterator[tuple[int, int]]:
    """The index of an entry, and the number of a card that the node does not have."""
    for index, entry in enumerate(_entries_of(mig) or ()):
        if entry.devices != "all":
            yield from ((index, card) for card in entry.devices if card >= cards)


def _entries_of(mig: MigSpec) -> tuple[MigDevicesSpec, ...] | None:
    """None if it is one layout for all cards."""
    if isinstance(mig, MigFileSpec):
        return mig.entries
    return mig if isinstance(mig, tuple) else None
