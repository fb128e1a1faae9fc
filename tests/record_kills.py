"""Ends runs at records of their journals: in this process, where each run is one of its threads."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import pytest

from ai_how.plan.journal import OnBoundary
from ledger import Points

Record = tuple[str, str]
THENS = ("start", "stop", "destroy")
FEW = 8
# The records between what a step does and what is written of it.
UNSURE = ("after intent", "before done", "before undone")


class Death(BaseException):
    """The end of the process, as far as the run can tell."""


def die(call: Callable[[], object]) -> None:
    """The run ends, and what it was doing comes to its end."""
    with pytest.raises(Death):
        call()
    await_steps()


def await_steps() -> None:
    """Wait for the steps that a run was doing when it ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("step-"):
            thread.join(60)
            assert not thread.is_alive(), thread.name


def at(moment: str, key: str) -> OnBoundary:
    """What ends a run at this record."""

    def on_boundary(now: str, where: str) -> None:
        if (now, where) == (moment, key):
            raise Death

    return on_boundary


def records_of(run: Callable[[OnBoundary], object]) -> list[Record]:
    """The records of a run that comes to its end."""
    seen: list[Record] = []
    run(lambda moment, key: seen.append((moment, key)))
    return seen


def some_of(records: Sequence[Record], *, is_long: bool, few: int = FEW) -> list[Record]:
    """The records at which to end a run, in order: all of them only in a long run of the tests.

    Else these are the first, the last, and a sample of those at which it is not known whether a
    step did something: always the same.
    """
    if is_long or len(records) <= few:
        return list(records)
    unsure = [one for one in records[1:-1] if one[0] in UNSURE]
    dice = random.Random(7)  # noqa: S311  a dice
    chosen = {records[0], records[-1], *dice.sample(unsure, min(few - 2, len(unsure)))}
    return [one for one in records if one in chosen]


def ended_at_each(
    records: Sequence[Record], run: Callable[[OnBoundary], object], points: Points
) -> Iterator[str]:
    """Let the run end at each record, and name the verb that shall follow: each in turn."""
    for (moment, key), then in zip(records, cycle(THENS), strict=False):
        die(lambda m=moment, k=key: run(at(m, k)))  # type: ignore[misc]
        yield then
    points(len(records))
