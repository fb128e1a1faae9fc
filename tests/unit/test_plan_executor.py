"""Whatever fails and wherever: the world is as it was, or we are told what remains."""

import errno
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_world import Bench, Put, Recorder, cluster_plan, raise_at

from ai_how.errors import AiHowError, HostError, PlanFailedError, StateError, UndoIncompleteError
from ai_how.plan.executor import OnFailure, execute
from ai_how.plan.failures import SavedEvidence
from ai_how.plan.step import Plan, node_of
from ai_how.plan.undo import roll_back

PLAN = cluster_plan()
KEYS = [step.key for step in PLAN.steps]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_plan_that_goes_well_leaves_all_that_it_made_and_no_journal(bench):
    bench.run(PLAN)
    assert bench.world.content == sorted(KEYS)
    assert not bench.journal_path.exists()


def test_the_journal_stays_open_until_the_caller_has_written_the_state(bench):
    with bench.journal(PLAN) as journal:
        execute(PLAN, bench.world, journal, observer=bench.recorder, interrupts=bench.interrupts)
    assert {step.key for step in bench.left().remaining} == set(KEYS)


def test_no_step_begins_before_all_that_it_needs_is_over(bench):
    bench.run(PLAN)
    over = set()
    for moment, key in bench.world.log:
        if moment == "before apply":
            assert set(next(s for s in PLAN.steps if s.key == key).needs) <= over
        else:
            over.add(key)


def test_independent_steps_run_at_the_same_time(bench):
    together = threading.Barrier(8, timeout=60)
    bench.world.on = lambda moment, key: together.wait() if moment == "before apply" else None
    bench.run(Plan("start", tuple(Put(f"s{n}") for n in range(8))), workers=8)


def test_no_more_steps_run_at_once_than_there_are_workers(bench):
    running, most = 0, 0
    lock, three = threading.Lock(), threading.Event()

    def on(moment, key):
        nonlocal running, most
        with lock:
            running += 1 if moment == "before apply" else -1
            most = max(most, running)
        if most >= 3:
            three.set()
        # The first ones stay until there are as many as there may be.
        assert three.wait(60)

    bench.world.on = on
    bench.run(Plan("start", tuple(Put(f"s{n}") for n in range(20))), workers=3)
    assert most == 3


@pytest.mark.parametrize("when", ["before apply", "after apply"])
@pytest.mark.parametrize("victim", KEYS)
def test_the_world_is_as_before_after_any_step_failed(bench, victim, when):
    bench.world.on = raise_at(when, victim, HostError("no room", hint="df -h"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN)
    assert bench.world.content == []
    assert not bench.journal_path.exists()
    assert caught.value.exit_code == 4
    assert caught.value.brief == "start failed; all its changes were undone: no room"
    assert caught.value.hint == "df -h"
    assert f"no room (while applying {victim})" in caught.value.details
    assert isinstance(caught.value.__cause__, HostError)


def test_the_world_is_as_before_wherever_the_run_is_made_to_fail_at_a_record(tmp_path):
    boundaries = _boundaries(tmp_path / "enumerate")
    assert len(boundaries) == 4 * len(KEYS)
    for number, (moment, key) in enumerate(boundaries):
        bench = _bench(tmp_path / str(number))
        with pytest.raises(PlanFailedError, match="broken on purpose"):
            bench.run(PLAN, on_boundary=raise_at(moment, key, OSError("broken on purpose")))
        assert bench.world.content == [], (moment, key)
        assert not bench.journal_path.exists(), (moment, key)


def _bench(directory: Path) -> Bench:
    directory.mkdir()
    return Bench(directory)


def _boundaries(directory: Path) -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []
    _bench(directory).run(PLAN, on_boundary=lambda moment, key: seen.append((moment, key)))
    return [(moment, key) for moment, key in seen if key]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RecursionError("deep"), KeyboardInterrupt(), SystemExit(3), ValueError("bug")],
    ids=lambda error: type(error).__name__,
)
def test_anything_raised_in_a_step_is_that_steps_failure(bench, error):
    bench.world.on = raise_at("after apply", "domain-2", error)
    with pytest.raises(PlanFailedError, match=type(error).__name__) as caught:
        bench.run(PLAN)
    assert caught.value.__cause__ is error
    assert bench.world.content == []


def test_two_failures_at_once_are_both_told(bench):
    together = threading.Barrier(2, timeout=60)

    def on(moment, key):
        if moment == "before apply":
            together.wait()
            raise HostError(f"{key} broke", details=f"{key} in detail")

    bench.world.on = on
    with pytest.raises(PlanFailedError) as caught:
        bench.run(Plan("start", (Put("a"), Put("b"))))
    for key in "ab":
        assert f"{key} broke (while applying {key})\n{key} in detail" in caught.value.details


