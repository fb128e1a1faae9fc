"""Lines of text that come from elsewhere, such as a journal: scrolled, followed, filtered."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import MouseScrollDown, MouseScrollUp, Resize
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ai_how.errors import AiHowError
from ai_how.limits import start_thread
from ai_how.top.actions import Lines
from ai_how.top.plain import plain

MOST_LINES = 5000
LONGEST_LINE = 2000
TAKE_S = 0.1
IDLE_S = 0.25
_WHEEL, _SIDEWAYS = 3, 20


class Follower:
    """Reads lines in a thread. What is not taken in time is dropped, the oldest first."""

    def __init__(self, opened: Callable[[], Lines]) -> None:
        self._opened = opened
        self._news: deque[str] = deque(maxlen=MOST_LINES)
        self._stop = threading.Event()
        self.is_over = False
        self.error: AiHowError | None = None

    def start(self) -> None:
        start_thread(self._read, name="top-lines")

    def stop(self) -> None:
        """The thread ends when its source has something for it, or nothing for a moment."""
        self._stop.set()

    def take(self) -> list[str]:
        """What has come since the last call."""
        taken: list[str] = []
        while self._news:
            taken.append(self._news.popleft())
        return taken

    def _read(self) -> None:
        try:
            with closing(self._opened()) as lines:
                for line in lines:
                    if line is None:
                        if self._stop.wait(IDLE_S):
                            return
                    else:
                        self._news.extend(plain(one, LONGEST_LINE) for one in line.split("\n"))
                    if self._stop.is_set():
                        return
        except AiHowError as error:
            self.error = error
        finally:
            self.is_over = True


class LogView(Widget, can_focus=True):
    """The last lines, at whose end it stays unless it is scrolled up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f,space", "page(1)", show=False),
        Binding("home,g", "move(-1000000000)", show=False),
        Binding("end,G", "move(1000000000)", show=False),
        Binding("left", "shift(-1)", show=False),
        Binding("right", "shift(1)", show=False),
    ]

    class Changed(Message):
        """Other lines are in sight, or there are more."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._shown: list[str] = []
        self._top, self._left = 0, 0
        self.is_at_end = True
        self.filter = ""

    @property
    def count(self) -> int:
        return len(self._shown)

    @property
    def last_in_sight(self) -> int:
        return min(len(self._shown), self._top + self._height)

    def clear(self) -> None:
        self._lines.clear()
        self._top = self._left = 0
        self.is_at_end = True
        self._arrange()

    def add(self, lines: Iterable[str]) -> None:
        """Lines at the end, which are harmless by now."""
        self._lines.extend(lines)
        self._arrange()

    def put(self, lines: Iterable[str]) -> None:
        """These lines instead; what is in sight stays where it is."""
        self._lines = deque(lines, maxlen=MOST_LINES)
        self.is_at_end = False
        self._arrange()

    def filter_by(self, text: str) -> None:
        """Show only lines with this text, whatever its case."""
        self.filter = text
        self._arrange()

    def action_move(self, by: int) -> None:
        self._go(self._top + by)

    def action_page(self, by: int) -> None:
        self._go(self._top + by * max(1, self._height - 1))

    def action_shift(self, by: int) -> None:
        longest = max((cell_len(line) for line in self._shown), default=0)
        self._left = min(max(0, self._left + by * _SIDEWAYS), max(0, longest - _SIDEWAYS))
        self.refresh()

    def on_resize(self, _: Resize) -> None:
        self._arrange()

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self._go(self._top + _WHEEL)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self._go(self._top - _WHEEL)

    def render_line(self, y: int) -> Strip:
        place, width = self._top + y, self.size.width
        text = self._shown[place] if place < len(self._shown) else ""
        # A cut inside a wide character leaves a space.
        shown = _from_cell(text, self._left) if self._left else text
        return Strip([Segment(set_cell_size(shown, width), Style())], width)

    @property
    def _height(self) -> int:
        return max(1, self.size.height)

    @property
    def _lowest(self) -> int:
        return max(0, len(self._shown) - self._height)

    def _arrange(self) -> None:
        wanted = self.filter.casefold()
        self._shown = [one for one in self._lines if not wanted or wanted in one.casefold()]
        self._top = self._lowest if self.is_at_end else min(self._top, self._lowest)
        self.refresh()
        self.post_message(self.Changed())

    def _go(self, top: int) -> None:
        self._top = min(max(0, top), self._lowest)
        self.is_at_end = self._top == self._lowest
        self.refresh()
        self.post_message(self.Changed())


def _from_cell(text: str, left: int) -> str:
    """The text from this cell on."""
    for place in range(len(text) + 1):
        if (length := cell_len(text[:place])) >= left:
            return " " * (length - left) + text[place:]
    return ""
