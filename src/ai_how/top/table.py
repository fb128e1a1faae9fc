"""A table that draws only the lines that are in sight, however many rows it has.

Its rows are replaced as a whole, and its cursor stays on its row, at its place on the screen.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ai_how.top.columns import Cell, Column, Row, Tone

STYLES = {
    None: Style(),
    Tone.GOOD: Style(color="green"),
    Tone.WARN: Style(color="yellow"),
    Tone.BAD: Style(color="red", bold=True),
    Tone.DIM: Style(dim=True),
    Tone.OLD: Style(dim=True),
}
HEAD, CHOSEN = Style(bold=True, underline=True), Style(reverse=True)
IDLE_CURSOR = Style(bold=True)
_WHEEL = 3


class Table(Widget, Generic[Row], can_focus=True):
    """Rows under a heading, sorted by one column and filtered by a text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(1)", show=False),
        Binding("home,g", "move(-1000000000)", show=False),
        Binding("end,G", "move(1000000000)", show=False),
        Binding("left", "shift(-1)", show=False),
        Binding("right", "shift(1)", show=False),
        Binding("less_than_sign", "sort_next(-1)", show=False),
        Binding("greater_than_sign", "sort_next(1)", show=False),
        Binding("I", "reverse", show=False),
        Binding("enter", "open", show=False),
    ]

    class Opened(Message):
        """A row is to be looked into."""

        def __init__(self, table: "Table[Any]", key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

    class Moved(Message):
        """The cursor, the sorting or the filter is another."""

        def __init__(self, table: "Table[Any]") -> None:
            super().__init__()
            self.table = table

    def __init__(self, columns: Sequence[Column[Row]], *, name: str, sorted_by: str) -> None:
        super().__init__(name=name, id=name)
        self._columns = tuple(columns)
        self._rows: Mapping[str, Row] = {}
        self._keys: list[str] = []
        self._widths = [column.width for column in columns]
        self._cursor = self._top = self._left = 0
        self._is_reversed = False
        self._is_sorted = len(columns) > 1
        self._sorted_by = self._column_at(sorted_by)
        self.filter = ""
        self.was_used = False
        """Whether it had the focus once."""
        self.note = ""
        """What an empty table shows."""

    @property
    def count(self) -> int:
        """The rows that pass the filter."""
        return len(self._keys)

    @property
    def total(self) -> int:
        return len(self._rows)

    @property
    def place(self) -> int:
        """The number of the row with the cursor, from 1; 0 if there is none."""
        return self._cursor + 1 if self._keys else 0

    @property
    def sorted_by(self) -> Column[Row]:
        return self._columns[self._sorted_by]

    @property
    def columns(self) -> Sequence[Column[Row]]:
        return self._columns

    @property
    def keys(self) -> Sequence[str]:
        """Of the rows in sight, and of those above and below, in their order."""
        return self._keys

    def key(self) -> str | None:
        """Of the row with the cursor."""
        return self._keys[self._cursor] if self._keys else None

    def chosen(self) -> Row | None:
        """The row with the cursor."""
        key = self.key()
        return None if key is None else self._rows[key]

    def put(self, rows: Mapping[str, Row]) -> None:
        """Show these rows. The cursor stays on its row; if that is gone, where it is.

        In a table that nobody has used yet it stays on the first one: what is new comes there.
        """
        self._rows = rows
        self._arrange(keeps_top=self.place <= 1 and not (self.has_focus or self.was_used))

    def sort_by(self, key: str) -> None:
        """Sort by a column; in the other direction, if it is sorted by that already."""
        place = self._column_at(key)
        self._is_reversed = not self._is_reversed if place == self._sorted_by else False
        self._sorted_by = place
        self._arrange(keeps_top=True)
        self.post_message(self.Moved(self))

    def filter_by(self, text: str) -> None:
        """Show only rows with this text in some cell, whatever its case."""
        self.filter = text
        self._arrange()
        self.post_message(self.Moved(self))

    def action_move(self, by: int) -> None:
        self._go(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._go(self._cursor + by * max(1, self._height - 1))

    def action_shift(self, by: int) -> None:
        """Let columns after the first out of sight, or back into it."""
        left = min(max(0, self._left + by), self._most_left())
        if left != self._left:
            self._left = left
            self.refresh()

    def action_sort_next(self, by: int) -> None:
        place = (self._sorted_by + by) % len(self._columns)
        self.sort_by(self._columns[place].key)

    def action_reverse(self) -> None:
        self.sort_by(self.sorted_by.key)

    def action_open(self) -> None:
        if (key := self.key()) is not None:
            self.post_message(self.Opened(self, key))

    def on_focus(self) -> None:
        self.was_used = True
        self.refresh()
        self.post_message(self.Moved(self))

    def on_blur(self) -> None:
        self.refresh()

    def on_resize(self, _: Resize) -> None:
        self._left = min(self._left, self._most_left())
        self._go(self._cursor)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self._go(self._cursor + _WHEEL)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self._go(self._cursor - _WHEEL)

    def on_click(self, event: Click) -> None:
        """A click chooses a row, a second one opens it; one on the heading sorts."""
        event.stop()
        if event.y == 0:
            if (column := self._column_under(event.x)) is not None:
                self.sort_by(column.key)
        elif (place := self._top + event.y - 1) < len(self._keys):
            self._go(place)
            if event.chain > 1:
                self.action_open()

    def render_line(self, y: int) -> Strip:
        """A line of the table, as wide as it is."""
        width = self.size.width
        if y == 0:
            return self._line([(Cell(text), HEAD) for text in self._titles()], width, HEAD)
        place = self._top + y - 1
        if place >= len(self._keys):
            note = self.note if y == 1 and not self._keys else ""
            return Strip([Segment(set_cell_size(f" {note}", width), STYLES[Tone.DIM])], width)
        row = self._rows[self._keys[place]]
        over = Style()
        if place == self._cursor:
            over = CHOSEN if self.has_focus else IDLE_CURSOR
        cells = [column.cell(row) for column in self._columns]
        return self._line([(one, STYLES[one.tone] + over) for one in cells], width, over)

    def _titles(self) -> list[str]:
        is_down = self.sorted_by.is_largest_first is not self._is_reversed
        mark = "▼" if is_down else "▲"
        marked = self._sorted_by if self._is_sorted else None
        return [
            f"{column.title}{mark}" if number == marked else column.title
            for number, column in enumerate(self._columns)
        ]

    def _line(self, cells: list[tuple[Cell, Style]], width: int, gap: Style) -> Strip:
        segments: list[Segment] = []
        left = width
        for number in self._in_sight():
            if left <= 0:
                break
            cell, style = cells[number]
            wide = min(self._widths[number], left)
            text = _fitted(cell.text, wide, is_right=self._columns[number].is_right)
            segments.append(Segment(text, style))
            left -= wide
            if left > 0:
                segments.append(Segment(" ", gap))
                left -= 1
        if left > 0:
            segments.append(Segment(" " * left, gap))
        return Strip(segments, width)

    def _in_sight(self) -> list[int]:
        """The columns from the left edge on: the first one is always there."""
        return [0, *range(1 + self._left, len(self._columns))]

    def _column_under(self, x: int) -> Column[Row] | None:
        edge = 0
        for number in self._in_sight():
            edge += self._widths[number] + 1
            if x < edge:
                return self._columns[number]
        return None

    def _most_left(self) -> int:
        """How many columns may be out of sight on the left: not more than fit on the right."""
        left, room = len(self._columns) - 1, self.size.width - self._widths[0]
        while left > 0 and (room := room - self._widths[left] - 1) >= 0:
            left -= 1
        return left

    def _column_at(self, key: str) -> int:
        return next(place for place, one in enumerate(self._columns) if one.key == key)

    @property
    def _height(self) -> int:
        """The lines for rows."""
        return max(1, self.size.height - 1)

    def _arrange(self, *, keeps_top: bool = False) -> None:
        """Filter, sort and measure anew."""
        key, on_screen = self.key(), self._cursor - self._top
        wanted = self.filter.casefold()
        keys = [one for one, row in self._rows.items() if not wanted or self._has(row, wanted)]
        self._keys = self._sorted(keys)
        self._measure()
        if keeps_top:
            self._cursor = 0
        elif key in self._keys:
            self._cursor = self._keys.index(key)
        self._cursor = min(self._cursor, max(0, len(self._keys) - 1))
        self._top = 0 if keeps_top else self._cursor - on_screen
        self._keep_in_sight()
        self.refresh()

    def _has(self, row: Row, wanted: str) -> bool:
        return any(wanted in column.cell(row).text.casefold() for column in self._columns)

    def _sorted(self, keys: list[str]) -> list[str]:
        # Values of one column are of one kind.
        values: dict[str, Any] = {key: self.sorted_by.order(self._rows[key]) for key in keys}
        known = sorted(
            (key for key in keys if values[key] is not None),
            key=values.__getitem__,
            reverse=self.sorted_by.is_largest_first is not self._is_reversed,
        )
        return known + [key for key in keys if values[key] is None]

    def _measure(self) -> None:
        """Grow and shrink the columns that fit their texts."""
        for number, column in enumerate(self._columns):
            if column.widest:
                texts = (column.cell(self._rows[key]).text for key in self._keys)
                longest = max((cell_len(text) for text in texts), default=0)
                self._widths[number] = min(max(longest, column.width), column.widest)

    def _go(self, place: int) -> None:
        """Move the cursor, and what is in sight if it must."""
        before, top = self._cursor, self._top
        self._cursor = min(max(0, place), max(0, len(self._keys) - 1))
        self._keep_in_sight()
        if self._top != top:
            self.refresh()
        elif self._cursor != before:
            for one in (before, self._cursor):
                self.refresh(Region(0, one - self._top + 1, self.size.width, 1))
        if self._cursor != before:
            self.post_message(self.Moved(self))

    def _keep_in_sight(self) -> None:
        lowest = max(0, len(self._keys) - self._height)
        self._top = min(max(self._top, self._cursor - self._height + 1, 0), self._cursor, lowest)


def _fitted(text: str, width: int, *, is_right: bool) -> str:
    """The text in exactly so many cells; what does not fit ends with a `…`."""
    length = cell_len(text)
    if length > width:
        return f"{set_cell_size(text, max(0, width - 1))}…" if width else ""
    return " " * (width - length) + text if is_right else text + " " * (width - length)
