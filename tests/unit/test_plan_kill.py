"""kill -9 at every record of a journal, also of the one that recovers: nothing is leaked."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from plan_world import Bench, cluster_plan

from ai_how.plan.undo import roll_back

PLAN = cluster_plan(2)
KEYS = [step.key for step in PLAN.steps]


class Death:
    """Kills the process at the nth boundary; counts them when n is never reached."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0

    def __call__(self, moment: str, key: str) -> None:
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


def _dies(act: Callable[[], None]) -> bool:
    """Whether a child that does this is killed; one that fails otherwise fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def _start(directory: Path, death: Death) -> None:
    Bench(directory).run(PLAN, on_boundary=death)


def _recover(directory: Path, death: Death | None = None) -> None:
    bench = Bench(directory)
    if left := bench.left():
        roll_back(
            left,
            bench.world,
            observer=bench.recorder,
            interrupts=bench.interrupts,
            on_boundary=death,
        )


def test_a_start_killed_anywhere_is_undone_by_the_next_run(tmp_path):
    at = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        if not _dies(lambda: _start(directory, Death(at))):  # noqa: B023  called in this turn
            break
        bench = Bench(directory)
        left = bench.left()
        assert set(bench.world.content) <= {step.key for step in left.begun}, at
        is_over = left.is_over
        _recover(directory)
        assert bench.world.content == (sorted(KEYS) if is_over else []), at
        assert not bench.journal_path.exists(), at
        at += 1
    assert at == 4 * len(KEYS) + 2, "before and after each intent, each end, and the end of all"


def test_a_recovery_killed_anywhere_is_finished_by_the_next(tmp_path):
    at = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        # Killed when all is applied, before the end is noted: all is to be undone.
        assert _dies(lambda: _start(directory, Death(4 * len(KEYS))))  # noqa: B023
        if not _dies(lambda: _recover(directory, Death(at))):  # noqa: B023
            break
        _dies(lambda: _recover(directory, Death(3)))  # noqa: B023  and killed once more
        _recover(directory)
        bench = Bench(directory)
        assert bench.world.content == [], at
        assert not bench.journal_path.exists(), at
        at += 1
    assert at == 2 * len(KEYS) + 2


@pytest.mark.parametrize("moment", ["before apply", "after apply", "before revert", "after revert"])
@pytest.mark.parametrize("key", KEYS)
def test_killed_in_the_midst_of_a_step_or_its_undo(tmp_path, key, moment):
    def act():
        bench = Bench(tmp_path)

        def on(now, at):
            if (now, at) == (moment, key):
                os.kill(os.getpid(), signal.SIGKILL)
            if (now, at) == ("after apply", KEYS[-1]):
                raise OSError("so that there is an undo")

        bench.world.on = on
        bench.run(PLAN, workers=2)

    assert _dies(act)
    _recover(tmp_path)
    assert Bench(tmp_path).world.content == []
    assert not Bench(tmp_path).journal_path.exists()


def test_what_a_dead_run_had_asked_for_is_undone_when_it_happens_after_its_death(tmp_path):
    """As a libvirtd does that is in the midst of a call when its caller is killed."""
    death = Death(2)  # when the first intents are on disk
    assert _dies(lambda: _start(tmp_path, death))
    bench = Bench(tmp_path)
    left = bench.left()
    late = left.begun[0].key
    assert left.done == frozenset()

    def on(moment: str, key: str) -> None:
        if (moment, key) == ("after revert", late) and bench.world.keys(moment).count(key) == 1:
            (bench.world.root / key).touch()

    bench.world.on = on
    options = {"observer": bench.recorder, "interrupts": bench.interrupts}
    roll_back(left, bench.world, **options, settle_s=0.1)
    assert bench.world.content == []
    assert not bench.journal_path.exists()
