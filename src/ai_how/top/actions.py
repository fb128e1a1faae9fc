"""What the view is handed by its caller: what it shows, and what it does to the cluster."""

from collections.abc import Generator, Iterator
from typing import Protocol

from ai_how.monitoring.model import Job, Snapshot

Lines = Generator[str | None]
"""Lines of text as they come; None where there is nothing new for a moment."""


class Live(Protocol):
    """Where snapshots come from."""

    def follow(self) -> Iterator[Snapshot]:
        """Each new one, until `close`."""
        ...

    def close(self) -> None: ...


class Actions(Protocol):
    """What can be asked of the cluster, and done to it. Each method blocks, and raises AiHowError.

    The changes return when SLURM has accepted them.
    """

    def journal(self, node: str) -> Lines: ...

    def serial(self, node: str) -> Lines: ...

    def script(self, job: Job) -> Lines: ...

    def output(self, job: Job) -> Lines: ...

    def cancel(self, job: Job) -> None: ...

    def hold(self, job: Job) -> None: ...

    def release(self, job: Job) -> None: ...

    def drain(self, node: str, reason: str) -> None: ...

    def resume(self, node: str) -> None: ...


class Source(Protocol):
    """The cluster to look at. Opened in a thread, after the first picture."""

    def open(self) -> tuple[Live, Actions]:
        """Raises AiHowError if there is no such cluster."""
        ...

    def completed(self, text: str) -> str:
        """The text with commands that can be pasted."""
        ...
