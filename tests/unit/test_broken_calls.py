"""Every system call of a save and of a journal is made to fail, or is the last before a kill."""

import mmap
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from plan_world import OP_ID, STEP_TYPES, Put
from test_state_models import cluster_state

from ai_how.plan.journal import Journal
from ai_how.plan.step import Applied
from ai_how.state.cluster_state import parse_state, read_state, restore_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from file_calls import BROKEN, DONE, REFUSED, Traced, trace
from savers import Kept, forget, note_all, save_over_damage, written

STATE = cluster_state()
STEPS = (Put("a"), Put("b", ("a",)))
ERRORS = ("EIO", "ENOSPC", "EINTR", "EACCES")
# Where time is short, only what changes something in a save and in a journal fails in every way;
# all else fails in one way each, in turn.
CORE = ("save", "journal")
LOOKS = frozenset({
    "newfstatat", "fstat", "lstat", "access", "read", "getdents64", "ioctl", "lseek", "fcntl",
    "flock", "close",
})  # fmt: skip


class Progress:
    """How far the child came, in memory that it shares with us: no call that might be broken."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def reached(self) -> int:
        return self._page[0]

    @reached.setter
    def reached(self, number: int) -> None:
        self._page[0] = number


@dataclass(frozen=True)
class Case:
    """What is there, what is done, and what must be true then: `done`, or reached so far only."""

    prepare: Callable[[Path], object]
    act: Callable[[Path, Progress], None]
    check: Callable[[Path, bool, int], None]


def save_first(root: Path, progress: Progress) -> None:
    paths = ClusterPaths(root / "demo")
    ensure_private_directory(paths.root)
    write_state(paths, STATE)


def check_first(root: Path, done: bool, reached: int) -> None:
    paths = ClusterPaths(root / "demo")
    state = read_state(paths)
    assert (state.serial if state else 0) in ((1,) if done else (0, 1))
    _check_next_save(paths)


def save(root: Path, progress: Progress) -> None:
    paths = ClusterPaths(root / "demo")
    state = read_state(paths)
    assert state is not None
    write_state(paths, state)


def check_saved(root: Path, done: bool, reached: int) -> None:
    """The state is the old one or the new one, and its backups are those before it."""
    found = Kept.read(root)
    assert found.text is not None
    serial = parse_state(found.text.encode()).serial
    assert serial in ((13,) if done else (12, 13))
    assert set(range(serial - 9, serial)) <= set(found.backups) <= set(range(2, 13))
    _check_next_save(ClusterPaths(root / "demo"))


def _check_next_save(paths: ClusterPaths) -> None:
    ensure_private_directory(paths.root)
    state = write_state(paths, read_state(paths) or STATE)
    assert read_state(paths) == state
    assert [path.name for path in paths.root.iterdir() if path.suffix == ".draft"] == []


def check_removed(root: Path, done: bool, reached: int) -> None:
    """While the state is there it can be removed again; once it is not, neither are backups."""
    found = Kept.read(root)
    assert found.text is None or not done
    assert found.text is not None or found.backups == {}
    forget(root, STATE)
    assert Kept.read(root) == Kept(None, {})


def damage(root: Path) -> None:
    written(root, STATE, 3).state.write_bytes(b"half a st")


def check_restored(root: Path, done: bool, reached: int) -> None:
    paths = ClusterPaths(root / "demo")
    if not done and paths.state.read_bytes() == b"half a st":
        restore_state(paths, 2)
    state = read_state(paths)
    assert state is not None
    assert state.serial >= 4
    assert (paths.backups / "damaged.json").read_bytes() == b"half a st"
    _check_next_save(paths)


def note(root: Path, progress: Progress) -> None:
    """A run: a step begins when its intent was noted."""
    path = root / "journal.jsonl"
    with Journal.create(path, verb="start", op_id=OP_ID, cluster="demo", note={}) as journal:
        progress.reached = 1
        for number, step in enumerate(STEPS, start=2):
            journal.intent([step])
            progress.reached = number
            journal.done({step.key: Applied.MADE})
        progress.reached = CLOSING
        journal.close()


CLOSING = 9


def check_noted(root: Path, done: bool, reached: int) -> None:
    """What had been noted is there, and at most one record more; the next run can begin."""
    path = root / "journal.jsonl"
    seen = Journal.read(path, STEP_TYPES)
    if done:
        assert not path.exists()
    elif reached < CLOSING:
        assert seen is not None or not reached, "a run that had begun left no journal"
        begun = [step.key for step in seen.begun] if seen else []
        assert begun in (["a", "b"][: max(reached - 1, 0)], ["a", "b"][:reached])
    _check_next_run(path)


def _check_next_run(path: Path) -> None:
    seen = Journal.read(path, STEP_TYPES)
    if seen is not None:
        with Journal.reopen(seen) as journal:
            journal.undone(["a"])
            journal.close()
    note_all(path, STEPS)
    assert not path.exists()


def leave_torn(root: Path) -> None:
    path = root / "journal.jsonl"
    with Journal.create(path, verb="start", op_id=OP_ID, cluster="demo", note={}) as journal:
        journal.intent(STEPS)
    with path.open("ab") as file:
        file.write(b'{"crc":"00')


def go_on(root: Path, progress: Progress) -> None:
    seen = Journal.read(root / "journal.jsonl", STEP_TYPES)
    assert seen is not None
    with Journal.reopen(seen) as journal:
        journal.undone(["b"])
        progress.reached = 1
        journal.undone(["a"])
        progress.reached = CLOSING
        journal.close()


def check_gone_on(root: Path, done: bool, reached: int) -> None:
    path = root / "journal.jsonl"
    seen = Journal.read(path, STEP_TYPES)
    if done:
        assert not path.exists()
    elif reached < CLOSING:
        assert seen is not None
        remaining = [step.key for step in seen.remaining]
        assert remaining in ([["b", "a"], ["a"]], [["a"], []])[reached]
    _check_next_run(path)


def hold(root: Path, progress: Progress) -> None:
    with held_lock(root / "demo" / "lock", doing="hold"):
        progress.reached = 1


def check_free(root: Path, done: bool, reached: int) -> None:
    assert reached or not done
    with held_lock(root / "demo" / "lock", doing="look"):
        pass


def nothing(root: Path) -> None:
    """Not even the cluster's directory is there."""


