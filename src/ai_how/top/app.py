"""The view itself: it takes snapshots from a thread, and runs what is asked for in others."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.filter import LineFilter
from textual.message import Message

from ai_how.errors import AiHowError
from ai_how.limits import start_thread
from ai_how.top.actions import Actions, Live, Source
from ai_how.top.columns import Tone
from ai_how.top.details import finding_lines, job_lines, node_lines
from ai_how.top.findings import FindingRow
from ai_how.top.keys import KEYS
from ai_how.top.overview import Overview
from ai_how.top.pages import Page, Pages
from ai_how.top.questions import Notice, Question
from ai_how.top.rows import JobRow, Marks, NodeRow, Picture, picture_of

if TYPE_CHECKING:
    from ai_how.monitoring.model import Snapshot

RETRY_S = 2.0
TICK_S = 1.0
_DEFAULT = Style.from_color(RichColor.default(), RichColor.default())
_SIGNS = {"…": "~", "▼": "v", "▲": "^", "→": ">", "─": "-", "│": "|"} | dict.fromkeys("╭╮╰╯", "+")


class TopApp(App[None]):
    """The view of one cluster. `failure` is why it ended, if it did not end by its user."""

    CSS_PATH = None
    CSS = """
    Screen { background: ansi_default; color: ansi_default; layout: vertical; }
    #head { height: 3; }
    #foot, Prompt { height: 1; }
    Prompt { border: none; padding: 0; background: ansi_default; }
    Table, LogView { height: 1fr; }
    Question, Notice { align: center middle; background: transparent; }
    .box {
        width: auto; max-width: 95%; min-width: 30; height: auto; max-height: 95%;
        border: round ansi_default; padding: 0 1; background: ansi_default;
        overflow-y: auto; scrollbar-size: 0 0;
    }
    .box Static { width: auto; max-width: 100%; }
    """
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", show=False),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False),
        Binding("ctrl+l", "redraw", show=False),
        Binding("question_mark,f1", "help", show=False),
    ]

    class Seen(Message):
        """There is a new snapshot, or the feed was interrupted."""

    class Opened(Message):
        """The feed is over before it began, or by a bug."""

        def __init__(self, error: BaseException | None) -> None:
            super().__init__()
            self.error = error

    class Changed(Message):
        """What was asked for is done, or has failed."""

        def __init__(self, text: str, error: BaseException | None) -> None:
            super().__init__()
            self.text, self.error = text, error

    def __init__(self, source: Source, title: str, *, is_plain: bool, is_ascii: bool) -> None:
        super().__init__(ansi_color=True)
        self.animation_level = "none"
        self.failure: BaseException | None = None
        self.was_interrupted = False
        self._source, self._title, self._is_ascii = source, title, is_ascii
        self._is_plain = is_plain
        self._live: Live | None = None
        self._actions: Actions | None = None
        self._latest: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._interruption = ""
        self._picture: Picture | None = None
        self._marks = Marks()
        self._with_ended = True
        self._ending = threading.Event()

    def get_default_screen(self) -> Overview:
        self._overview = Overview(self._title)
        return self._overview

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Without colours and signs that the terminal does not have."""
        own: list[LineFilter] = [NoColor()] if self._is_plain else []
        return [*super().get_line_filters(), *own, *([Ascii()] if self._is_ascii else [])]

    def on_mount(self) -> None:
        self.set_interval(TICK_S, self._tick)
        # The first picture is there before anything is opened.
        self.call_after_refresh(self._begin)

    def on_unmount(self) -> None:
        self._ending.set()

    def close_feed(self) -> None:
        """Ends the thread that waits for snapshots."""
        self._ending.set()
        if self._live:
            self._live.close()

    def on_top_app_seen(self, _: Seen) -> None:
        """Show the newest snapshot; those between were never drawn."""
        if self._latest is not None and self._latest is not self._shown:
            self._shown = self._latest
            self._draw()

    def on_top_app_opened(self, event: Opened) -> None:
        self._leave(event.error)

    def on_top_app_changed(self, event: Changed) -> None:
        error = event.error
        if error is None:
            self._overview.say(event.text, Tone.GOOD)
        elif isinstance(error, AiHowError):
            self._overview.say(error.brief, Tone.BAD)
            self._tell(error)
        else:
            self._leave(error)
        self._draw()

    def on_overview_ended_too(self, _: Overview.EndedToo) -> None:
        self._with_ended = not self._with_ended
        self._draw()
        shown = "are shown" if self._with_ended else "are not shown"
        self._overview.say(f"jobs that have ended {shown}")

    def on_overview_wanted(self, event: Overview.Wanted) -> None:
        """Open the page of a row."""
        row, actions, opened = event.row, self._actions, None
        if isinstance(row, FindingRow):
            facts = partial(finding_lines, row.finding, row.now)
            opened = Pages(row.finding.subject, [Page("i", "finding", facts=facts)], "i")
        elif actions is not None and isinstance(row, NodeRow):
            opened = self._pages_of_node(row.node.name, actions, event.page or "l")
        elif actions is not None and isinstance(row, JobRow):
            opened = self._pages_of_job(row, actions, event.page or _first_page(row))
        if opened is not None:
            self.push_screen(opened)

    def on_overview_decided(self, event: Overview.Decided) -> None:
        """Ask, and make the change if the answer is yes."""
        asked, row, actions = event.asked, event.row, self._actions
        if actions is None:
            return

        def answered(answer: str | None) -> None:
            if answer is None:
                self._overview.say("nothing was changed")
                return
            self._overview.say(f"{asked.doing}…")
            self._apart(asked.done, partial(self._change, event, actions, answer, row))

        self.push_screen(Question(asked.lines, verb=asked.verb, asks=asked.asks), answered)

    def action_interrupt(self) -> None:
        self.was_interrupted = True
        self.exit()

    def action_redraw(self) -> None:
        self.refresh(layout=True, repaint=True)

    def action_help(self) -> None:
        self.push_screen(Notice(KEYS))

    def _begin(self) -> None:
        def watched() -> None:
            known: AiHowError | None = None
            try:
                self._watch()
            except AiHowError as error:
                known = error
            finally:
                # Also of a bug: without it the screen would wait for ever.
                if not self._ending.is_set():
                    self.post_message(self.Opened(known or sys.exception()))

        start_thread(watched, name="top-feed")

    def _watch(self) -> None:
        """Keep the newest snapshot until the end."""
        live, self._actions = self._source.open()
        self._live = live
        while not self._ending.is_set():
            try:
                for snapshot in live.follow():
                    self._latest, self._interruption = self._pasteable(snapshot), ""
                    self.post_message(self.Seen())
                    if self._ending.is_set():
                        return
            except AiHowError as error:
                self._interruption = error.brief
            self._ending.wait(RETRY_S)

    def _pasteable(self, snapshot: "Snapshot") -> "Snapshot":
        """With the remedies of its findings as commands that can be pasted."""
        findings = (
            replace(one, remedy=self._source.completed(one.remedy)) for one in snapshot.findings
        )
        return replace(snapshot, findings=tuple(findings))

    def _tick(self) -> None:
        """Let ages grow, also where nothing comes any more."""
        if self._shown is not None:
            self._draw(is_new=False)

    def _draw(self, *, is_new: bool = True) -> None:
        if self._shown is None:
            return
        now = time.time()
        before = self._picture
        picture = picture_of(self._shown, now, self._marks, with_ended=self._with_ended)
        self._picture = picture
        # Without news only ages differ, unless a source has just become silent.
        if is_new or before is None or before.silences_named != picture.silences_named:
            self._overview.show_picture(picture)
        else:
            self._overview.show_head(picture, now)
        if self._interruption:
            self._overview.say(self._interruption, Tone.BAD)
        if is_new and isinstance(self.screen, Pages):
            self.screen.renew()

    def _pages_of_node(self, name: str, actions: Actions, first: str) -> Pages:
        def facts() -> list[str]:
            picture = self._picture
            row = picture.nodes.get(name) if picture else None
            if picture is None or row is None:
                return [f"{name} is gone"]
            return node_lines(row, picture.snapshot, time.time())

        pages = (
            Page("l", "journal", partial(actions.journal, name)),
            Page("s", "serial", partial(actions.serial, name)),
            Page("i", "details", facts=facts),
        )
        return Pages(name, pages, first)

    def _pages_of_job(self, row: JobRow, actions: Actions, first: str) -> Pages:
        last = row

        def facts() -> list[str]:
            nonlocal last
            picture = self._picture
            now = picture.jobs.get(row.job.id) if picture else None
            last = now or last
            lines = job_lines(last, picture.snapshot) if picture else []
            return lines if now else [*lines, "", "SLURM has forgotten it: it ended a while ago"]

        pages = (
            Page("l", "output", partial(actions.output, row.job)),
            Page("s", "script", partial(actions.script, row.job)),
            Page("i", "details", facts=facts),
        )
        return Pages(f"job {row.job.shown_id} {row.job.name}", pages, first)

    def _change(
        self, event: Overview.Decided, actions: Actions, answer: str, row: NodeRow | JobRow
    ) -> None:
        """In a thread: make the change, and mark its row until SLURM says the same."""
        event.call(actions, answer)
        if isinstance(row, NodeRow):
            self._marks.set_node(row.node.name, event.asked.doing, time.time())
        else:
            self._marks.set_job(row.job.id, event.asked.doing, time.time())

    def _apart(self, text: str, work: Callable[[], None]) -> None:
        """Do it in a thread, and tell how it went."""

        def worked() -> None:
            known: AiHowError | None = None
            try:
                work()
            except AiHowError as error:
                known = error
            finally:
                self.post_message(self.Changed(text, known or sys.exception()))

        start_thread(worked, name="top-change")

    def _tell(self, error: AiHowError) -> None:
        lines = [error.brief, *(error.details or "").splitlines()]
        lines += ["", f"hint: {self._source.completed(error.hint)}"] if error.hint else []
        self.push_screen(Notice(lines))

    def _leave(self, error: BaseException | None) -> None:
        self.failure = self.failure or error
        self.exit()

    def _handle_exception(self, error: Exception) -> None:
        """A bug: the caller reports it, on a terminal that is as it was."""
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        self._leave(error)


class NoColor(LineFilter):
    """Bold, underlined and reversed text only."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        return [
            Segment(text, None if style is None else style.without_color + _DEFAULT, control)
            for text, style, control in segments
        ]


class Ascii(LineFilter):
    """Signs of ASCII in place of others, each as wide as what it stands for."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        return [
            Segment(text if text.isascii() else "".join(map(_in_ascii, text)), style, control)
            for text, style, control in segments
        ]


def _in_ascii(char: str) -> str:
    if char.isascii():
        return char
    return _SIGNS.get(char) or "?" * cell_len(char)


def _first_page(row: JobRow) -> str:
    return "i" if row.job.is_waiting else "l"
