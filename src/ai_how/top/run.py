"""Shows the view on the terminal of this process, which is as before when it returns."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from ai_how.top.actions import Source
from ai_how.top.app import TopApp

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_OURS = (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


def show_top(
    source: Source,
    title: str,
    out: TextIO,
    *,
    is_plain: bool = False,
    is_ascii: bool = False,
    has_mouse: bool = True,
) -> bool:
    """Show the view until its user ends it. Whether a signal or Ctrl-C did that.

    `out` is the terminal; it must not raise where that is gone. Raises what the source raises where
    it has no such cluster.
    """
    app = _OnTerminal(source, title, out, is_plain=is_plain, is_ascii=is_ascii)
    with _former_handlers():
        try:
            app.run(mouse=has_mouse)
        finally:
            app.close_feed()
    if app.failure:
        raise app.failure
    return app.was_interrupted


class _OnTerminal(TopApp):
    """The view on a real terminal, which signals end."""

    def __init__(self, source: Source, title: str, out: TextIO, **looks: bool) -> None:
        super().__init__(source, title, **looks)
        self.driver_class = _driver_of(out)

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self.action_interrupt)
        super().on_mount()


def _driver_of(out: TextIO) -> type[LinuxDriver]:
    """A driver that writes to this stream: that of Textual stops reading its queue at an error."""

    class Driver(LinuxDriver):
        def __init__(self, app: App[Any], **how: Any) -> None:  # noqa: ANN401  Textual's own
            super().__init__(app, **how)
            self._file = cast("Any", out)
            self._is_away = False
            # Both write to a queue. A handler of Python's own interrupts any line, also one that
            # holds the lock of that queue.
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTSTP, self._sigtstp_application)
            loop.add_signal_handler(signal.SIGCONT, self._sigcont_application)

        def _sigtstp_application(self, *_: object) -> None:
            self._is_away = True
            super()._sigtstp_application()

        def _sigcont_application(self, *_: object) -> None:
            # It also comes after a hang-up, or a stop that we did not see. Textual would then begin
            # to read a second time, and wait at its end for only one of the readers.
            if not self._is_away:
                self.suspend_application_mode()
            self._is_away = False
            super()._sigcont_application()

    return Driver


@contextmanager
def _former_handlers() -> Iterator[None]:
    """Set back the handlers of signals that Textual and we set."""
    former = {number: signal.getsignal(number) for number in _OURS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
