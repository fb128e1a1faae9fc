"""Ctrl-C once: stop, undo, say so. Twice: leave at once, and let the next run undo."""

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from plan_world import Bench, Put, cluster_plan, raise_at

from ai_how.errors import HostError, InterruptedRunError, PlanFailedError, UndoIncompleteError
from ai_how.plan.executor import OnFailure
from ai_how.plan.failures import SavedEvidence
from ai_how.plan.interrupts import SAME_INTERRUPT_S, Interrupts
from ai_how.plan.step import Plan
from ai_how.plan.undo import roll_back
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until

PLAN = cluster_plan()
KEYS = [step.key for step in PLAN.steps]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def _signal_self(number: int) -> None:
    os.kill(os.getpid(), number)


def _at(key: str, action, moment: str = "before apply"):
    return lambda now, at: action() if (now, at) == (moment, key) else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_undoes_what_was_made(bench, number):
    bench.world.on = _at("domain-1", lambda: _signal_self(number))
    with bench.interrupts, pytest.raises(InterruptedRunError) as caught:
        bench.run(PLAN)
    assert caught.value.exit_code == 130
    assert caught.value.brief == "start was interrupted; all its changes were undone"
    assert bench.world.content == []
    assert not bench.journal_path.exists()
    assert bench.recorder.heard.count(("interrupted", "")) == 1


@pytest.mark.parametrize("key", KEYS[:-1])
def test_a_wish_to_stop_during_any_step_leaves_the_world_as_before(bench, key):
    bench.world.on = _at(key, bench.interrupts.request)
    with pytest.raises(InterruptedRunError):
        bench.run(PLAN, workers=1)
    assert bench.world.keys("after apply")[-1] == key, "the running step ends, none begins"
    assert bench.world.content == []
    assert not bench.journal_path.exists()


def test_a_wish_to_stop_before_the_first_step_begins_none(bench):
    bench.interrupts.request()
    with pytest.raises(InterruptedRunError):
        bench.run(PLAN)
    assert bench.world.log == []


def test_a_wish_to_stop_during_the_last_step_comes_too_late(bench):
    bench.world.on = _at(KEYS[-1], bench.interrupts.request)
    bench.run(PLAN, workers=1)
    assert bench.world.content == sorted(KEYS)


def test_a_step_that_gave_up_waiting_because_of_the_wish_is_no_failure(bench):
    def give_up():
        bench.interrupts.request()
        assert bench.interrupts.stop.is_set()
        raise HostError("stopped waiting")

    bench.world.on = _at("domain-1", give_up)
    with pytest.raises(InterruptedRunError, match="start was interrupted"):
        bench.run(PLAN)
    assert bench.world.content == []


def test_an_interrupted_run_tells_no_cause_and_looks_for_none(bench):
    def give_up():
        bench.interrupts.request()
        raise HostError("stopped waiting", "for domain-1", hint="look at it")

    looked = []
    bench.world.on = _at("domain-1", give_up)
    with pytest.raises(InterruptedRunError) as caught:
        bench.run(PLAN, evidence=looked.append)
    error = caught.value
    assert error.brief == "start was interrupted; all its changes were undone"
    assert (error.details, error.hint, error.cause_id, error.node) == (None, None, None, None)
    assert (error.evidence, error.failures, error.__cause__) == (None, (), None)
    assert looked == []
    assert bench.world.content == []


def test_a_step_that_failed_before_the_interrupt_keeps_its_cause_and_its_evidence(bench):
    saved = SavedEvidence(Path("/state/evidence/now"), "node 1 panicked", "less there")
    wished = threading.Event()

    def on(moment, key):
        if (moment, key) == ("before apply", "domain-1"):
            raise HostError("domain-1 broke")

    def failed(step, error):
        if not wished.is_set():
            wished.set()
            bench.interrupts.request()

    bench.world.on, bench.recorder.failed = on, failed
    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN, evidence=lambda _failures: saved)
    assert wished.is_set()
    told = "start failed; all its changes were undone: node 1 panicked"
    assert (caught.value.brief, caught.value.hint) == (told, "less there")
    assert caught.value.evidence == saved.directory
    assert str(caught.value.__cause__) == "domain-1 broke"


def test_a_journal_that_is_lost_after_the_interrupt_is_told(bench):
    lost = raise_at("before done", "domain-1", OSError(errno.EIO, "Input/output error"))
    bench.world.on = _at("domain-1", bench.interrupts.request)
    with pytest.raises(InterruptedRunError) as caught:
        bench.run(PLAN, workers=1, on_boundary=lost)
    told = "start was interrupted; all its changes were undone: OSError: [Errno 5] Input/output"
    assert caught.value.brief == f"{told} error"
    assert "(while writing the journal)" in caught.value.details
    assert isinstance(caught.value.__cause__, OSError)


def test_a_failure_before_the_wish_is_still_a_failure(bench):
    def on(moment, key):
        if (moment, key) == ("before apply", "base"):
            raise HostError("base broke")
        if moment == "before revert":
            bench.interrupts.request()

    bench.world.on = on
    with pytest.raises(PlanFailedError, match="base broke"):
        bench.run(PLAN)
    assert bench.world.content == []
    assert ("interrupted", "") in bench.recorder.heard


