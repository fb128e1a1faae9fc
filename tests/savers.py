"""Those who write a cluster's state and journal: ours, and some that are known to lose them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.plan.journal import Journal
from ai_how.plan.records import encode_line, encode_step
from ai_how.plan.step import Applied, Plan, Step
from ai_how.state.cluster_state import (
    KEPT_BACKUPS,
    parse_state,
    read_state,
    remove_state,
    render_state,
    restore_state,
    write_state,
)
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, ensure_private_directory

Mark = Callable[[], object]
Saver = Callable[[Path, ClusterState, Mark], None]
"""Writes below a directory what follows from a state that was not written yet, with its marks."""


def unmarked() -> None:
    """For whom no promise is of interest."""


# Ours. Each works in the directory "demo" of the root that it is given.


def save_first(root: Path, state: ClusterState, mark: Mark = unmarked) -> None:
    mark()
    paths = ClusterPaths(root / "demo")
    ensure_private_directory(paths.root)
    mark()
    state = write_state(paths, state)
    mark()
    write_state(paths, state)
    mark()


def save_again(root: Path, state: ClusterState, mark: Mark = unmarked) -> None:
    mark()
    paths = ClusterPaths(root / "demo")
    for _ in range(2):
        there = read_state(paths)
        assert there is not None
        write_state(paths, there.model_copy(update={"user": f"{there.user}x"}))
        mark()


def save_over_damage(root: Path, state: ClusterState, mark: Mark = unmarked) -> None:
    mark()
    restore_state(ClusterPaths(root / "demo"), 2)
    mark()


def forget(root: Path, state: ClusterState, mark: Mark = unmarked) -> None:
    mark()
    remove_state(ClusterPaths(root / "demo"))
    mark()


def written(root: Path, state: ClusterState, times: int) -> ClusterPaths:
    """A directory in which the state was written that often."""
    paths = ClusterPaths(root / "demo")
    ensure_private_directory(paths.root)
    for _ in range(times):
        state = write_state(paths, state)
    return paths


# Known to lose what they write.


def save_in_place(root: Path, state: ClusterState, mark: Mark) -> None:
    """Cuts the file and writes it anew."""
    mark()
    paths, text = ClusterPaths(root / "demo"), _next(ClusterPaths(root / "demo"), state)
    descriptor = os.open(paths.state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, text)
    os.fsync(descriptor)
    os.close(descriptor)
    mark()


def save_behind_rename(root: Path, state: ClusterState, mark: Mark) -> None:
    """Makes the old file the backup first, and then writes the new one."""
    mark()
    paths, text = ClusterPaths(root / "demo"), _next(ClusterPaths(root / "demo"), state)
    paths.state.rename(paths.root / "state.backup")
    descriptor = os.open(paths.state, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, text)
    os.fsync(descriptor)
    os.close(descriptor)
    _sync(paths.root)
    mark()


def save_unsynced(root: Path, state: ClusterState, mark: Mark) -> None:
    """Replaces the file by one whose content is not on disk."""
    _replace(root, state, mark, syncs_content=False, syncs_name=True)


def save_unsynced_name(root: Path, state: ClusterState, mark: Mark) -> None:
    """Replaces the file, and says so before that is on disk."""
    _replace(root, state, mark, syncs_content=True, syncs_name=False)


CARELESS: Mapping[str, Saver] = {
    "truncate in place": save_in_place,
    "rename, then write": save_behind_rename,
    "content not synced": save_unsynced,
    "name not synced": save_unsynced_name,
}


def _replace(
    root: Path, state: ClusterState, mark: Mark, *, syncs_content: bool, syncs_name: bool
) -> None:
    mark()
    paths = ClusterPaths(root / "demo")
    draft = paths.root / ".state.json.0.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, _next(paths, state))
    if syncs_content:
        os.fsync(descriptor)
    os.close(descriptor)
    draft.replace(paths.state)
    if syncs_name:
        _sync(paths.root)
    mark()


def _next(paths: ClusterPaths, state: ClusterState) -> bytes:
    serial = parse_state(paths.state.read_bytes()).serial
    return render_state(state.model_copy(update={"serial": serial + 1})).encode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# What a reader says of a directory.


@dataclass(frozen=True)
class Kept:
    """The state and its backups, as texts: each was read by the real reader and is sound."""

    text: str | None
    backups: Mapping[int, str]

    @classmethod
    def read(cls, root: Path) -> "Kept":
        """StateError or DamagedError where anything that is kept is not as it was written."""
        paths = ClusterPaths(root / "demo")
        state = read_state(paths)
        backups = {}
        for path in paths.backups.glob("*.json"):
            if path.stem.isdecimal():
                backup = parse_state(path.read_bytes())
                assert backup.serial == int(path.stem)
                backups[backup.serial] = render_state(backup)
        return cls(render_state(state) if state else None, backups)

    def is_right(self, wanted: "Kept") -> bool:
        """Whether it is the state that is wanted, with the backups that it shall have.

        The oldest of ten is on its way out; and while a cluster is forgotten, all are.
        """
        if self.text != wanted.text or any(
            wanted.backups.get(serial, text) != text for serial, text in self.backups.items()
        ):
            return False
        if self.text is None:
            return not self.backups
        oldest = sorted(wanted.backups)[: len(wanted.backups) >= KEPT_BACKUPS]
        return set(wanted.backups) - set(self.backups) <= set(oldest)

    def is_right_or_going(self, wanted: "Kept") -> bool:
        """The same for a cluster that is being forgotten, whose backups go before it does."""
        if self.text is None:
            return not self.backups and wanted.text is None
        return self.text == wanted.text and self.backups.items() <= wanted.backups.items()


# The journal.


def journal_of(path: Path, plan: Plan) -> Journal:
    from plan_world import OP_ID  # noqa: PLC0415  only unit tests have it

    return Journal.create(path, verb=plan.verb, op_id=OP_ID, cluster="demo", note={})


def note_all(path: Path, steps: tuple[Step, ...], mark: Mark = unmarked) -> None:
    """A run of two steps from its first record to the removal of its journal."""
    first, second = steps
    mark()
    journal = journal_of(path, Plan("start", steps))
    mark()
    journal.intent([first])
    mark()
    journal.done({first.key: Applied.MADE})
    mark()
    journal.intent([second])
    mark()
    journal.failed({second.key: ValueError("no")})
    mark()
    journal.undone([second.key])
    mark()
    journal.close()
    mark()


def note_unsynced(path: Path, steps: tuple[Step, ...], mark: Mark) -> None:
    """As ours, but what it notes is not on disk yet when the step begins."""
    mark()
    journal_of(path, Plan("start", steps)).close_file()
    mark()
    for step in steps:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, encode_line({"intent": [encode_step(step)]}))
        os.close(descriptor)
        mark()


def note_anew(path: Path, steps: tuple[Step, ...], mark: Mark) -> None:
    """Writes the whole file again for each record."""
    mark()
    journal_of(path, Plan("start", steps)).close_file()
    mark()
    lines = path.read_bytes()
    for step in steps:
        lines += encode_line({"intent": [encode_step(step)]})
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        os.write(descriptor, lines)
        os.fsync(descriptor)
        os.close(descriptor)
        mark()
