"""Executes a plan: runs independent steps in parallel, and undoes them if one fails."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

from ai_how.errors import (
    AiHowError,
    InterruptedRunError,
    PlanError,
    PlanFailedError,
    StateError,
    StepFailure,
    UndoIncompleteError,
    brief_of,
)
from ai_how.plan.daemon_pool import POLL_INTERVAL_S, CallResult, DaemonPool
from ai_how.plan.failures import (
    SavedEvidence,
    failure_of,
    render_errors,
    render_remaining,
)
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal
from ai_how.plan.observer import Observer, notify
from ai_how.plan.start_limiter import StartLimiter
from ai_how.plan.step import Applied, Plan, Step
from ai_how.plan.undo import UndoneCallback, undo

logger = logging.getLogger(__name__)
EvidenceCallback = Callable[[Sequence[StepFailure]], SavedEvidence | None]


class OnFailure(StrEnum):
    """What happens to the other steps after one has failed."""

    UNDO = "undo"
    """Begin no more steps, and undo those that began."""
    KEEP = "keep"
    """Begin no more steps, and undo nothing."""
    CONTINUE = "continue"
    """Run every step that does not need the failed one; a stop must not depend on one guest."""


@dataclass(frozen=True, slots=True)
class AfterFailure:
    """What the caller does after a step has failed."""

    evidence: EvidenceCallback | None = None
    """Called with the errors before anything is undone, unless the run was interrupted."""
    undone: UndoneCallback | None = None
    """Called after a complete undo, also of a run that was interrupted."""


NOTHING = AfterFailure()


def execute(
    plan: Plan,
    context: Any,  # noqa: ANN401  the type is up to the steps
    journal: Journal,
    *,
    observer: Observer,
    interrupts: Interrupts,
    workers: int = 8,
    on_failure: OnFailure = OnFailure.UNDO,
    after_failure: AfterFailure = NOTHING,
) -> None:
    """Apply every step after the steps that it needs, at most `workers` at a time.

    The plan's ConcurrencyLimit applies in addition.

    On return all steps are applied and the journal is open: the caller writes the state, then
    closes the journal. After a failure or an interrupt, no step begins and the running steps end.
    What `after_failure` asks for is then done. The error that is raised names the directory of the
    evidence and the cause that was found. A step that fails after an interrupt fails because of it:
    it has no cause to find or to tell.

    Raises PlanFailedError or InterruptedRunError after `on_failure` was carried out. Raises
    UndoIncompleteError if some steps could not be undone; the journal then stays on disk.
    """
    run = _Run(plan, context, journal, observer, interrupts, on_failure)
    # Stops the other steps early. The pool calls it after it queued the error, so that the first
    # error in the list is the cause.
    on_error = None if on_failure is OnFailure.CONTINUE else interrupts.stop.set
    with DaemonPool[Applied](workers, on_error=on_error) as pool:
        run.apply_on(pool)
    if run.is_complete:
        return
    if after_failure.evidence and run.failures and not run.was_interrupted:
        run.save_evidence(partial(after_failure.evidence, tuple(run.failures)))
    if on_failure is OnFailure.UNDO:
        run.undo_begun(workers)
    try:
        if on_failure is OnFailure.UNDO and after_failure.undone:
            after_failure.undone(run.changed)
        journal.close()
    except StateError as error:
        run.failures.append(StepFailure(None, error))
    raise run.failure() from run.cause


class _Run:
    """The state of one execution. All of it runs on one thread, except `_apply`."""

    def __init__(
        self,
        plan: Plan,
        context: Any,  # noqa: ANN401
        journal: Journal,
        observer: Observer,
        interrupts: Interrupts,
        on_failure: OnFailure,
    ) -> None:
        self.failures: list[StepFailure] = []
        self._plan = plan
        self._context = context
        self._journal = journal
        self._observer = observer
        self._interrupts = interrupts
        self._on_failure = on_failure
        self._order = TopologicalSorter({step.key: step.needs for step in plan.steps})
        self._limiter = StartLimiter(plan.limit)
        self._ready: list[Step] = []
        self._begun: dict[str, Step] = {}
        self._done: dict[str, Applied] = {}
        self._running: set[str] = set()
        self._is_journal_lost = False
        self.was_interrupted = False
        self._saved: SavedEvidence | None = None

    @property
    def is_complete(self) -> bool:
        return len(self._done) == len(self._plan.steps) and not self.failures

    @property
    def changed(self) -> tuple[Step, ...]:
        """The begun steps that may have changed something, as `JournalContents.changed`."""
        return tuple(step for key, step in self._begun.items() if key not in self._kept)

    @property
    def _kept(self) -> frozenset[str]:
        return frozenset(key for key, one in self._done.items() if one is Applied.KEPT)

    @property
    def cause(self) -> BaseException | None:
        return self._told[0].error if self._told else None

    @property
    def _told(self) -> list[StepFailure]:
        """The errors that the user is told: of an interrupted run those of no step."""
        return [one for one in self.failures if not self.was_interrupted or one.step is None]

    @property
    def _may_begin(self) -> bool:
        if self._interrupts.is_requested or self._is_journal_lost:
            return False
        return not self.failures or self._on_failure is OnFailure.CONTINUE

    def apply_on(self, pool: DaemonPool[Applied]) -> None:
        """Begin ready steps and wait for running ones, until there are none of either."""
        by_key = {step.key: step for step in self._plan.steps}
        self._order.prepare()
        while True:
            self._ready += self._limiter.admit(
                (by_key[key] for key in self._order.get_ready()),
                is_idle=not self._running and not self._ready,
            )
            if self._may_begin:
                self._begin(pool)
            if not self._running:
                break
            self._record_results(pool.wait(POLL_INTERVAL_S))
            self._interrupts.acknowledge(self._observer)
        self._add_failures([])

    def _begin(self, pool: DaemonPool[Applied]) -> None:
        """Begin one step per free thread: undo would also have to revert a queued step."""
        free = pool.workers - len(self._running)
        steps, self._ready = self._ready[:free], self._ready[free:]
        if not steps:
            return
        try:
            self._journal.intent(steps)
        except Exception as error:  # noqa: BLE001  running steps must still end and be undone
            self._lose_journal(error)
            return
        for step in steps:
            self._begun[step.key] = step
            self._running.add(step.key)
            pool.submit(step.key, partial(self._apply, step))
            logger.info("%s", step.describe())
            notify(self._observer.begun, step)

    def _apply(self, step: Step) -> Applied:
        """Apply a step; runs on a thread of the pool."""
        try:
            return Applied(step.apply(self._context))
        except BaseException as error:
            error.add_note(f"while applying {step.key}")
            raise

    def _record_results(self, ended: Sequence[CallResult[Applied]]) -> None:
        done = {call.key: call.result for call in ended if call.result is not None}
        failed = {call.key: call.error for call in ended if call.error is not None}
        self._running -= {call.key for call in ended}
        self._done |= done
        self._add_failures(self._failure_of(key, error) for key, error in failed.items())
        self._order.done(*done)
        for call in ended:
            step = self._begun[call.key]
            self._limiter.finished(step.key, has_failed=call.error is not None)
            if call.error is not None:
                logger.info("%s failed after %.1f s: %s", step.key, call.elapsed_s, call.error)
                notify(self._observer.failed, step, call.error)
            elif call.result is not None:
                logger.info("%s: %s after %.1f s", step.key, call.result, call.elapsed_s)
                notify(self._observer.done, step, call.result, call.elapsed_s)
        try:
            if done:
                self._journal.done(done)
            if failed:
                self._journal.failed(failed)
        except Exception as error:  # noqa: BLE001  as above
            self._lose_journal(error)

    def _failure_of(self, key: str, error: BaseException) -> StepFailure:
        return failure_of(self._begun[key], error, self._journal.cluster)

    def _add_failures(self, failures: Iterable[StepFailure]) -> None:
        """Add failures. Errors after an interrupt are consequences of it, not the cause."""
        if not self.failures:
            self.was_interrupted = self._interrupts.is_requested
        self.failures += failures

    def _lose_journal(self, error: Exception) -> None:
        error.add_note("while writing the journal")
        self._add_failures([StepFailure(None, error)])
        self._is_journal_lost = True

    def save_evidence(self, evidence: Callable[[], SavedEvidence | None]) -> None:
        """Run `evidence` on a separate thread: it may call libvirt, and signals must be handled."""
        with DaemonPool[SavedEvidence | None](1) as pool:
            pool.submit("evidence", evidence)
            while not (ended := pool.wait(POLL_INTERVAL_S)):
                self._interrupts.acknowledge(self._observer)
        if (error := ended[0].error) is not None:
            error.add_note("while saving the evidence")
            self._add_failures([StepFailure(None, error)])
        self._saved = ended[0].result

    def undo_begun(self, workers: int) -> None:
        """Undo every step that began. Raises UndoIncompleteError with the steps that remain."""
        remaining = undo(
            tuple(self._begun.values()),
            self._context,
            self._journal,
            observer=self._observer,
            interrupts=self._interrupts,
            needs_no_undo=self._kept,
            workers=workers,
        )
        if not remaining:
            return
        self._journal.close_file()
        failures = [*self._told, *(step.as_failure(self._journal.cluster) for step in remaining)]
        raise self._error(
            UndoIncompleteError,
            f"{self._outcome}, and {len(remaining)} of {len(self._begun)} steps could not be "
            f"undone{self._cause_text}",
            [render_remaining(remaining, self._journal.path) + render_errors(failures)],
            failures,
        ) from failures[0].error

    def failure(self) -> PlanError:
        """The error to raise after `on_failure` was carried out."""
        kind = InterruptedRunError if self.was_interrupted else PlanFailedError
        left = [step.key for step in self._plan.steps if step.key not in self._begun]
        details = [render_errors(self._told)] if self._told else []
        if self._on_failure is OnFailure.UNDO:
            outcome = "all its changes were undone"
        else:
            outcome = "its changes were not undone"
            details += [f"not begun: {', '.join(left)}"] if left else []
        brief = f"{self._outcome}; {outcome}{self._cause_text}"
        return self._error(kind, brief, details, self._told, hint=self._hint)

    def _error(
        self,
        kind: type[PlanError],
        brief: str,
        details: Sequence[str],
        failures: Sequence[StepFailure],
        *,
        hint: str | None = None,
    ) -> PlanError:
        """An error of type `kind` with the failures, the cause and the evidence."""
        saved = self._saved
        where = [f"evidence: {saved.directory}"] if saved else []
        node = failures[0].node if failures else None
        return kind(
            brief,
            details="\n".join([*details, *where]) or None,
            hint=hint,
            failures=tuple(failures),
            cause_id=saved.cause_id if saved else None,
            remedy=saved.remedy if saved else None,
            node=saved.node if saved and saved.node else node,
            evidence=saved.directory if saved else None,
        )

    @property
    def _outcome(self) -> str:
        what = "was interrupted" if self.was_interrupted else "failed"
        return f"{self._plan.verb} {what}"

    @property
    def _cause_text(self) -> str:
        if self.cause is None:
            return ""
        found = self._saved.cause if self._saved else None
        return f": {found or brief_of(self.cause)}"

    @property
    def _hint(self) -> str | None:
        """The hint of the first error, or of the evidence if that found the cause."""
        own = self.cause.hint if isinstance(self.cause, AiHowError) else None
        if self._saved and (self._saved.cause or not own):
            return self._saved.hint
        return own
