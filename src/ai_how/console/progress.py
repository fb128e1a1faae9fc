"""A progress bar for one task: drawn on a terminal, lines in a log, nothing with --json."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ai_how.console.show import show_line
from ai_how.console.streams import can_redraw, console_of_rich
from ai_how.console.text import clean

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressBar:
    """Used around the task, which calls `watch` to report progress."""

    def __init__(self, what: str, *, is_silent: bool = False) -> None:
        self.what = what
        self._is_silent = is_silent
        self._is_drawn = not is_silent and can_redraw(sys.stdout)
        self._bar: Progress | None = None
        self._last = ""

    def watch(self, share: float, doing: str = "") -> None:
        """`share` of the task, 0.0 to 1.0, is done; a log gets a line when `doing` changes.

        The bar is there from the first call on: a task that has nothing to do shows none.
        """
        if self._is_drawn and self._bar is None:
            self._draw()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=share, doing=clean(doing))
        elif not self._is_silent and doing and doing != self._last:
            show_line(f"{self.what}: {share:4.0%}  {doing}")
        self._last = doing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _draw(self) -> None:
        from rich.progress import (  # slow to import
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
            console=console_of_rich(),
        )
        self._bar.add_task(clean(self.what), total=1.0, doing="")
        self._bar.start()