CASES = {
    "first save": Case(nothing, save_first, check_first),
    "save": Case(lambda root: written(root, STATE, 12), save, check_saved),
    "removal": Case(
        lambda root: written(root, STATE, 3), lambda root, _: forget(root, STATE), check_removed
    ),
    "restoring": Case(damage, lambda root, _: save_over_damage(root, STATE), check_restored),
    "journal": Case(nothing, note, check_noted),
    "journal gone on with": Case(leave_torn, go_on, check_gone_on),
    "lock": Case(nothing, hold, check_free),
}


@dataclass(frozen=True)
class Bench:
    """Acts out one case again and again, each time in a directory of its own."""

    name: str
    top: Path
    logs: Path
    numbers: Iterator[int]

    @property
    def case(self) -> Case:
        return CASES[self.name]

    def act(self, inject: str = "") -> tuple[Traced, Path, int]:
        root = self.top / str(next(self.numbers))
        shutil.copytree(self.top / "template", root)
        progress = Progress()
        traced = trace(lambda: self.case.act(root, progress), self.logs, inject=inject)
        return traced, root, progress.reached

    @property
    def calls(self) -> Counter[str]:
        """What the act calls, and how often, when nothing fails."""
        traced, _, _ = self.act()
        assert traced.code == DONE, traced.error
        return Counter(call.name for call in traced.calls)

    def check(self, traced: Traced, root: Path, reached: int) -> None:
        self.case.check(root, traced.code == DONE, reached)
        shutil.rmtree(root)


@pytest.fixture(params=CASES)
def bench(request, tmp_path) -> Iterator[Bench]:
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        template = Path(directory) / "template"
        template.mkdir()
        CASES[request.param].prepare(template)
        bench = Bench(request.param, Path(directory), tmp_path, count())
        # What Python loads when it is first used is loaded now.
        bench.case.act(shutil.copytree(template, Path(directory) / "first"), Progress())
        yield bench


def errors_for(name: str, call: str, number: int, is_long: bool) -> tuple[str, ...]:
    if is_long or (name in CORE and call not in LOOKS):
        return ERRORS
    return (ERRORS[number % len(ERRORS)],)


@pytest.mark.fault("F13", "strace makes each system call fail")
def test_a_call_that_fails_costs_nothing_that_was_kept(bench, points, is_long):
    for call, times in bench.calls.items():
        for number in range(1, times + 1):
            for error in errors_for(bench.name, call, number, is_long):
                what = f"{call}:error={error}:when={number}"
                traced, root, reached = bench.act(what)
                assert traced.injected, f"{what} did not happen"
                assert traced.code in (DONE, REFUSED), f"{what}: {traced.error}"
                if traced.code == REFUSED:
                    assert traced.error.startswith(("StateError: ", "HostError: ")), what
                assert not _syncs_again(traced), what
                bench.check(traced, root, reached)
                points(1)


def _syncs_again(traced: Traced) -> bool:
    """Whether what could not be synced is synced as if nothing had been; EINTR lost nothing."""
    failed = traced.injected
    if failed is None or failed.name != "fsync" or "EINTR" in failed.error:
        return False
    after = traced.calls[traced.calls.index(failed) + 1 :]
    return any(call.name == "fsync" and call.texts == failed.texts for call in after)


@pytest.mark.fault("F12", "SIGKILL at each system call")
def test_a_kill_at_any_call_costs_nothing_that_was_kept(bench, points):
    for call, times in bench.calls.items():
        for number in range(1, times + 1):
            what = f"{call}:signal=KILL:when={number}"
            traced, root, reached = bench.act(what)
            assert traced.code is None, f"{what} did not happen"
            bench.check(traced, root, reached)
            points(1)


def test_a_program_that_is_not_ready_for_an_error_is_found_out(tmp_path):
    traced = trace((tmp_path / "file").touch, tmp_path, inject="openat:error=EIO:when=1")
    assert traced.code == BROKEN
    assert "OSError: [Errno 5] Input/output error" in traced.error


def test_who_syncs_again_what_could_not_be_synced_is_found_out(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)

    def sync_until_it_goes() -> None:
        with suppress(OSError):
            os.fsync(descriptor)
        os.fsync(descriptor)

    traced = trace(sync_until_it_goes, tmp_path, inject="fsync:error=EIO:when=1")
    os.close(descriptor)
    assert traced.code == DONE
    assert _syncs_again(traced)
