"""The progress of a plan, a live line per node: its stages and how long each took."""

import sys
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from ai_how.console.show import show_line
from ai_how.console.streams import Style, can_redraw, console_of_rich, overflow_of
from ai_how.console.text import clean
from ai_how.errors import brief_of
from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied, Step, node_of
from ai_how.plan.time_left import TimeLeft

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

# What is shown of a stage whose name, the kind of its step, is a word of the journal.
_WORDS = {
    "backup": "backing up disk",
    "base": "image",
    "disks": "disk directory",
    "grow": "larger disk",
    "network-anew": "network restart",
    "network-dhcp": "DHCP server",
    "network-hosts": "names and addresses",
    "network-up": "network start",
    "network-uplink": "uplink",
    "plug": "network interface",
    "remove-disk": "removing disk",
    "remove-disks": "removing disk directory",
    "remove-network": "removing network",
    "slurm": "closing SLURM",
    "slurm-lost": "report of lost nodes to SLURM",
    "slurm-off": "report of nodes off to SLURM",
    "undefine": "removing VM",
}
# The line of the shared steps: a cluster may have the name of a node.
_SHARED = ""
_FRAMES_PER_S = 4


@dataclass(slots=True)
class Stage:
    """One stage of one line."""

    name: str
    style: Style | None = None
    begun_at: float = field(default_factory=time.monotonic)
    took_s: float | None = None
    """None while it runs."""

    @property
    def is_running(self) -> bool:
        return self.took_s is None

    def render(self) -> str:
        elapsed_s = time.monotonic() - self.begun_at if self.took_s is None else self.took_s
        return f"{self.name} {_seconds(elapsed_s)}"


class LiveNodes(Observer):
    """Shows the execution of a plan in its block.

    On a terminal there is a line for the shared steps and one for each node, redrawn as the plan
    proceeds: the current stage, then the past ones; nothing before the first step. Otherwise each
    event is a line, printed when it is over. Steps of the kinds `awaiting` end when all nodes are
    ready: each node's line has them. A plan like one that was carried out before has a line on a
    terminal that says how long is left, until a step fails or is undone.
    """

    def __init__(
        self,
        cluster: str,
        nodes: Iterable[str] = (),
        *,
        awaiting: Collection[str] = (),
        is_silent: bool = False,
    ) -> None:
        self._cluster = cluster
        self._awaiting = awaiting
        lines = (_SHARED, *nodes)
        self._nodes = frozenset(lines[1:])
        self._is_silent = is_silent
        self._is_drawn = False
        self._live: Live | None = None
        self._overflow: Literal["ellipsis", "crop"] = "ellipsis"
        self._time_left: TimeLeft | None = None
        self._lines: dict[str, dict[str, Stage]] = {line: {} for line in lines}
        # Rich draws in its own thread.
        self._lock = threading.RLock()

    def expected(self, time_left: TimeLeft) -> None:
        self._time_left = time_left

    def begun(self, step: Step) -> None:
        self._enter(step, _words_of(step))

    def done(self, step: Step, applied: Applied, elapsed_s: float) -> None:
        words = _words_of(step)
        shown = words if applied is Applied.MADE else f"{words} (existed already)"
        with self._lock:
            if self._time_left:
                self._time_left.step_done()
        self._close(step, shown, Style.GOOD, elapsed_s)

    def failed(self, step: Step, error: BaseException) -> None:
        self._time_left = None
        self._close(step, f"{_words_of(step)} failed: {brief_of(error)}", Style.BAD)

    def undoing(self, step: Step) -> None:
        self._time_left = None
        self._enter(step, f"undoing {_words_of(step)}", Style.WARN)

    def undone(self, step: Step) -> None:
        self._close(step, f"{_words_of(step)} undone", Style.WARN)

    def undo_failed(self, step: Step, error: BaseException) -> None:
        self._close(step, f"{_words_of(step)} remains: {brief_of(error)}", Style.BAD)

    def interrupted(self) -> None:
        self._time_left = None
        text = "interrupted: running steps end, and a start is undone; Ctrl-C again exits at once"
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(text, Style.WARN.for_rich))
        elif not self._is_silent:
            show_line(text, Style.WARN)

    def __enter__(self) -> Self:
        self._is_drawn = not self._is_silent and can_redraw(sys.stdout)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_drawn = False
        self._time_left = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        from rich.live import Live  # slow to import

        self._overflow = overflow_of(sys.stdout)
        self._live = Live(
            # What is printed meanwhile goes through it: a command in it must stay one line.
            console=console_of_rich(soft_wrap=True),
            get_renderable=self._render,
            refresh_per_second=_FRAMES_PER_S,
        )
        self._live.start(refresh=False)

    def _enter(self, step: Step, name: str, style: Style | None = None) -> None:
        with self._lock:
            for line in self._lines_of(step):
                stages = self._lines.setdefault(line, {})
                stages.pop(step.key, None)  # an undone step becomes the last
                stages[step.key] = Stage(name, style)
        if self._is_drawn and self._live is None:
            self._draw()

    def _close(self, step: Step, name: str, style: Style, elapsed_s: float | None = None) -> None:
        with self._lock:
            for line in self._lines_of(step):
                stage = self._lines.setdefault(line, {}).setdefault(step.key, Stage(name))
                stage.name, stage.style = name, style
                stage.took_s = time.monotonic() - stage.begun_at if elapsed_s is None else elapsed_s
        if self._live is None and not self._is_silent:
            show_line(f"{self._line_of(step) or self._cluster}: {stage.render()}", _loud(style))

    def _lines_of(self, step: Step) -> tuple[str, ...]:
        if step.kind in self._awaiting:
            nodes = tuple(line for line in self._lines if line != _SHARED)
            return nodes or (self._line_of(step),)
        return (self._line_of(step),)

    def _line_of(self, step: Step) -> str:
        """The node that a step is about, or the line of all that nodes share."""
        node = node_of(step.subject, self._cluster) or _SHARED
        return _SHARED if self._nodes and node not in self._nodes else node

    def _render(self) -> "Text":
        from rich.text import Text

        with self._lock:
            width = max(len(line or self._cluster) for line in self._lines)
            mark = "…" if self._overflow == "ellipsis" else "..."
            left = time_left.describe() if (time_left := self._time_left) else None
            rows = [Text(left, Style.DIM.for_rich)] if left else []
            rows += [
                _render_line(line or self._cluster, width, list(stages.values()), mark)
                for line, stages in self._lines.items()
                if stages or line != _SHARED
            ]
        return Text("\n", no_wrap=True, overflow=self._overflow).join(rows)


def _render_line(name: str, width: int, stages: list[Stage], running: str) -> "Text":
    """The current stage comes first: a narrow terminal cuts off the past."""
    from rich.text import Text

    row = Text(f"{clean(name):<{width}}")
    if stages:
        now = next((stage for stage in reversed(stages) if stage.is_running), stages[-1])
        mark = running if now.is_running else ""
        row.append(f"  {clean(now.render() + mark):<16}", style=(now.style or Style.BOLD).for_rich)
        past = [stage.render() for stage in stages if stage is not now and not stage.is_running]
        row.append("  " + clean(" · ".join(past)), style=Style.DIM.for_rich)
    return row


def _words_of(step: Step) -> str:
    return _WORDS.get(step.stage, step.stage)


def _loud(style: Style) -> Style | None:
    return style if style is Style.BAD else None


def _seconds(count: float) -> str:
    return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"  # noqa: PLR2004
