"""What a collector answers about what was: from memory, the database, and what is not written yet.

Requests and answers are JSON; long answers come in pages, so that none takes much memory.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ai_how.monitoring.changes import was_there
from ai_how.monitoring.history import Grid, Series, in_steps
from ai_how.monitoring.model import Event
from ai_how.monitoring.recording import Recorder
from ai_how.monitoring.records import write_job
from ai_how.monitoring.store import FIRST, MINUTE_S, Key, Place, Store, StoreError

PAGE = 500

T = TypeVar("T")


class Answers:
    """For one thread, beside the one that records."""

    def __init__(self, recorder: Recorder, path: Path, *, page: int = PAGE) -> None:
        self._recorder = recorder
        self._path = path
        self._page = page

    def answer(self, asked: dict[str, Any]) -> bytes | None:
        """One line of JSON without its end; None for a question that is not about what was.

        Raises ValueError, KeyError or TypeError for a question that makes no sense.
        """
        match asked["ask"]:
            case "series":
                return self._series(asked)
            case "jobs":
                return self._jobs(_span(asked), _place(asked))
            case "events":
                return self._events(_span(asked), _place(asked))
            case "names":
                return json.dumps({"names": self._names()}).encode()
            case "note":
                told = asked["event"]
                words = {name: str(told[name])[:500] for name in ("kind", "subject", "text")}
                self._recorder.note(Event(at=float(told["at"]), **words))
                return b'{"done": true}'
        return None

    def _series(self, asked: dict[str, Any]) -> bytes:
        name, subject = str(asked["name"]), str(asked["subject"])
        since, until = _span(asked)
        history = self._recorder.history
        oldest = history.oldest_at
        border = until if oldest is None else min(until, oldest)
        points = history.points(name, subject, max(since, border), until)
        step_s = float(asked["step_s"])
        if since < border:
            kept = self._kept(name, subject, since, border)
            points = [*kept, *points]
            step_s = max(step_s, MINUTE_S) if kept else step_s
        return json.dumps({"series": in_steps(points, Grid(since, until, step_s))}).encode()

    def _kept(self, name: str, subject: str, since: float, until: float) -> Series:
        minutes, _, _ = self._recorder.waiting()
        waiting = {
            minute * MINUTE_S: means[name, subject]
            for minute, means in minutes
            if (name, subject) in means and since <= minute * MINUTE_S < until
        }
        none: Series = []
        found = self._ask(lambda store: store.series(name, subject, since, until), none)
        return sorted((dict(found) | waiting).items())

    def _names(self) -> list[Key]:
        none: list[Key] = []
        kept = self._ask(lambda store: store.names(), none)
        return sorted({*self._recorder.history.names(), *kept})

    def _jobs(self, span: tuple[float, float], after: Place) -> bytes:
        """A page of jobs; the last one has what is newer than the database."""
        none: list[tuple[Place, str]] = []
        rows = self._ask(lambda store: store.jobs(*span, after=after, most=self._page), none)
        records = [record for _, record in rows]
        more = rows[-1][0] if len(rows) == self._page else None
        if more is None:
            _, _, waiting = self._recorder.waiting()
            records += [write_job(one).decode() for one in waiting if was_there(one, *span)]
        return f'{{"jobs": [{", ".join(records)}], "more": {json.dumps(more)}}}'.encode()

    def _events(self, span: tuple[float, float], after: Place) -> bytes:
        none: list[tuple[Place, Event]] = []
        rows = self._ask(lambda store: store.events(*span, after=after, most=self._page), none)
        events = [event for _, event in rows]
        more = rows[-1][0] if len(rows) == self._page else None
        if more is None:
            _, waiting, _ = self._recorder.waiting()
            events += [one for one in waiting if span[0] <= one.at < span[1]]
        return json.dumps({"events": [asdict(one) for one in events], "more": more}).encode()

    def _ask(self, question: Callable[[Store], T], otherwise: T) -> T:
        """What the database says, if it can be read."""
        try:
            store = Store(self._path, is_reader=True)
        except StoreError:
            return otherwise
        try:
            return question(store)
        except StoreError:
            return otherwise
        finally:
            store.close()


def _span(asked: dict[str, Any]) -> tuple[float, float]:
    return float(asked["since"]), float(asked["until"])


def _place(asked: dict[str, Any]) -> Place:
    after = asked.get("after")
    return (float(after[0]), str(after[1])) if after else FIRST
