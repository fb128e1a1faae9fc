"""Power is lost at any moment: what was promised to last is there, and nothing is half there."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from plan_world import OP_ID, STEP_TYPES, Put
from test_state_models import cluster_state

from ai_how.plan.journal import Journal
from ai_how.state.cluster_state import parse_state, read_state, write_state
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from power_loss import Recording, Verdict, mark, replay
from savers import (
    CARELESS,
    Kept,
    forget,
    note_all,
    note_anew,
    note_unsynced,
    save_again,
    save_first,
    save_over_damage,
    written,
)

STATE = cluster_state()
STEPS = (Put("a"), Put("b", ("a",)))
MEMORY = Path("/dev/shm")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where what is left is looked at: thousands of times, so in memory where there is some."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory) / "left"


@pytest.fixture
def tears(is_long) -> int:
    """At how many places a write is torn: at hundreds where there is time."""
    return 400 if is_long else 8


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def count(points, figures) -> Callable[[Verdict], None]:
    def count(verdict: Verdict) -> None:
        points(verdict.replays, held=verdict.replays - len(verdict.violations))
        figures["power-loss replays"] += verdict.replays
        assert verdict.violations == []

    return count


def serials(verdict: Verdict[Kept]) -> list[int | None]:
    """What was promised at each mark."""
    return [None if one.text is None else _serial(one.text) for one in verdict.promised]


def _serial(text: str) -> int:
    return parse_state(text.encode()).serial


def save_on(root: Path) -> str | None:
    """As the next run does: its save is good, and nothing of the dead one lies about."""
    paths = ClusterPaths(root / "demo")
    ensure_private_directory(paths.root)
    wanted = write_state(paths, read_state(paths) or STATE)
    if read_state(paths) != wanted:
        return "the next save is not read again"
    drafts = [path.name for path in paths.root.iterdir() if path.name.endswith(".draft")]
    return f"a draft remains: {drafts}" if drafts else None


def first_saves(root: Path) -> None:
    """Nothing is there, not even the cluster's directory."""


def damaged(root: Path) -> None:
    written(root, STATE, 3).state.write_bytes(b"half a st")


HISTORIES = {
    "first": (first_saves, save_first, [None, None, 1, 2]),
    "second": (lambda root: written(root, STATE, 1), save_again, [1, 2, 3]),
    "with all backups": (lambda root: written(root, STATE, 12), save_again, [12, 13, 14]),
}


@pytest.mark.fault("F14", "the writes of a save replayed: all, some, reordered, torn")
@pytest.mark.parametrize("history", HISTORIES)
def test_a_save_leaves_the_old_state_or_the_new_and_every_backup(
    root, scratch, tmp_path, tears, count, history
):
    prepare, save, promised = HISTORIES[history]
    prepare(root)
    recording = Recording.of(lambda: save(root, STATE, mark), root, tmp_path)
    verdict = replay(recording, Kept.read, Kept.is_right, scratch, after=save_on, tears=tears)
    assert serials(verdict) == promised
    count(verdict)


@pytest.mark.fault("F14", "the writes of a removal replayed: all, some, reordered")
def test_a_state_that_is_removed_is_there_or_is_gone_with_its_backups(
    root, scratch, tmp_path, tears, count
):
    written(root, STATE, 4)
    recording = Recording.of(lambda: forget(root, STATE, mark), root, tmp_path)
    verdict = replay(recording, Kept.read, Kept.is_right_or_going, scratch, tears=tears)
    assert serials(verdict) == [4, None]
    count(verdict)


@pytest.mark.fault("F14", "the writes of a restored backup replayed: all, some, reordered, torn")
def test_a_backup_that_is_restored_is_there_or_can_be_restored_again(
    root, scratch, tmp_path, tears, count
):
    damaged(root)

    def read(left: Path) -> Kept:
        paths = ClusterPaths(left / "demo")
        if paths.state.read_bytes() == b"half a st":
            paths.state.unlink()
        return Kept.read(left)

    def is_right(found: Kept, wanted: Kept) -> bool:
        return found.text == wanted.text and found.backups.keys() >= {1, 2}

    recording = Recording.of(lambda: save_over_damage(root, STATE, mark), root, tmp_path)
    verdict = replay(recording, read, is_right, scratch, tears=tears)
    assert serials(verdict) == [None, 4]
    count(verdict)


# The journal.

Told = tuple[str, tuple[str, ...], frozenset[str]] | None


def told_by(root: Path, name: str = "journal.jsonl") -> Told:
    """What there is to undo, as the next run reads it."""
    seen = Journal.read(root / name, STEP_TYPES)
    if seen is None or seen.is_over:
        return None
    return seen.verb, tuple(step.key for step in seen.begun), seen.needs_no_undo


def note_on(root: Path) -> str | None:
    """As the next run does: what it notes behind what is left is read again, or it begins anew."""
    path = root / "journal.jsonl"
    seen = Journal.read(path, STEP_TYPES)
    if seen is None:
        note_all(path, STEPS)
        return "the journal remains" if path.exists() else None
    with Journal.reopen(seen) as journal:
        journal.undone(["b"])
        again = Journal.read(path, STEP_TYPES)
        if again is None or again.needs_no_undo != seen.needs_no_undo | {"b"}:
            return f"what is noted on top is not read again: {again}"
        journal.close()
    return "the journal remains" if path.exists() else None


