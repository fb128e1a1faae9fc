"""Backwards through the steps that had begun: go on past what fails, and say what remains."""

import logging
import time
from collections.abc import Collection, Sequence
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

from ai_how.errors import StateError, UndoIncompleteError
from ai_how.plan.daemon_pool import POLL_INTERVAL_S, CallResult, DaemonPool
from ai_how.plan.failures import Remaining, render_errors, render_remaining
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal, JournalContents, OnBoundary
from ai_how.plan.observer import Observer, notify
from ai_how.plan.step import Step
from ai_how.waiting import Deadline, wait_until

GRACE_S = 60

logger = logging.getLogger(__name__)


def undo(
    begun: Sequence[Step],
    world: Any,  # noqa: ANN401  what the steps agree on
    journal: Journal,
    *,
    observer: Observer,
    interrupts: Interrupts,
    needs_no_undo: Collection[str] = (),
    workers: int,
) -> tuple[Remaining, ...]:
    """Revert the steps that had begun, save the needs_no_undo ones, each after all that needs it.

    A revert that fails keeps no other from being tried. The journal is left open.
    """
    by_key = {step.key: step for step in begun}
    order = _reverse_order(begun)
    remaining: list[Remaining] = []
    with DaemonPool[None](workers) as pool:
        running = 0
        while order.is_active():
            for key in order.get_ready():
                if key in needs_no_undo:
                    order.done(key)
                    continue
                logger.info("undo: %s", key)
                notify(observer.undoing, by_key[key])
                pool.submit(key, partial(by_key[key].revert, world))
                running += 1
            for ended in pool.wait(POLL_INTERVAL_S) if running else ():
                running -= 1
                order.done(ended.key)
                step = by_key[ended.key]
                if error := _record_undone(ended, journal):
                    error.add_note(f"while reverting {step.key}")
                    remaining.append(Remaining(step, error))
                    notify(observer.undo_failed, step, error)
                else:
                    notify(observer.undone, step)
            interrupts.acknowledge(observer)
    return tuple(remaining)


def roll_back(
    seen: JournalContents,
    world: Any,  # noqa: ANN401
    *,
    observer: Observer,
    interrupts: Interrupts,
    workers: int = 8,
    on_boundary: OnBoundary | None = None,
    settle_s: float = 0,
) -> None:
    """Undo what a run that was cut short had begun, and end its journal; safe to repeat.

    What a dead run had asked for may still happen after its death. So what it had not seen the end
    of is reverted once more, when its journal is `settle_s` old.

    Raises UndoIncompleteError with what remains; the journal then stays for the next attempt.
    """
    age_s = time.time() - seen.path.stat().st_mtime
    due = Deadline.after(min(settle_s, settle_s - age_s))
    unseen = tuple(step for step in seen.begun if step.key not in seen.done | seen.needs_no_undo)
    with Journal.reopen(seen, on_boundary=on_boundary) as journal:
        revert = partial(
            undo,
            world=world,
            journal=journal,
            observer=observer,
            interrupts=interrupts,
            needs_no_undo=seen.needs_no_undo,
            workers=workers,
        )
        if not seen.is_over:
            remaining = revert(seen.begun)
            if unseen and settle_s and not remaining:
                # Later than it is due, or it could be missed between two looks at the clock.
                late = Deadline(due.at + GRACE_S)
                wait_until(lambda: due.has_passed, late, "the end of what was asked for")
                remaining = revert(unseen)
            if remaining:
                failures = tuple(one.as_failure(seen.cluster) for one in remaining)
                raise UndoIncompleteError(
                    f"{seen.verb} was cut short (process {seen.pid}, {seen.started_at:%F %T %Z}), "
                    f"and {len(remaining)} of its steps could not be undone",
                    details=render_remaining(remaining, journal.path) + render_errors(failures),
                    failures=failures,
                    node=failures[0].node,
                ) from remaining[0].error
        journal.close()


def _reverse_order(steps: Sequence[Step]) -> TopologicalSorter[str]:
    order: TopologicalSorter[str] = TopologicalSorter()
    begun = {step.key for step in steps}
    for step in reversed(steps):
        order.add(step.key)
        for need in step.needs & begun:
            order.add(need, step.key)
    order.prepare()
    return order


def _record_undone(ended: CallResult[None], journal: Journal) -> BaseException | None:
    """Why the step still remains, or None."""
    if ended.error is not None:
        return ended.error
    try:
        journal.undone([ended.key])
    except StateError:
        return None  # What is not noted as undone is undone again, which is safe.
    except Exception as error:  # noqa: BLE001  one failure must not strand what is left to undo
        return error
    return None
