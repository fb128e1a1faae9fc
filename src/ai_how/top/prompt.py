"""The line in which the text of a filter is typed."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class Prompt(Input):
    """A filter takes effect while it is typed. Enter keeps it, Esc drops it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "drop", show=False)]

    class Ended(Message):
        """The filter is this from now on."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, text: str) -> None:
        super().__init__(text, placeholder="filter", compact=True, max_length=80, id="prompt")

    def on_mount(self) -> None:
        self.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._end(event.value)

    def action_drop(self) -> None:
        self._end("")

    def on_blur(self) -> None:
        """A click elsewhere keeps it."""
        if self.is_attached:
            self.remove()

    def _end(self, text: str) -> None:
        self.post_message(self.Ended(text))
        self.remove()
