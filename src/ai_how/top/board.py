"""Lines that are only looked at: above the tables, and at the lower edge."""

from collections.abc import Sequence

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from ai_how.top.headline import Line
from ai_how.top.table import STYLES

_BOLD = Style(bold=True)


class Board(Widget):
    """Some lines, as high as they are many. Drawn anew only where they changed."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name, id=name)
        self._lines: tuple[Line, ...] = ()

    @property
    def height(self) -> int:
        return max(1, len(self._lines))

    def put(self, lines: Sequence[Line]) -> None:
        """Show these lines."""
        if len(lines) != len(self._lines):
            self.styles.height = max(1, len(lines))
        if tuple(lines) != self._lines:
            self._lines = tuple(lines)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """What does not fit into the width is cut."""
        width = self.size.width
        line = self._lines[y] if y < len(self._lines) else ()
        segments = [
            Segment(one.text, STYLES[one.tone] + (_BOLD if one.is_bold else Style()))
            for one in line
        ]
        strip = Strip(segments)
        if strip.cell_length <= width:
            return strip.extend_cell_length(width)
        ended = strip.crop(0, max(0, width - 1))
        return Strip([*ended, Segment(set_cell_size("…", width - ended.cell_length))], width)
