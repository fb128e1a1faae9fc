"""Draws the results as a plain SVG: seconds until one can use the machines, ours and the others'.

plot.py RESULTS.json PICTURE.svg draws what is there already. Its colours read on white and on dark
pages alike: a picture cannot know which of them a page has.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from figures import AND_SSH

WIDTH, MARGIN = 880, 12
TOP, ROW, BAR, LEGEND = 44, 28, 18, 22
# What a letter takes on average where the font is a wide one; a picture cannot measure it.
LETTER, SMALL_LETTER = 7.8, 6.8
# What the command does beside the stages. Figures of earlier versions have no waiting apart.
REST, REST_AND_WAITING = "the command itself", "waiting for other nodes, and the command itself"
QUEUE, OTHERS = "queue", "others"
# Each stage of `ai_how.clusters.stage_times` has a colour of its own, in the legend's order.
COLOURS = {
    "disk": "#7f1d1d",
    "domain": "#f87171",
    QUEUE: "#fcd34d",
    "boot": "#ea580c",
    "restore": "#2563eb",
    "resume": "#0d9488",
    "agent": "#db2777",
    "clock": "#22d3ee",
    "services": "#7c3aed",
    OTHERS: "#d6d3d1",
    "ready": "#65a30d",
    REST: "#57534e",
    REST_AND_WAITING: "#57534e",
}
WORDS = {QUEUE: "waiting for its turn", OTHERS: "waiting for other nodes"}
PEER = "#94a3b8"
START = "hpc start, "  # how ours.py names the runs that have stages
FEW = "1 + 2 nodes"  # of a start whose name does not say how many
OURS = "ai-how: until a SLURM job has run on every node (line: until ssh answers on all)"
PEERS = "Three machines without SLURM: until ssh answers on all"
TICKS, TICKS_S = 6, (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
STYLE = """<style>
text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #6b7785 }
.head { font-weight: 600; font-size: 15px } .small { font-size: 11px } .group { font-weight: 600 }
line { stroke: #94a3b8; stroke-opacity: .35 }
</style>"""


@dataclass(frozen=True)
class Bar:
    """One row: its name, its parts in order; `ssh_s` is where ssh answered on every node."""

    name: str
    parts: tuple[tuple[str, float], ...]
    is_peer: bool = False
    ssh_s: float | None = None

    @property
    def total_s(self) -> float:
        return sum(seconds for _, seconds in self.parts)

    @property
    def end_s(self) -> float:
        """Where its text may begin."""
        return self.total_s if self.is_peer else max(self.total_s, self.ssh_s or 0.0)

    @property
    def text(self) -> str:
        """What stands at its end."""
        if not self.parts:
            return "did not run here"
        if self.is_peer or self.ssh_s is None:
            return f"{self.total_s:.1f} s"
        return f"{self.total_s:.1f} s (ssh {self.ssh_s:.1f} s)"


@dataclass(frozen=True)
class Row:
    """Where a bar, or the head of a group of them, stands."""

    top: int
    what: Bar | str


def read_bars(results: dict[str, Any]) -> list[Bar]:
    """Our starts by stages, then each other tool; one without a figure is a row that says so."""
    stages_s = results.get("stages_s", {})
    bars = []
    for title, runs in results.get("runs", {}).items():
        kind = title.removeprefix(START)
        if kind != title and (nodes := stages_s.get(kind)):
            parts = last_of(nodes, median(run["wall_s"] for run in runs))
            logins = results["runs"].get(f"{title}{AND_SSH}", [{}])
            bars.append(Bar(name_of(kind), parts, ssh_s=logins[0].get("ssh_s")))
    for peer in results.get("peers", []):
        parts = () if peer["ssh_s"] is None else (("ssh answers", peer["ssh_s"]),)
        bars.append(Bar(peer["name"], parts, is_peer=True))
    return bars


def name_of(kind: str) -> str:
    """`1 + 25 nodes, warm` for `warm, 1 + 25 nodes`."""
    how, _, nodes = kind.partition(", ")
    return f"{nodes or FEW}, {how}"


def last_of(nodes: dict[str, dict[str, float]], wall_s: float) -> tuple[tuple[str, float], ...]:
    """The stages of the node that the others waited for, and what the command did beside them."""
    last = max(nodes.values(), key=lambda stages: sum(stages.values()) - stages.get(OTHERS, 0.0))
    rest = wall_s - sum(last.values())
    parts = {**last, (REST if OTHERS in last else REST_AND_WAITING): rest}
    return tuple((name, seconds) for name, seconds in parts.items() if seconds > 0)


def render_svg(results: dict[str, Any]) -> str:
    """The picture, as one SVG document without anything outside it."""
    bars = read_bars(results)
    left = round(MARGIN + 10 + LETTER * max((len(bar.name) for bar in bars), default=0))
    longest_s = max((bar.end_s for bar in bars), default=1.0) or 1.0
    scale = min((WIDTH - left) / longest_s, *(scale_for(bar, left) for bar in bars), 1e6)
    rows = list(rows_of(bars))
    bottom = (rows[-1].top if rows else TOP) + ROW
    legend, height = render_legend(names_in(bars), bottom + 34)
    caption = where_measured(results)
    height += 20
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    title = "Seconds from the command until the machines can be used"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">',
            STYLE,
            f'<text class="head" x="{MARGIN}" y="24">{title}</text>',
            *render_axis(longest_s, left, scale, bottom),
            *(line for row in rows for line in render_row(row, left, scale)),
            *legend,
            f'<text class="small" x="{MARGIN}" y="{height - 10}">{escape(caption)}</text>',
            "</svg>",
            "",
        ]
    )


def scale_for(bar: Bar, left: int) -> float:
    """Pixels a second with which the bar and its text end within the picture."""
    room = WIDTH - left - MARGIN - 8 - LETTER * len(bar.text)
    return room / bar.end_s if bar.end_s else 1e6


def rows_of(bars: list[Bar]) -> Iterator[Row]:
    """The bars from the top down, with a head above ours and above the others."""
    top = TOP
    for before, bar in pairwise([None, *bars]):
        if bar and (before is None or before.is_peer != bar.is_peer):
            yield Row(top, PEERS if bar.is_peer else OURS)
            top += ROW
        if bar:
            yield Row(top, bar)
            top += ROW


def names_in(bars: list[Bar]) -> list[str]:
    """The stages that occur, in the order in which a node passes them."""
    found = {name for bar in bars if not bar.is_peer for name, _ in bar.parts}
    return [name for name in COLOURS if name in found]


def render_axis(longest_s: float, left: int, scale: float, bottom: int) -> Iterator[str]:
    """A few lines, at round seconds."""
    step = next((tick for tick in TICKS_S if longest_s / tick <= TICKS), TICKS_S[-1])
    for n in range(int(longest_s / step) + 1):
        x = left + n * step * scale
        yield f'<line x1="{x:.1f}" y1="{TOP + ROW - 6}" x2="{x:.1f}" y2="{bottom}"/>'
        at = f'x="{x:.1f}" y="{bottom + 14}" text-anchor="middle"'
        yield f'<text class="small" {at}>{n * step:g} s</text>'


def render_row(row: Row, left: int, scale: float) -> Iterator[str]:
    middle = row.top + BAR - 4
    if isinstance(row.what, str):
        yield f'<text class="group" x="{MARGIN}" y="{middle}">{escape(row.what)}</text>'
    else:
        yield from render_bar(row.what, row.top, left, scale)


def render_bar(bar: Bar, top: int, left: int, scale: float) -> Iterator[str]:
    middle = top + BAR - 4
    yield f'<text x="{left - 10}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>'
    x = float(left)
    for name, seconds in bar.parts:
        width = max(seconds * scale, 0.5)
        fill = PEER if bar.is_peer else COLOURS[name]
        yield (
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{fill}">'
            f"<title>{escape(WORDS.get(name, name))}: {seconds:.1f} s</title></rect>"
        )
        x += width
    if bar.ssh_s is not None and not bar.is_peer:
        at = left + bar.ssh_s * scale
        # Black in white, so that it shows on every colour and on every page.
        for colour, width in (("#ffffff", 5), ("#000000", 2)):
            line = f'd="M{at:.1f} {top - 3} v{BAR + 6}" stroke="{colour}" stroke-width="{width}"'
            yield f"<path {line}/>"
    x = left + bar.end_s * scale
    yield f'<text x="{x + 8:.1f}" y="{middle}">{escape(bar.text)}</text>'


def render_legend(names: Iterable[str], top: int) -> tuple[list[str], int]:
    """Its lines, as wide as their words, and where it ends."""
    lines, x, y = [], MARGIN, top
    for name in names:
        words = WORDS.get(name, name)
        width = round(18 + SMALL_LETTER * len(words) + 14)
        if x > MARGIN and x + width > WIDTH:
            x, y = MARGIN, y + LEGEND
        lines += [
            f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{COLOURS[name]}"/>',
            f'<text class="small" x="{x + 18}" y="{y - 1}">{escape(words)}</text>',
        ]
        x += width
    return lines, y + LEGEND


def where_measured(results: dict[str, Any]) -> str:
    machine = results.get("machine", {})
    names = ("cores", "memory", "acceleration", "date")
    known = [str(machine[name]) for name in names if name in machine]
    cores = [f"{known[0].replace(' (', ' cores (', 1)}", *known[1:]] if known else []
    return ", ".join(cores)


def main(source: str, target: str) -> None:
    Path(target).write_text(render_svg(json.loads(Path(source).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
