"""The first screen: what is wrong, the nodes and the jobs, and what can be done with them."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input

from ai_how.top import asked
from ai_how.top.actions import Actions
from ai_how.top.asked import Asked
from ai_how.top.board import Board
from ai_how.top.columns import JOB_COLUMNS, NODE_COLUMNS, Tone
from ai_how.top.findings import FINDING_COLUMNS, FindingRow, rows_of
from ai_how.top.headline import LOOKING, Line, Piece, first_lines, head_lines
from ai_how.top.plain import plain
from ai_how.top.prompt import Prompt
from ai_how.top.rows import JobRow, NodeRow, Picture
from ai_how.top.table import Table

_FEW_LINES = 9
"""A lower screen has no room for findings below the tables."""
_HIGHEST_FINDINGS = 9
_SAID_S = 10.0


class Overview(Screen[None]):
    """Head, nodes, jobs, findings, and a line with the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", show=False),
        Binding("escape", "plain", show=False),
        Binding("z", "zoom", show=False),
        Binding("e", "ended", show=False),
        Binding("P", "sort('cpu')", show=False),
        Binding("M", "sort('mem')", show=False),
        Binding("T", "sort('time')", show=False),
        Binding("x,f9", "ask('cancel')", show=False),
        Binding("h", "ask('hold')", show=False),
        Binding("d", "ask('drain')", show=False),
        Binding("u", "ask('resume')", show=False),
        *(Binding(key, f"page('{key}')", show=False) for key in "lsi"),
    ]

    class Wanted(Message):
        """A page of a row is to be opened."""

        def __init__(self, row: NodeRow | JobRow | FindingRow, page: str | None) -> None:
            super().__init__()
            self.row, self.page = row, page

    class Decided(Message):
        """A change that makes sense is to be asked for; `call` makes it."""

        def __init__(
            self, asked: Asked, row: NodeRow | JobRow, call: Callable[[Actions, str], None]
        ) -> None:
            super().__init__()
            self.asked, self.row, self.call = asked, row, call

    class EndedToo(Message):
        """Jobs that have ended are to be shown, or no longer."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._said: tuple[str, Tone | None, float] | None = None
        self._zoomed: Table[Any] | None = None
        self.head, self.foot = Board(name="head"), Board(name="foot")
        self.nodes = Table(NODE_COLUMNS, name="nodes", sorted_by="node")
        self.jobs = Table(JOB_COLUMNS, name="jobs", sorted_by="state")
        self.findings = Table(FINDING_COLUMNS, name="findings", sorted_by="finding")
        self.tables: tuple[Table[Any], ...] = (self.nodes, self.jobs, self.findings)
        for table in self.tables:
            table.note = LOOKING

    def compose(self) -> ComposeResult:
        yield self.head
        yield from self.tables
        yield self.foot

    def on_mount(self) -> None:
        self.head.put(first_lines(self._title))
        self.nodes.focus()
        self._fit()

    def on_resize(self, _: Resize) -> None:
        self._fit()

    def show_picture(self, picture: Picture) -> None:
        """Put what is new in its places."""
        slurm = picture.snapshot.slurm
        self.nodes.note = "no nodes"
        self.jobs.note = "no jobs" if slurm else "SLURM has not answered yet"
        self.nodes.put(picture.nodes)
        self.jobs.put(picture.jobs)
        now = time.time()
        self.findings.put(rows_of(picture.snapshot.findings, now))
        self.show_head(picture, now)
        self._fit()

    def show_head(self, picture: Picture, now: float) -> None:
        """The head alone: ages in it grow."""
        self.head.put(head_lines(picture, now))
        self.show_foot()

    def say(self, text: str, tone: Tone | None = None) -> None:
        """Show a line in place of the keys, for a while."""
        self._said = (plain(text), tone, time.monotonic())
        self.show_foot()

    def show_foot(self) -> None:
        """The keys, or what was said."""
        if self._said and self._said[2] + _SAID_S < time.monotonic():
            self._said = None
        line = (Piece(*self._said[:2]),) if self._said else self._keys()
        self.foot.put((line,))

    def current(self) -> Table[Any]:
        """The table with the focus, or the last that had it."""
        # What has the focus is told to it by a message, after keys that were typed ahead.
        return next((one for one in self.tables if one is self.focused), self._zoomed or self.nodes)

    def action_filter(self) -> None:
        table = self.current()
        self._filtered = table
        self.mount(Prompt(table.filter), after="#foot")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._filtered.filter_by(event.value)

    def on_prompt_ended(self, event: Prompt.Ended) -> None:
        self._filtered.filter_by(event.text)
        self._filtered.focus()
        self._fit()

    def action_plain(self) -> None:
        """Without a filter; where there is none, without a zoom."""
        table = self.current()
        if table.filter:
            table.filter_by("")
            self._fit()
        elif self._zoomed:
            self.action_zoom()

    def action_zoom(self) -> None:
        """The table with the focus alone, or all again."""
        self._zoomed = None if self._zoomed else self.current()
        for table in self.tables:
            table.display = self._zoomed in {None, table}
        self._fit()

    def action_sort(self, key: str) -> None:
        table = self.current()
        if any(one.key == key for one in table.columns):
            table.sort_by(key)

    def action_ended(self) -> None:
        self.post_message(self.EndedToo())

    def action_page(self, page: str) -> None:
        row = self.current().chosen()
        if row is not None:
            self.post_message(self.Wanted(row, page))

    def on_table_opened(self, event: Table.Opened) -> None:
        row: NodeRow | JobRow | FindingRow | None = event.table.chosen()
        if row is not None:
            self.post_message(self.Wanted(row, None))

    def on_table_moved(self, _: Table.Moved) -> None:
        self.show_foot()

    def action_ask(self, change: str) -> None:
        """Ask for a change of the row with the cursor, if it makes sense there."""
        row = self.current().chosen()
        wanted, call = _plan_change(change, row)
        if wanted.refusal is not None:
            self.say(wanted.refusal, Tone.WARN)
        elif call is not None and isinstance(row, NodeRow | JobRow):
            self.post_message(self.Decided(wanted, row, call))

    def _keys(self) -> Line:
        table = self.current()
        place = f"{table.name} {table.place}/{table.count}"
        if table.filter:
            place += f" of {table.total} with: {plain(table.filter, 30)}"
        own = {
            "nodes": "d drain  u resume  l journal  s serial",
            "jobs": "x cancel  h hold  u release  l output",
        }.get(table.name or "", "Enter open")
        keys = f"  q quit  ? help  / filter  < > sort  {own}"
        return (Piece(place, is_bold=True), Piece(keys, Tone.DIM))

    def _fit(self) -> None:
        """Share the lines among the tables: findings first, then as the rows need them."""
        height = self.size.height - 1 - (self.head.height)
        rows = self.findings.total
        low = 0 if not rows or height < _FEW_LINES else min(rows + 1, height // 4 + 1)
        low = min(low, _HIGHEST_FINDINGS)
        left = max(2, height - low)
        high = min(self.nodes.count + 1, max(left // 2, left - self.jobs.count - 1))
        if self._zoomed is None:
            self.findings.display = bool(low)
        for table, lines in ((self.nodes, max(2, high)), (self.findings, low)):
            table.styles.height = "1fr" if table is self._zoomed else lines


_Change = tuple[Asked, Callable[[Actions, str], None] | None]


def _plan_change(change: str, row: object) -> _Change:
    """The change in words, and how to make it, for this row."""
    if isinstance(row, JobRow):
        job = row.job
        of_job: dict[str, _Change] = {
            "cancel": (asked.cancel(row), lambda actions, _: actions.cancel(job)),
            "hold": (asked.hold(row), lambda actions, _: actions.hold(job)),
            "resume": (asked.release(row), lambda actions, _: actions.release(job)),
        }
        return of_job.get(change, (Asked(refusal="only nodes are drained: Tab goes to them"), None))
    if isinstance(row, NodeRow):
        name = row.node.name
        of_node: dict[str, _Change] = {
            "drain": (asked.drain(row), lambda actions, reason: actions.drain(name, reason)),
            "resume": (asked.resume(row), lambda actions, _: actions.resume(name)),
        }
        return of_node.get(change, (Asked(refusal="this is for jobs: Tab goes to them"), None))
    return Asked(refusal="there is nothing here to do that with"), None
