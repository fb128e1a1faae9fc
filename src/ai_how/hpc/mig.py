"""MIG slices of the real cards of a node (pure): the node divides them before slurmd starts.

A card is passed whole to the node, and is divided by the driver in it. SLURM finds slices by
`AutoDetect=nvml` alone (gres.conf(5)).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ai_how.guest.base_identity import Entry
from ai_how.hpc.guest_file import read_guest_file

MIG_UNIT = "ai-how-mig.service"
_UNIT = """\
[Unit]
Description=MIG slices of the GPUs
Wants=ai-how-nvidia.service
After=ai-how-nvidia.service
Before=slurmd.service

[Service]
Type=oneshot
ExecStart=/bin/sh /etc/ai-how/apply-mig
"""


def render_layouts(layouts: Sequence[Mapping[str, int]]) -> str:
    """A line for each card: its number, a tab, and its profiles, the widest first.

    nvidia-smi places the slices in this order; a narrow one in the middle could leave no room.
    """
    return "".join(f"{card}\t{','.join(_ordered(layout))}\n" for card, layout in enumerate(layouts))


def _ordered(layout: Mapping[str, int]) -> Iterator[str]:
    for profile in sorted(layout, key=_size_of, reverse=True):
        yield from [profile] * layout[profile]


def _size_of(profile: str) -> tuple[int, int]:
    """The parts of the processors and the GB of a profile such as 1g.10gb+me."""
    parts, _, rest = profile.partition("g.")
    return int(parts), int(rest.partition("gb")[0])


def gres_counts(layouts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """What SLURM has of a node: slices by profile; cards that stay whole have no type."""
    counts = Counter[str]()
    for layout in layouts:
        counts.update(layout or {"": 1})
    return dict(sorted(counts.items()))


def mig_entries(layouts: Sequence[Mapping[str, int]]) -> Iterator[Entry]:
    """The files of a node whose cards are divided, or were once."""
    yield Entry("etc/ai-how/mig", render_layouts(layouts))
    yield Entry("etc/ai-how/apply-mig", read_guest_file("apply-mig"))
    yield Entry(f"etc/systemd/system/{MIG_UNIT}", _UNIT)