def test_what_was_there_in_spite_of_the_plan_is_not_undone(bench):
    (bench.world.root / "disk-1").write_text("a user's data")
    bench.world.on = raise_at("after apply", "ready-3", HostError("no"))
    with pytest.raises(PlanFailedError):
        bench.run(PLAN)
    assert bench.world.content == ["disk-1"]
    assert (bench.world.root / "disk-1").read_text() == "a user's data"
    assert ("kept", "disk-1") in bench.recorder.heard


def test_after_a_failure_nothing_begins_and_what_runs_may_end(bench):
    slow_is_on = threading.Event()

    def on(moment, key):
        if (moment, key) == ("before apply", "slow"):
            slow_is_on.set()
            assert bench.interrupts.stop.wait(60), "a failure tells the others to end early"
        if (moment, key) == ("before apply", "bad"):
            slow_is_on.wait(60)
            raise HostError("bad broke")

    bench.world.on = on
    plan = Plan("start", (Put("slow"), Put("bad"), Put("next", ("slow",))))
    with pytest.raises(PlanFailedError, match="bad broke"):
        bench.run(plan)
    assert bench.world.keys("after apply") == ["slow"]
    assert bench.world.content == []


def test_steps_that_never_began_are_not_undone(bench):
    bench.world.on = raise_at("before apply", "base", HostError("no"))
    with pytest.raises(PlanFailedError):
        bench.run(PLAN, workers=1)
    assert bench.world.keys("before revert") == ["base", "network"]


def test_each_step_is_undone_after_all_that_needs_it_also_across_a_kept_one(bench):
    (bench.world.root / "b").touch()
    steps = (Put("a"), Put("b", ("a",)), Put("c", ("b",)), Put("d", ("a",)), Put("e", ("c", "d")))
    bench.world.on = raise_at("after apply", "e", HostError("no"))
    with pytest.raises(PlanFailedError):
        bench.run(Plan("start", steps))
    reverted = bench.world.keys("before revert")
    assert reverted[0] == "e"
    assert reverted[-1] == "a"
    assert sorted(reverted) == ["a", "c", "d", "e"]


def test_an_undo_waits_until_what_needs_it_is_gone(bench):
    def on(moment, key):
        if (moment, key) == ("after apply", "c"):
            raise HostError("no")
        if moment == "before revert" and key != "a":
            time.sleep(0.05)

    bench.world.on = on
    with pytest.raises(PlanFailedError):
        bench.run(Plan("start", (Put("a"), Put("b", ("a",)), Put("c", ("b",)))))
    assert bench.world.log[-6:] == [
        (f"{when} revert", key) for key in "cba" for when in ("before", "after")
    ]


def test_undo_runs_in_parallel(bench):
    together = threading.Barrier(6, timeout=60)

    def on(moment, key):
        if (moment, key) == ("before apply", "last"):
            raise HostError("no")
        if moment == "before revert" and key != "last":
            together.wait()

    bench.world.on = on
    nodes = tuple(Put(f"s{n}") for n in range(6))
    last = Put("last", tuple(step.key for step in nodes))
    with pytest.raises(PlanFailedError):
        bench.run(Plan("start", (*nodes, last)))
    assert bench.world.content == []


@pytest.mark.parametrize("stuck", KEYS)
def test_a_failing_undo_keeps_no_other_step_standing_and_the_next_run_clears_it(bench, stuck):
    is_there = threading.Event()  # two workers may come to ready-3 before others, or after

    def on(moment, key):
        if (moment, key) == ("after apply", stuck):
            is_there.set()
        if (moment, key) == ("after apply", "ready-3"):
            assert is_there.wait(60)
            raise HostError("ready-3 broke")
        if (moment, key) == ("before revert", stuck):
            raise HostError(f"{stuck} is stuck")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError) as caught:
        bench.run(PLAN, workers=2)
    assert bench.world.content == [stuck]
    assert caught.value.exit_code == 5
    assert "1 of " in caught.value.brief
    assert "ready-3 broke" in caught.value.brief
    assert f"{stuck}: put {stuck} there" in caught.value.details
    assert f"{stuck} is stuck (while reverting {stuck})" in caught.value.details
    assert str(bench.journal_path) in caught.value.details

    left = bench.left()
    assert [step.key for step in left.remaining] == [stuck]
    bench.world.on = lambda moment, key: None
    roll_back(left, bench.world, observer=bench.recorder, interrupts=bench.interrupts)
    assert bench.world.content == []
    assert not bench.journal_path.exists()


