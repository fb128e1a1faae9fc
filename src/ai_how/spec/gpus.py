"""The specification of a node's GPUs: cards of the host, or simulated ones without a card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from ai_how.spec import fields
from ai_how.spec.hardware import Spec
from ai_how.spec.lists import OneOrList
from ai_how.spec.mig import find_card
from ai_how.spec.mig_layouts import Mig, layouts_of

MOST_CARDS = 16
MOST_LINKS = 1023  # SLURM's GRES_MAX_LINK
MOST_LANES = 18  # NVML_NVLINK_MAX_LINKS: what NVML asks a card for


def _number(value: object) -> int | None:
    """A number of links; `${NAME}` in the file makes it a text. None if it is none."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,6}", value):
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and isinstance(value, int) and -1 <= value <= MOST_LINKS else None


def _links(value: object) -> int | tuple[tuple[int, ...], ...]:
    if (number := _number(value)) is not None and number >= 0:
        return number
    if isinstance(value, list | tuple) and all(isinstance(row, list | tuple) for row in value):
        rows = [[_number(one) for one in row] for row in value]
        if all(one is not None for row in rows for one in row):
            return tuple(tuple(one for one in row if one is not None) for row in rows)
    raise fields.not_allowed(
        f"a number of links between any two cards, 0 to {MOST_LINKS}, or a list of such numbers "
        "for each card, with -1 for itself"
    )


Links = Annotated[
    int | tuple[tuple[int, ...], ...],
    PlainValidator(_links),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MOST_LINKS},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        }
    ),
]


class SimulatedGpusSpec(Spec):
    """GPUs that only SLURM sees: device files without a driver behind them."""

    type: Annotated[
        fields.GresType,
        Field(
            description="The type in SLURM, such as a100, h100, h200, a30, or any other name.",
            examples=["a100"],
        ),
    ]
    count: Annotated[
        int, Field(ge=1, le=MOST_CARDS, description="The number of cards.", examples=[4])
    ]
    memory_gb: Annotated[
        int | None,
        Field(
            ge=1,
            le=1024,
            description="Memory of a card in GB. Default: that of the type (a100: 40, h100: 80, "
            "h200: 141, a30: 24); required for other types.",
            examples=[40],
        ),
    ] = None
    mig: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=8)]],
        Field(
            description='The MIG slices of each card, by profile, such as {"1g.5gb": 7}; SLURM '
            "then has the slices, and no whole cards.",
            examples=[{}],
        ),
    ] = Field(default_factory=dict)
    links: Annotated[
        Links | None,
        Field(
            description="NVLinks: a number between any two cards, or for each card a list with "
            "the links to each, and -1 for itself.",
            examples=[12],
        ),
    ] = None
    nvml: Annotated[
        bool,
        Field(
            description="Whether SLURM finds the GPUs by its real AutoDetect=nvml, with an NVML "
            "library that programs (pynvml) can use as well. It needs an image with the set "
            "simulated-gpus.",
            examples=[False],
            # repr() of nodes decides whether running ones are told anew; slurm.conf has this.
            repr=False,
        ),
    ] = False

    @property
    def card_memory_gb(self) -> int:
        """The memory of a card in GB; 0 if it is neither given nor known, which is refused."""
        if self.memory_gb is not None:
            return self.memory_gb
        card = find_card(self.type, None)
        return card.memory_gb if card else 0

    @property
    def gres_counts(self) -> dict[str, int]:
        """What a node has for SLURM: the number of each type, of whole cards or of slices."""
        if not self.mig:
            return {self.type: self.count}
        return {profile: number * self.count for profile, number in sorted(self.mig.items())}

    def links_of(self, card: int) -> tuple[int, ...] | None:
        """The links of a card to each card, -1 to itself; None if the file gives none."""
        if self.links is None:
            return None
        if isinstance(self.links, int):
            return tuple(-1 if one == card else self.links for one in range(self.count))
        return self.links[card]


class VgpuProfileSpec(Spec):
    """A share of a card of the host, which a start makes and a stop removes."""

    profile: Annotated[
        fields.VgpuProfile,
        Field(
            description="The type of the vGPU by its id or its name, as `gpu explain` shows them.",
            examples=["nvidia-63", "GRID T4-1Q"],
        ),
    ]
    parent: Annotated[
        fields.PciAddress | None,
        Field(
            description="The address of the card, or of a VF of it. Default: any that offers the "
            "type and has one free.",
            examples=["0000:65:00.0"],
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class AskedCards:
    """The cards of the host that a node asks for: these, or `count` that a start chooses."""

    addresses: tuple[str, ...] = ()
    count: int = 0
    model: str | None = None
    slices: tuple[Mapping[str, int], ...] | None = None
    """The MIG slices of each card, by profile; empty for a whole one. None: left as they are."""

    @property
    def total(self) -> int:
        return len(self.addresses) or self.count


class GpuSpec(Spec):
    """The GPUs of a node, in one of four ways: `pci`, `count`, `vgpu` or `simulated`."""

    pci: Annotated[
        Annotated[tuple[fields.PciAddress, ...], OneOrList()],
        Field(
            max_length=MOST_CARDS,
            description="The address of a card of the host, or a list of them. The node gets all "
            "functions of each.",
            examples=[["0000:65:00.0"]],
        ),
    ] = ()
    count: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST_CARDS,
            description="The number of cards of the host; a start chooses free ones.",
            examples=[1],
        ),
    ] = None
    model: Annotated[
        fields.CardModel | None,
        Field(
            description="With `count`: a part of the card's name, as `gpu list` shows it.",
            examples=["RTX 4090"],
        ),
    ] = None
    mig: Annotated[
        Mig | None,
        Field(
            description='With `pci` or `count`: the MIG slices of each card, such as {"1g.10gb": '
            "7}, or a list as in `mig-configs` of mig-parted, or its file (`file`, `config`). The "
            "node divides its cards before slurmd starts. {} makes them whole; without `mig` they "
            "are left as they are.",
            examples=[{}],
        ),
    ] = None
    vgpu: Annotated[
        VgpuProfileSpec | None,
        Field(description="A vGPU that a start makes on a card of the host, and a stop removes."),
    ] = None
    simulated: Annotated[
        SimulatedGpusSpec | None,
        Field(description="GPUs for SLURM without a card: no driver, no CUDA."),
    ] = None

    @property
    def cards(self) -> AskedCards | None:
        """The cards of the host that it asks for; None if it asks for none."""
        if not self.pci and self.count is None:
            return None
        total = len(self.pci) or self.count or 0
        slices = None if self.mig is None else layouts_of(self.mig, total)
        return AskedCards(self.pci, self.count or 0, self.model, slices)