def test_what_an_interrupted_run_cannot_undo_is_told(bench):
    def on(moment, key):
        if (moment, key) == ("before apply", "domain-0"):
            bench.interrupts.request()
        if (moment, key) == ("before revert", "base"):
            raise HostError("base is stuck")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError, match="start was interrupted, and 1 of"):
        bench.run(PLAN)
    assert bench.world.content == ["base"]


def test_a_run_that_is_not_to_be_undone_stays_where_it_was_stopped(bench):
    bench.world.on = _at("domain-0", bench.interrupts.request)
    with pytest.raises(InterruptedRunError, match="were not undone"):
        bench.run(PLAN, on_failure=OnFailure.CONTINUE, workers=1)
    assert bench.world.content == sorted(bench.world.keys("after apply"))
    assert not bench.journal_path.exists()


def _interrupt_twice_and_hang(interrupts: Interrupts, hang: threading.Event) -> None:
    _signal_self(signal.SIGINT)
    # Heard one by one: two that come at once are one wish.
    wait_until(lambda: interrupts.is_requested, Deadline.after(60), "the first to be heard")
    time.sleep(2 * SAME_INTERRUPT_S)
    _signal_self(signal.SIGINT)
    hang.wait()


def test_a_second_signal_leaves_at_once_with_the_journal(bench):
    hang = threading.Event()
    bench.world.on = _at(
        "domain-1", lambda: _interrupt_twice_and_hang(bench.interrupts, hang), "after apply"
    )
    began_at = time.monotonic()
    with pytest.raises(InterruptedRunError, match="interrupted twice"), bench.interrupts:
        bench.run(PLAN)
    assert time.monotonic() - began_at < 20
    assert "domain-1" in bench.world.content
    left = bench.left()
    assert set(bench.world.content) <= {step.key for step in left.remaining}
    hang.set()

    roll_back(left, bench.world, observer=bench.recorder, interrupts=Interrupts())
    assert bench.world.content == []
    assert not bench.journal_path.exists()


def test_a_second_signal_leaves_a_hanging_undo(bench):
    hang = threading.Event()

    def on(moment, key):
        if (moment, key) == ("after apply", "ready-0"):
            raise HostError("no")
        if (moment, key) == ("before revert", "disk-0"):
            _interrupt_twice_and_hang(bench.interrupts, hang)

    bench.world.on = on
    with pytest.raises(InterruptedRunError, match="interrupted twice"), bench.interrupts:
        bench.run(PLAN)
    assert "disk-0" in {step.key for step in bench.left().remaining}
    hang.set()


def test_the_two_hangups_of_a_lost_terminal_are_one_wish(bench):
    def twice():
        _signal_self(signal.SIGHUP)
        _signal_self(signal.SIGHUP)

    bench.world.on = _at("domain-1", twice)
    with bench.interrupts, pytest.raises(InterruptedRunError, match="all its changes were undone"):
        bench.run(PLAN)
    assert bench.world.content == []


def test_the_former_handlers_are_back_afterwards():
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != former[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == former


def test_a_signal_that_was_to_be_ignored_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_another_error_passes_through():
    with pytest.raises(HostError, match="passes"), Interrupts():
        raise HostError("passes")


HANGING = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from plan_world import Bench, Put
from ai_how.errors import AiHowError
from ai_how.plan.step import Plan
from ai_how.waiting import Deadline, wait_until

def hang(moment, key):
    print(moment, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    wait_until(lambda: bench.interrupts.is_requested, Deadline.after(60), "the first to be heard")
    time.sleep(0.4)
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()

bench = Bench(Path(sys.argv[2]))
bench.world.on = hang
try:
    with bench.interrupts:
        bench.run(Plan("start", (Put("hangs"),)))
except AiHowError as error:
    print(error.brief)
    sys.exit(error.exit_code)
"""


def test_a_call_that_hangs_does_not_keep_the_process_from_ending(tmp_path):
    here = str(Path(__file__).parent)
    done = run([sys.executable, "-c", HANGING, here, tmp_path], check=False, timeout_s=120)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.splitlines() == ["before apply", "interrupted twice: exited at once"]
    assert [step.key for step in Bench(tmp_path).left().remaining] == ["hangs"]


def test_stopping_is_acknowledged_while_a_step_still_runs(bench):
    heard = []

    def on(moment, key):
        if moment == "before apply":
            bench.interrupts.request()
            deadline = time.monotonic() + 30
            while ("interrupted", "") not in bench.recorder.heard and time.monotonic() < deadline:
                time.sleep(0.01)
            heard.extend(bench.recorder.heard)

    bench.world.on = on
    with pytest.raises(InterruptedRunError):
        bench.run(Plan("start", (Put("slow"), Put("next", ("slow",)))))
    # Asserted out here: what is raised in there counts as a consequence of the wish.
    assert ("interrupted", "") in heard