def test_rolling_back_says_what_still_remains_and_keeps_the_journal(bench):
    with bench.journal(PLAN) as journal:
        execute(PLAN, bench.world, journal, observer=bench.recorder, interrupts=bench.interrupts)
    bench.world.on = raise_at("before revert", "disk-2", HostError("disk-2 is stuck"))
    with pytest.raises(UndoIncompleteError, match="start was cut short") as caught:
        roll_back(bench.left(), bench.world, observer=Recorder(), interrupts=bench.interrupts)
    assert "disk-2 is stuck" in caught.value.details
    assert [one.step for one in caught.value.failures] == ["disk-2"]
    assert bench.world.content == ["disk-2"]
    assert [step.key for step in bench.left().remaining] == ["disk-2"]


def test_what_was_undone_is_told_while_the_journal_is_there(bench):
    (bench.world.root / "network").touch()
    told = []

    def undone(steps):
        told.append(([step.key for step in steps], bench.journal_path.exists()))

    bench.world.on = raise_at("before apply", "domain-0", HostError("no"))
    with pytest.raises(PlanFailedError):
        bench.run(PLAN, undone=undone, workers=1)
    [(keys, had_journal)] = told
    assert had_journal
    assert bench.world.content == ["network"]
    assert "network" not in keys, "it was there before"
    assert {"base", "disk-0", "domain-0"} <= set(keys)
    assert not bench.journal_path.exists()


def test_nothing_is_called_undone_that_is_kept(bench):
    bench.world.on = raise_at("before apply", "domain-0", HostError("no"))
    with pytest.raises(PlanFailedError):
        bench.run(PLAN, undone=raise_at_once, on_failure=OnFailure.KEEP)


def test_nothing_is_called_undone_that_remains(bench):
    def on(moment, key):
        if (moment, key) in {("before apply", "domain-1"), ("before revert", "base")}:
            raise HostError("no")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError):
        bench.run(PLAN, undone=raise_at_once)
    with pytest.raises(UndoIncompleteError):
        roll_back(
            bench.left(),
            bench.world,
            observer=bench.recorder,
            interrupts=bench.interrupts,
            on_undone=raise_at_once,
        )


def raise_at_once(steps):
    raise AssertionError(steps)


def test_the_journal_stays_until_what_was_undone_could_be_told(bench):
    (bench.world.root / "network").touch()
    told = []

    def refuse(_steps):
        raise StateError("the state is on a full disk")

    bench.world.on = raise_at("before apply", "domain-0", HostError("no"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN, undone=refuse, workers=1)
    assert "the state is on a full disk" in caught.value.details
    assert bench.world.content == ["network"]
    how = {"observer": bench.recorder, "interrupts": bench.interrupts}
    with pytest.raises(StateError):
        roll_back(bench.left(), bench.world, **how, on_undone=refuse)
    left = bench.left()
    assert left.remaining == ()
    roll_back(left, bench.world, **how, on_undone=told.append)
    assert [step.key for step in told[0]] == [
        step.key for step in left.begun if step.key != "network"
    ]
    assert not bench.journal_path.exists()


def test_evidence_is_saved_while_everything_still_stands(bench):
    seen = []
    bench.world.on = raise_at("after apply", "domain-1", HostError("no"))
    with pytest.raises(PlanFailedError):
        bench.run(PLAN, evidence=lambda failures: seen.append((bench.world.content, failures)))
    [(content, failures)] = seen
    assert "domain-1" in content
    assert [(one.step, str(one.error)) for one in failures] == [("domain-1", "no")]


@pytest.mark.parametrize(
    ("found", "own_hint", "why", "hint"),
    [
        ("node 1 panicked", "hpc logs", "node 1 panicked", "less there"),
        (None, "hpc logs", "no agent", "hpc logs"),
        (None, None, "no agent", "less there"),
    ],
)
def test_a_failure_names_its_evidence_and_the_cause_that_is_in_it(
    bench, found, own_hint, why, hint
):
    bench.world.on = raise_at("before apply", "ready-1", HostError("no agent", hint=own_hint))
    saved = SavedEvidence(Path("/state/evidence/now"), found, "less there")
    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN, evidence=lambda _errors: saved)
    assert caught.value.brief == f"start failed; all its changes were undone: {why}"
    assert caught.value.details.splitlines()[0] == "no agent (while applying ready-1)"
    assert caught.value.details.splitlines()[-1] == "evidence: /state/evidence/now"
    assert caught.value.hint == hint