NOTED = [
    None,
    ("start", (), frozenset()),
    ("start", ("a",), frozenset()),
    ("start", ("a",), frozenset()),
    ("start", ("a", "b"), frozenset()),
    ("start", ("a", "b"), frozenset()),
    ("start", ("a", "b"), frozenset("b")),
    None,
]


@pytest.mark.fault("F14", "the writes of a journal replayed: all, some, reordered, torn")
@pytest.mark.parametrize("former", [None, b'{"crc":"00', b"\0" * 4096], ids=["new", "torn", "null"])
def test_a_journal_tells_all_that_was_noted_and_at_most_what_was_being_noted(
    root, scratch, tmp_path, tears, count, former
):
    path = root / "journal.jsonl"
    if former is not None:
        path.write_bytes(former)
    recording = Recording.of(lambda: note_all(path, STEPS, mark), root, tmp_path)
    verdict = replay(recording, told_by, _is_equal, scratch, after=note_on, tears=tears)
    assert verdict.promised == NOTED
    count(verdict)


def _is_equal(found: Told, wanted: Told) -> bool:
    return found == wanted


@pytest.mark.fault("F14", "the writes of a journal that is gone on with, replayed")
@pytest.mark.parametrize("torn", [0, 1, 40, 4096])
def test_a_journal_that_is_gone_on_with_loses_nothing_of_the_first_run(
    root, scratch, tmp_path, tears, count, torn
):
    path = root / "journal.jsonl"
    _leave_journal(path, torn)

    def go_on() -> None:
        mark()
        seen = Journal.read(path, STEP_TYPES)
        assert seen is not None
        with Journal.reopen(seen) as journal:
            journal.undone(["b"])
            mark()
            journal.undone(["a"])
            mark()
            journal.close()
            mark()

    recording = Recording.of(go_on, root, tmp_path)
    verdict = replay(recording, told_by, _is_equal, scratch, after=note_on, tears=tears)
    begun = ("start", ("a", "b"))
    assert verdict.promised == [
        (*begun, frozenset()),
        (*begun, frozenset("b")),
        (*begun, frozenset("ab")),
        None,
    ]
    count(verdict)


def _leave_journal(path: Path, torn: int) -> None:
    """As a run leaves it that dies when it had begun two steps, and was noting more."""
    with Journal.create(path, verb="start", op_id=OP_ID, cluster="demo", note={}) as journal:
        journal.intent(STEPS)
        whole = path.stat().st_size
        journal.undone(["x" * 5000])
    with path.open("r+b") as file:
        file.truncate(whole + torn)


@pytest.mark.fault("F14", "the writes of state and journal of one run replayed together")
def test_a_run_whose_journal_is_gone_has_its_state(root, scratch, tmp_path, tears, count):
    paths = written(root, STATE, 1)

    def run() -> None:
        mark()
        journal = Journal.create(paths.journal, verb="start", op_id=OP_ID, cluster="demo", note={})
        journal.intent(STEPS)
        mark()
        there = read_state(paths)
        assert there is not None
        write_state(paths, there)
        mark()
        journal.close()
        mark()

    def read(left: Path) -> tuple[Told, int]:
        state = read_state(ClusterPaths(left / "demo"))
        assert state is not None
        return told_by(left / "demo"), state.serial

    def is_right(found: tuple[Told, int], wanted: tuple[Told, int]) -> bool:
        (told, serial), (wanted_told, wanted_serial) = found, wanted
        # While the journal is being created or removed, it may tell of a run without steps.
        told_well = told in (wanted_told, ("start", (), frozenset()))
        return serial == wanted_serial and told_well

    verdict = replay(Recording.of(run, root, tmp_path), read, is_right, scratch, tears=tears)
    both = ("start", ("a", "b"), frozenset())
    assert verdict.promised == [(None, 1), (both, 1), (both, 2), (None, 2)]
    count(verdict)


# That the harness can fail.


@pytest.mark.parametrize("how", CARELESS)
def test_a_careless_writer_of_the_state_is_found_out(root, scratch, tmp_path, how):
    written(root, STATE, 2)
    recording = Recording.of(lambda: CARELESS[how](root, STATE, mark), root, tmp_path)
    verdict = replay(recording, Kept.read, lambda found, one: found.text == one.text, scratch)
    assert serials(verdict) == [2, 3]
    assert verdict.violations


@pytest.mark.parametrize("note", [note_unsynced, note_anew])
def test_a_careless_writer_of_the_journal_is_found_out(root, scratch, tmp_path, note):
    path = root / "journal.jsonl"
    recording = Recording.of(lambda: note(path, STEPS, mark), root, tmp_path)
    verdict = replay(recording, told_by, _is_equal, scratch)
    assert verdict.promised == [NOTED[0], NOTED[1], NOTED[2], NOTED[4]]
    assert verdict.violations


def test_a_change_that_the_replay_does_not_know_is_not_passed_over(root, tmp_path):
    (root / "file").write_text("x")
    with pytest.raises(ValueError, match="not understood: symlink"):
        Recording.of(partial((root / "link").symlink_to, root / "file"), root, tmp_path)
