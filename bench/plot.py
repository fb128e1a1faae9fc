"""Draws the results as a plain SVG: seconds until one can use the machines, ours and the others'.

plot.py RESULTS.json PICTURE.svg draws what is there already. Its colours read on white and on dark
pages alike: a picture cannot know which of them a page has.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from figures import AND_SSH

WIDTH, LEFT, RIGHT = 880, 190, 150
TOP, ROW, BAR, LEGEND = 44, 30, 18, 22
# Told apart by most eyes, and by their lightness; neither white nor black is near.
COLOURS = ("#0284c7", "#d97706", "#0d9488", "#db2777", "#7c3aed", "#65a30d", "#b45309", "#64748b")
OTHER, OTHER_COLOUR = "other", "#57534e"
PEER = "#94a3b8"
COLUMNS = 7
START = "hpc start, "  # how ours.py names the runs that have stages
TICKS, TICKS_S = 6, (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
STYLE = """<style>
text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #6b7785 }
.head { font-weight: 600; font-size: 15px } .small { font-size: 11px }
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
    def text(self) -> str:
        """What stands at its end."""
        if not self.parts:
            return "did not run here"
        if self.is_peer or self.ssh_s is None:
            return f"{self.total_s:.1f} s"
        return f"{self.total_s:.1f} s (ssh {self.ssh_s:.1f} s)"


def read_bars(results: dict[str, Any]) -> list[Bar]:
    """Our starts by stages, then each other tool; one without a figure is a row that says so."""
    stages_s = results.get("stages_s", {})
    bars = []
    for title, runs in results.get("runs", {}).items():
        kind = title.removeprefix(START)
        if kind != title and (nodes := stages_s.get(kind)):
            parts = slowest(nodes, median(run["wall_s"] for run in runs))
            logins = results["runs"].get(f"{title}{AND_SSH}", [{}])
            bars.append(Bar(f"ai-how, {kind}", parts, ssh_s=logins[0].get("ssh_s")))
    for peer in results.get("peers", []):
        parts = () if peer["ssh_s"] is None else (("ssh answers", peer["ssh_s"]),)
        bars.append(Bar(peer["name"], parts, is_peer=True))
    return bars


def slowest(nodes: dict[str, dict[str, float]], wall_s: float) -> tuple[tuple[str, float], ...]:
    """The stages of the node that took longest, and what else the command did beside them."""
    longest = max(nodes.values(), key=lambda stages: sum(stages.values()))
    rest = wall_s - sum(longest.values())
    parts = {**longest, OTHER: rest}
    return tuple((name, seconds) for name, seconds in parts.items() if seconds > 0)


def render_svg(results: dict[str, Any]) -> str:
    """The picture, as one SVG document without anything outside it."""
    bars = read_bars(results)
    stages = list(dict.fromkeys(name for bar in bars if not bar.is_peer for name, _ in bar.parts))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(stages)}
    colours |= {OTHER: OTHER_COLOUR} if OTHER in colours else {}
    longest_s = max((bar.total_s for bar in bars), default=1.0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / longest_s
    bottom = TOP + ROW * len(bars)
    legend = list(render_legend(colours, bottom + 34))
    height = bottom + 34 + LEGEND * legend_rows(colours) + 32
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    title = "Seconds until the machines can be used"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">',
            STYLE,
            f'<text class="head" x="12" y="24">{title}</text>',
            *render_axis(longest_s, scale, bottom),
            *(
                line
                for n, bar in enumerate(bars)
                for line in render_bar(bar, TOP + ROW * n, scale, colours)
            ),
            *legend,
            *(
                f'<text class="small" x="12" y="{height - 24 + 16 * n}">{escape(line)}</text>'
                for n, line in enumerate(captions(results))
            ),
            "</svg>",
            "",
        ]
    )


def render_axis(longest_s: float, scale: float, bottom: int) -> Iterator[str]:
    """A few lines, at round seconds."""
    step = next((tick for tick in TICKS_S if longest_s / tick <= TICKS), TICKS_S[-1])
    for n in range(int(longest_s / step) + 1):
        x = LEFT + n * step * scale
        yield f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>'
        at = f'x="{x:.1f}" y="{bottom + 14}" text-anchor="middle"'
        yield f'<text class="small" {at}>{n * step:g} s</text>'


def render_bar(bar: Bar, top: int, scale: float, colours: dict[str, str]) -> Iterator[str]:
    middle = top + BAR - 4
    yield f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>'
    x = float(LEFT)
    for name, seconds in bar.parts:
        width = max(seconds * scale, 0.5)
        fill = PEER if bar.is_peer else colours[name]
        yield (
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{fill}">'
            f"<title>{escape(name)}: {seconds:.1f} s</title></rect>"
        )
        x += width
    if bar.ssh_s is not None and not bar.is_peer:
        at = LEFT + bar.ssh_s * scale
        # Black in white, so that it shows on every colour and on every page.
        for colour, width in (("#ffffff", 5), ("#000000", 2)):
            line = f'd="M{at:.1f} {top - 3} v{BAR + 6}" stroke="{colour}" stroke-width="{width}"'
            yield f"<path {line}/>"
        x = max(x, at)
    yield f'<text x="{x + 8:.1f}" y="{middle}">{escape(bar.text)}</text>'


def render_legend(colours: dict[str, str], top: int) -> Iterator[str]:
    for n, (name, colour) in enumerate(colours.items()):
        x = 12 + (n % COLUMNS) * 118
        y = top + (n // COLUMNS) * LEGEND
        yield f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>'
        yield f'<text class="small" x="{x + 18}" y="{y - 1}">{escape(name)}</text>'


def legend_rows(colours: dict[str, str]) -> int:
    return -(-len(colours) // COLUMNS)


def captions(results: dict[str, Any]) -> tuple[str, str]:
    """What these seconds are, and where they were measured."""
    machine = results.get("machine", {})
    where = ", ".join(
        str(machine[name])
        for name in ("cores", "memory", "acceleration", "date")
        if name in machine
    )
    what = (
        "ai-how: until a SLURM job has run on 1 + 2 nodes; the line in a bar is where ssh answers "
        "on all. The others: ssh on 3 machines."
    )
    return what, where


def main(source: str, target: str) -> None:
    Path(target).write_text(render_svg(json.loads(Path(source).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
