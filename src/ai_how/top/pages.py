"""What is opened of a node, a job or a finding: pages of lines, one in sight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input

from ai_how.errors import AiHowError
from ai_how.top.actions import Lines
from ai_how.top.board import Board
from ai_how.top.columns import Tone
from ai_how.top.headline import Line, Piece
from ai_how.top.log_view import TAKE_S, Follower, LogView
from ai_how.top.plain import plain
from ai_how.top.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Page:
    """One page: lines that come from elsewhere, or facts that are made anew."""

    key: str
    title: str
    opened: Callable[[], Lines] | None = None
    facts: Callable[[], list[str]] | None = None


class Pages(Screen[None]):
    """The pages of one thing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "back", show=False),
        Binding("tab", "next(1)", show=False, priority=True),
        Binding("shift+tab", "next(-1)", show=False, priority=True),
        Binding("slash", "filter", show=False),
    ]

    def __init__(self, title: str, pages: Sequence[Page], first: str) -> None:
        super().__init__()
        self._subject, self._pages = title, tuple(pages)
        self._page = next(one for one in pages if one.key == first)
        self._follower: Follower | None = None
        self._trouble = ""
        self._head, self._foot, self._view = Board(name="head"), Board(name="foot"), LogView()

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._view
        yield self._foot

    def on_mount(self) -> None:
        self.set_interval(TAKE_S, self._take)
        self._open()
        self._view.focus()

    def on_unmount(self) -> None:
        self._stop()

    def on_key(self, event: object) -> None:
        """The key of a page opens it."""
        for page in self._pages:
            if page.key == getattr(event, "key", "") and page is not self._page:
                self._page = page
                self._open()

    def renew(self) -> None:
        """Make the facts anew, if they are in sight."""
        if self._page.facts is not None:
            self._view.put(plain(line) for line in self._page.facts())

    def action_back(self) -> None:
        view = self._view
        if view.filter:
            view.filter_by("")
        else:
            self.dismiss(None)

    def action_next(self, by: int) -> None:
        place = self._pages.index(self._page) + by
        self._page = self._pages[place % len(self._pages)]
        self._open()

    def action_filter(self) -> None:
        self.mount(Prompt(self._view.filter), after="#foot")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._view.filter_by(event.value)

    def on_prompt_ended(self, event: Prompt.Ended) -> None:
        self._view.filter_by(event.text)
        self._view.focus()

    def on_log_view_changed(self, _: LogView.Changed) -> None:
        self._show_edges()

    def _open(self) -> None:
        """Show the page from its beginning."""
        self._stop()
        self._trouble = ""
        view = self._view
        view.clear()
        if self._page.opened is not None:
            self._follower = Follower(self._page.opened)
            self._follower.start()
        self.renew()
        self._show_edges()

    def _stop(self) -> None:
        if self._follower:
            self._follower.stop()
        self._follower = None

    def _take(self) -> None:
        """Show what has come."""
        follower = self._follower
        if follower is None:
            return
        is_over = follower.is_over
        if lines := follower.take():
            self._view.add(lines)
        if is_over:
            self._follower = None
            self._trouble = _words_of(follower.error) if follower.error else ""
            self._show_edges()

    def _show_edges(self) -> None:
        view = self._view
        tabs: list[Piece] = [Piece(f"{plain(self._subject, 60)}  ", is_bold=True)]
        for page in self._pages:
            name, is_open = f"{page.key} {page.title}", page is self._page
            tabs.append(Piece(f"[{name}]" if is_open else f" {name} ", is_bold=is_open))
        self._head.put((tuple(tabs),))
        self._foot.put((self._foot_line(view),))

    def _foot_line(self, view: LogView) -> Line:
        if self._trouble:
            return (Piece(self._trouble, Tone.BAD),)
        place = f"{view.last_in_sight}/{view.count}"
        if self._follower and not view.count:
            place = "looking…"
        elif self._follower and view.is_at_end:
            place += " following"
        wanted = f"  only with: {plain(view.filter, 40)}" if view.filter else ""
        return (
            Piece(f"{place}{wanted}", Tone.DIM),
            Piece("  Esc back  Tab next  / filter  End follow"),
        )


def _words_of(error: AiHowError) -> str:
    details = f" ({error.details})" if error.details else ""
    hint = f": {error.hint}" if error.hint else ""
    return plain(f"{error.brief}{details}{hint}")
