"""Reverts the steps that began, in reverse order; continues past errors, returns what remains."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
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

# Called after an undo, while its journal exists, with the steps that may have changed something.
# If it raises an error, the journal stays, and the next run repeats the call.
UndoneCallback = Callable[[Sequence[Step]], None]

logger = logging.getLogger(__name__)


def undo(
    begun: Sequence[Step],
    context: Any,  # noqa: ANN401  the type is up to the steps
    journal: Journal,
    *,
    observer: Observer,
    interrupts: Interrupts,
    needs_no_undo: Collection[str] = (),
    workers: int,
) -> tuple[Remaining, ...]:
    """Revert each begun step after the steps that need it; skip those in `needs_no_undo`.

    An error of one revert does not stop the others. Returns the steps that could not be reverted.
    The journal stays open.
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
                pool.submit(key, partial(by_key[key].revert, context))
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
    contents: JournalContents,
    context: Any,  # noqa: ANN401
    *,
    observer: Observer,
    interrupts: Interrupts,
    workers: int = 8,
    on_boundary: OnBoundary | None = None,
    settle_s: float = 0,
    on_undone: UndoneCallback | None = None,
) -> None:
    """Roll back an unfinished run, and remove its journal; safe to repeat.

    libvirt may still complete a call of a run that was killed. Steps without a `done` record are
    therefore reverted a second time, `settle_s` seconds after the last write to the journal.

    Raises UndoIncompleteError with the steps that remain; the journal then stays for the next
    attempt.
    """
    age_s = time.time() - contents.path.stat().st_mtime
    due = Deadline.after(min(settle_s, settle_s - age_s))
    unfinished = tuple(
        step for step in contents.begun if step.key not in contents.done | contents.needs_no_undo
    )
    with Journal.reopen(contents, on_boundary=on_boundary) as journal:
        revert = partial(
            undo,
            context=context,
            journal=journal,
            observer=observer,
            interrupts=interrupts,
            needs_no_undo=contents.needs_no_undo,
            workers=workers,
        )
        if not contents.is_over:
            remaining = revert(contents.begun)
            if unfinished and settle_s and not remaining:
                # A deadline at `due` itself could pass before wait_until sees that it has passed.
                late = Deadline(due.at + GRACE_S)
                wait_until(lambda: due.has_passed, late, "the last calls of the unfinished run")
                remaining = revert(unfinished)
            if remaining:
                failures = tuple(step.as_failure(contents.cluster) for step in remaining)
                raise UndoIncompleteError(
                    f"{contents.verb} was cut short (process {contents.pid}, "
                    f"{contents.started_at:%F %T %Z}), "
                    f"and {len(remaining)} of its steps could not be undone",
                    details=render_remaining(remaining, journal.path) + render_errors(failures),
                    failures=failures,
                    node=failures[0].node,
                ) from remaining[0].error
            if on_undone:
                on_undone(contents.changed)
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
    """The error because of which the step remains, or None."""
    if ended.error is not None:
        return ended.error
    try:
        journal.undone([ended.key])
    except StateError:
        return None  # A step without an `undone` record is undone again, which is safe.
    except Exception as error:  # noqa: BLE001  one error must not stop the other reverts
        return error
    return None
