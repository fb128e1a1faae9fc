"""A source of made-up snapshots for the view, and actions that only remember what was asked."""

import queue
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from ai_how.errors import AiHowError
from ai_how.monitoring.model import Job, Snapshot


@dataclass
class Feed:
    """Gives what is put, in this order, until it is closed."""

    first: Snapshot | None = None
    news: "queue.SimpleQueue[Snapshot | AiHowError | None]" = field(
        default_factory=queue.SimpleQueue
    )
    is_closed: bool = False

    def __post_init__(self) -> None:
        if self.first is not None:
            self.put(self.first)

    def put(self, snapshot: Snapshot | AiHowError) -> None:
        self.news.put(snapshot)

    def follow(self) -> Iterator[Snapshot]:
        while (found := self.news.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    def close(self) -> None:
        self.is_closed = True
        self.news.put(None)


@dataclass
class Hands:
    """Remembers each change, or refuses it; gives the lines of each page."""

    done: list[tuple[str, ...]] = field(default_factory=list)
    refusal: AiHowError | None = None
    lines: tuple[str | None, ...] = ("first line", "second line")

    def journal(self, node: str) -> Generator[str | None]:
        return self._page("journal", node)

    def serial(self, node: str) -> Generator[str | None]:
        return self._page("serial", node)

    def script(self, job: Job) -> Generator[str | None]:
        return self._page("script", job.id)

    def output(self, job: Job) -> Generator[str | None]:
        return self._page("output", job.id)

    def cancel(self, job: Job) -> None:
        self._note("cancel", job.id)

    def hold(self, job: Job) -> None:
        self._note("hold", job.id)

    def release(self, job: Job) -> None:
        self._note("release", job.id)

    def drain(self, node: str, reason: str) -> None:
        self._note("drain", node, reason)

    def resume(self, node: str) -> None:
        self._note("resume", node)

    def _note(self, *words: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.done.append(words)

    def _page(self, *words: str) -> Generator[str | None]:
        if self.refusal is not None:
            raise self.refusal
        yield " ".join(words)
        yield from self.lines
        while True:
            yield None


@dataclass
class MadeUpSource:
    """Opens such a feed, or fails."""

    feed: Feed
    hands: Hands = field(default_factory=Hands)
    failure: BaseException | None = None

    def completed(self, text: str) -> str:
        return text.replace("ai-how ", "/opt/ai-how ")

    def open(self) -> tuple[Feed, Hands]:
        if self.failure is not None:
            raise self.failure
        return self.feed, self.hands
