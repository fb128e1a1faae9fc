"""What the page needs of the clusters: `cli/` hands it over. All may block and raise AiHowError."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ai_how.dashboard.metrics_own import NodeStart
from ai_how.monitoring.live import Live


class Line(Protocol):
    """An open console: one thread waits in `recv`, another sends and closes."""

    def recv(self, size: int) -> bytes: ...

    def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """An entry of a node's journal: the guest's word, without control characters."""

    at: float | None
    identifier: str | None
    priority: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Known:
    """A cluster of the user, as its state has it."""

    name: str
    kind: str
    nodes: tuple[str, ...]


class Clusters(Protocol):
    """The clusters of one user. It is asked often which there are: that must be quick."""

    def known(self) -> Sequence[Known]: ...

    def starts(self, name: str) -> Sequence[NodeStart]:
        """How its nodes last came up."""
        ...

    def connect(self, name: str) -> Live: ...

    def journal(self, name: str, node: str, lines: int) -> Sequence[JournalEntry]:
        """The last entries of the journal of a node that is on."""
        ...

    def console(self, name: str, node: str) -> AbstractContextManager[Line]:
        """The serial console of a node that is on; another reader of it is disconnected."""
        ...