def test_what_could_not_be_undone_names_the_evidence_and_the_cause_too(bench):
    def on(moment, key):
        if (moment, key) in {("before apply", "ready-1"), ("before revert", "network")}:
            raise HostError(f"no {key}")

    bench.world.on = on
    saved = SavedEvidence(
        Path("/state/evidence/now"), "node 1 panicked", cause_id="kernel-panic", node="compute-01"
    )
    with pytest.raises(UndoIncompleteError) as caught:
        bench.run(PLAN, evidence=lambda _errors: saved)
    error = caught.value
    assert [one.step for one in error.failures] == ["ready-1", "network"]
    assert (error.step, error.cause_id, error.node) == ("ready-1", "kernel-panic", "compute-01")
    assert error.evidence == Path("/state/evidence/now")
    assert caught.value.brief.endswith("could not be undone: node 1 panicked")
    assert caught.value.details.splitlines()[-1] == "evidence: /state/evidence/now"


def test_a_failure_names_the_step_and_the_node_that_it_is_about(bench):
    """The journal is of the cluster demo, and the step's subject is the name of a node's VM."""
    bench.world.on = raise_at("before apply", "boot/demo-compute-01", HostError("no"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(Plan("start", (Put("boot/demo-compute-01"),)))
    error = caught.value
    assert (error.step, error.node) == ("boot/demo-compute-01", "compute-01")
    assert (error.cause_id, error.evidence) == (None, None)
    assert error.failures[0].error is error.__cause__


KEY_1, KEY_2 = "disk/demo-compute-01", "disk/demo-compute-02"
NODES = Plan("start", (Put(KEY_2), Put(KEY_1, (KEY_2,))))


@pytest.mark.parametrize(
    ("saved", "node"),
    [
        (None, "compute-01"),
        (SavedEvidence(Path("/state/evidence/now")), "compute-01"),
        (SavedEvidence(Path("/state/evidence/now"), node="controller"), "controller"),
    ],
)
def test_the_node_is_that_of_the_cause_or_else_of_the_step_that_failed_first(bench, saved, node):
    (bench.world.root / "disk").mkdir()

    def on(moment, key):
        if (moment, key) in {("after apply", KEY_1), ("before revert", KEY_2)}:
            raise HostError(f"{key} broke")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError) as caught:
        bench.run(NODES, evidence=lambda _failures: saved)
    error = caught.value
    assert (error.step, error.node) == (KEY_1, node)
    assert [(one.step, one.node) for one in error.failures] == [
        (KEY_1, "compute-01"),
        (KEY_2, "compute-02"),
    ]
    assert error.evidence == (saved.directory if saved else None)


def test_a_rollback_names_the_node_whose_step_remained_first(bench):
    (bench.world.root / "disk").mkdir()
    with bench.journal(NODES) as journal:
        execute(NODES, bench.world, journal, observer=bench.recorder, interrupts=bench.interrupts)

    def on(moment, key):
        raise HostError(f"{key} broke")

    bench.world.on = on
    with pytest.raises(UndoIncompleteError) as caught:
        roll_back(bench.left(), bench.world, observer=Recorder(), interrupts=bench.interrupts)
    error = caught.value
    assert [one.node for one in error.failures] == ["compute-01", "compute-02"]
    assert (error.step, error.node) == (KEY_1, "compute-01")


@pytest.mark.parametrize(
    ("subject", "node"),
    [
        ("demo-compute-01", "compute-01"),
        ("demo", None),
        ("0123456789ab", None),
        ("demonstration-compute-01", None),
    ],
)
def test_only_a_step_of_one_node_is_about_a_node(subject, node):
    assert node_of(subject, "demo") == node


def test_evidence_that_cannot_be_saved_hinders_no_undo(bench):
    bench.world.on = raise_at("after apply", "domain-1", HostError("no"))

    def evidence(errors):
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN, evidence=evidence)
    assert "full (while saving the evidence)" in caught.value.details
    assert bench.world.content == []


