"""What is asked before anything is changed, and what is told about it."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from ai_how.top.plain import plain

LONGEST_REASON = 120
_LONGEST = 600


class Question(ModalScreen[str | None]):
    """Says what would happen, and asks for a yes, or for a text.

    The result is the text, or an empty one for a yes; None where it is not to happen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", show=False),
        Binding("n,escape,q", "no", show=False),
    ]

    def __init__(self, lines: Sequence[str], *, verb: str, asks: str | None = None) -> None:
        super().__init__()
        self._lines, self._verb, self._asks = lines, verb, asks

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            text = "\n".join(plain(line, _LONGEST) for line in self._lines)
            yield Static(text, markup=False)
            if self._asks is None:
                yield Static(f"\ny  {self._verb}      n  leave it as it is", markup=False)
            else:
                yield Static(f"\n{self._asks}:", markup=False)
                yield Input(max_length=LONGEST_REASON, compact=True, select_on_focus=False)
                yield Static(f"\nEnter  {self._verb}      Esc  leave it as it is", markup=False)

    def action_yes(self) -> None:
        if self._asks is None:
            self.dismiss("")

    def action_no(self) -> None:
        self.dismiss(None)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if text := plain(event.value, LONGEST_REASON).strip():
            self.dismiss(text)
        else:
            self.app.bell()


class Notice(ModalScreen[None]):
    """A text to read; it goes with the next key."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space,q,question_mark", "dismiss", show=False)
    ]

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__()
        self._lines = lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            text = "\n".join(plain(line, _LONGEST) for line in self._lines)
            yield Static(text, markup=False)
            yield Static("\nEsc  back", markup=False)