def test_what_failed_is_left_standing_on_request(bench):
    bench.world.on = raise_at("after apply", "domain-1", HostError("no"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN, on_failure=OnFailure.KEEP, workers=1)
    assert caught.value.brief == "start failed; its changes were not undone: no"
    assert "not begun: " in caught.value.details
    assert bench.world.content == sorted(bench.world.keys("after apply"))
    assert bench.world.keys("before revert") == []
    assert not bench.journal_path.exists()


def test_one_stuck_node_keeps_no_other_from_being_done_on_request(bench):
    bench.world.on = raise_at("before apply", "domain-2", HostError("stuck"))
    with pytest.raises(PlanFailedError) as caught:
        bench.run(PLAN, on_failure=OnFailure.CONTINUE)
    assert bench.world.content == sorted(set(KEYS) - {"domain-2", "ready-2"})
    assert caught.value.details == "stuck (while applying domain-2)\nnot begun: ready-2"


def test_an_observer_that_fails_changes_nothing(bench, caplog):
    class Broken(Recorder):
        def begun(self, step):
            raise BrokenPipeError

        def undone(self, step):
            raise ZeroDivisionError

    bench.world.on = raise_at("after apply", "ready-0", HostError("no"))
    with pytest.raises(PlanFailedError, match="no") as caught:
        bench.run(PLAN, observer=Broken())
    assert caught.value.brief == "start failed; all its changes were undone: no"
    assert bench.world.content == []
    assert "an observer failed" in caplog.text


def test_the_observer_hears_of_each_step_on_the_callers_thread(bench):
    threads = set()

    class Here(Recorder):
        def begun(self, step):
            super().begun(step)
            threads.add(threading.current_thread())

    recorder = Here()
    bench.run(cluster_plan(1), observer=recorder)
    assert threads == {threading.current_thread()}
    made = [key for word, key in recorder.heard if word == "made"]
    assert sorted(made) == sorted(step.key for step in cluster_plan(1).steps)


@pytest.mark.parametrize("size", [64, 256])
def test_a_large_plan_costs_less_than_a_second(bench, size):
    threads_before = threading.active_count()
    chain = tuple(Put(f"c{n}", (f"c{n - 1}",) if n else ()) for n in range(size // 4))
    plan = Plan("start", (*chain, *(Put(f"s{n}") for n in range(size - len(chain)))))
    began_at = time.monotonic()
    bench.run(plan)
    assert time.monotonic() - began_at < 20
    assert len(bench.world.content) == size
    assert threading.active_count() == threads_before


def test_a_disk_that_refuses_the_journal_anywhere_leaves_the_world_as_before(tmp_path, monkeypatch):
    real, count, limit = os.fsync, 0, 0

    def failing(descriptor):
        nonlocal count
        count += 1
        if count >= limit:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    plan = cluster_plan(1)
    outcomes = set()
    while True:
        count, limit = 0, limit + 1
        bench = _bench(tmp_path / str(limit))
        try:
            bench.run(plan, workers=1)
        except AiHowError as error:
            outcomes.add((type(error), "Input/output error" in error.brief))
        if count < limit:
            break
        is_made = bench.world.content == sorted(step.key for step in plan.steps)
        assert bench.world.content == [] or (is_made and not bench.journal_path.exists()), limit
    # Header and directory, an intent and an end for each step, the end and the directory.
    assert limit - 1 == 2 + 2 * len(plan.steps) + 2
    assert outcomes == {(StateError, True), (PlanFailedError, True)}


@st.composite
def plans(draw):
    size = draw(st.integers(1, 12))
    steps = []
    for number in range(size):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        steps.append(Put(f"s{number:02}", tuple(f"s{need:02}" for need in sorted(needs))))
    victims = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=3))
    there = draw(st.sets(st.integers(0, size - 1), max_size=3))
    return Plan("start", tuple(steps)), victims, there, draw(st.integers(1, 8))


@given(plans(), st.sampled_from(["before apply", "after apply"]))
@settings(max_examples=100, deadline=None)
def test_any_plan_with_any_failures_leaves_the_world_as_before(given_plan, when):
    plan, victims, there, workers = given_plan
    names = {f"s{number:02}" for number in victims}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        # Steps that fail after their effect say MADE, as their thing was not there before.
        present = sorted({f"s{number:02}" for number in there} - names)
        for name in present:
            (bench.world.root / name).touch()

        def on(moment, key):
            if moment == when and key in names:
                raise HostError(f"{key} broke")

        bench.world.on = on
        with pytest.raises(PlanFailedError):
            bench.run(plan, workers=workers)
        assert bench.world.content == present
        assert not bench.journal_path.exists()
        _assert_reverted_in_order(plan, bench.world.keys("before revert"))


def _assert_reverted_in_order(plan: Plan, reverted: list[str]) -> None:
    place = {key: number for number, key in enumerate(reverted)}
    for step in plan.steps:
        for need in step.needs & place.keys():
            if step.key in place:
                assert place[step.key] < place[need]
