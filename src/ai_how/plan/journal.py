"""The write-ahead log of a plan: a step is on disk before it begins, so any process can undo it."""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from ai_how import __version__
from ai_how.errors import StateError
from ai_how.plan.records import (
    Record,
    decode_header,
    decode_line,
    decode_step,
    encode_line,
    encode_step,
)
from ai_how.plan.step import Applied, Step
from ai_how.state.files import NEW_FILE, fsync_directory, read_file, write_all

FORMAT = 1

# Called as ("before intent", key), ("after intent", key) and so on around each record; the key is
# empty for the end record. Only tests use it, to make a run fail or die at a given record.
OnBoundary = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class JournalContents:
    """The contents of the journal of an unfinished run."""

    path: Path
    verb: str
    op_id: UUID
    cluster: str
    pid: int
    started_at: datetime
    note: Mapping[str, Any]
    begun: tuple[Step, ...]
    """The steps with an `intent` record, in this order. They may have ended or not."""
    done: frozenset[str]
    """Keys of the steps with a `done` record."""
    kept: frozenset[str]
    """Keys of begun steps that were KEPT: their object existed before."""
    needs_no_undo: frozenset[str]
    """Keys of begun steps that were KEPT or are undone already."""
    is_over: bool
    """The run ended; only the journal itself is left to remove."""
    valid_bytes: int
    """The size of the valid records. What follows is a torn write."""

    @property
    def remaining(self) -> tuple[Step, ...]:
        """The steps to undo, the newest first."""
        if self.is_over:
            return ()
        return tuple(step for step in reversed(self.begun) if step.key not in self.needs_no_undo)

    @property
    def changed(self) -> tuple[Step, ...]:
        """The begun steps that may have changed something, whether they are undone or not."""
        return tuple(step for step in self.begun if step.key not in self.kept)


class Journal:
    """An append-only log, one checksummed record per line, each synced before its method returns.

    The methods `intent`, `done`, `failed` and `undone` append the record of their name. Used by one
    thread. Every method raises StateError after a write or fsync failed, and for every later call:
    what is on disk after a failed fsync is unknown, so nothing is written after it.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        on_boundary: OnBoundary | None = None,
        *,
        cluster: str,
    ) -> None:
        self.path = path
        self.cluster = cluster
        self._descriptor: int | None = descriptor
        self._on_boundary = on_boundary
        self._failure: OSError | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        verb: str,
        op_id: UUID,
        cluster: str,
        note: Mapping[str, Any],
        on_boundary: OnBoundary | None = None,
    ) -> Self:
        """Create the journal of a run. Raises StateError if an earlier run left one."""
        if _has_records(path):
            raise StateError(f"{path} exists: an earlier run was cut short and is not undone yet")
        header = {
            "journal": FORMAT,
            "verb": verb,
            "op_id": str(op_id),
            "cluster": cluster,
            "pid": os.getpid(),
            "written_by": __version__,
            "started_at": datetime.now(UTC).isoformat(),
            "note": dict(note),
        }
        try:
            # A journal without a valid header is of a run that ended before its first change.
            path.unlink(missing_ok=True)
            descriptor = os.open(path, NEW_FILE | os.O_APPEND, 0o600)
        except OSError as error:
            raise _write_error(path, error) from error
        journal = cls(path, descriptor, on_boundary, cluster=cluster)
        try:
            _append(descriptor, header)
            fsync_directory(path.parent)
        except OSError as error:
            journal.close_file()
            raise _write_error(path, error) from error
        return journal

    @classmethod
    def reopen(cls, contents: JournalContents, *, on_boundary: OnBoundary | None = None) -> Self:
        """Open a journal that was read, and truncate it after its last valid record."""
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(contents.path, flags)
        except OSError as error:
            raise _write_error(contents.path, error) from error
        journal = cls(contents.path, descriptor, on_boundary, cluster=contents.cluster)
        try:
            os.ftruncate(descriptor, contents.valid_bytes)
            # Without it, the torn write could reappear after the next records.
            os.fsync(descriptor)
        except OSError as error:
            journal.close_file()
            raise _write_error(contents.path, error) from error
        return journal

    @classmethod
    def read(cls, path: Path, step_types: Mapping[str, type[Step]]) -> JournalContents | None:
        """The contents of a journal. None if there is no journal, or it has no valid header.

        A torn last line is ignored: a run acts on a record only after it is synced. Raises
        StateError for a journal that is damaged elsewhere, or of another version.
        """
        try:
            records, valid_bytes = _read_records(path)
        except FileNotFoundError:
            return None
        if not records:
            return None
        try:
            return _parse_records(path, records, valid_bytes, step_types)
        except (KeyError, ValueError, TypeError) as error:
            raise _version_error(path, records, error) from error

    @staticmethod
    def read_note(path: Path) -> Mapping[str, Any] | None:
        """The note in a journal's header. None if there is no journal, or it has no valid header.

        It needs no step types, so it works for the journal of any kind of cluster. Raises
        StateError if the journal is damaged, or of another version.
        """
        try:
            records, _ = _read_records(path)
        except FileNotFoundError:
            return None
        if not records:
            return None
        try:
            return decode_header(records[0]).note
        except (KeyError, ValueError, TypeError) as error:
            raise _version_error(path, records, error) from error

    def intent(self, steps: Sequence[Step]) -> None:
        """Record that these steps are about to be applied, with all that their undo needs."""
        self._append_record(
            "intent", [encode_step(step) for step in steps], [step.key for step in steps]
        )

    def done(self, applied: Mapping[str, Applied]) -> None:
        """Record the results of these steps."""
        self._append_record("done", dict(applied), applied)

    def failed(self, errors: Mapping[str, BaseException]) -> None:
        """Record the errors of these steps. They must still be undone."""
        errors_as_text = {
            key: f"{type(error).__name__}: {error}"[:500] for key, error in errors.items()
        }
        self._append_record("failed", errors_as_text, errors)

    def undone(self, keys: Sequence[str]) -> None:
        """Record that these steps are undone."""
        self._append_record("undone", list(keys), keys)

    def close(self) -> None:
        """End the run: append an `end` record, then remove the journal."""
        with suppress(StateError):
            self._append_record("end", datetime.now(UTC).isoformat(), [""])
        self.close_file()
        try:
            self.path.unlink(missing_ok=True)
            fsync_directory(self.path.parent)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def close_file(self) -> None:
        """Close the file, but keep the journal for the next run."""
        if self._descriptor is not None:
            # Every record is synced already, so an error here loses nothing.
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close_file()

    def _append_record(self, record_type: str, what: object, keys: Iterable[str]) -> None:
        on_boundary = self._on_boundary or _ignore_boundary
        for key in keys:
            on_boundary(f"before {record_type}", key)
        self._write({record_type: what})
        for key in keys:
            on_boundary(f"after {record_type}", key)

    def _write(self, record: Record) -> None:
        if self._failure is not None:
            raise _write_error(self.path, self._failure) from self._failure
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        try:
            _append(self._descriptor, record)
        except OSError as error:
            self._failure = error
            raise _write_error(self.path, error) from error


def _append(descriptor: int, record: Record) -> None:
    write_all(descriptor, encode_line(record))
    os.fsync(descriptor)


def _ignore_boundary(moment: str, key: str) -> None:
    """Does nothing."""


def _write_error(path: Path, error: OSError) -> StateError:
    return StateError(
        f"the journal {path} could not be written: {error.strerror}",
        hint=f"df -h {shlex.quote(str(path.parent))}",
    )


def _has_records(path: Path) -> bool:
    try:
        return bool(_read_records(path)[0])
    except FileNotFoundError:
        return False


def _version_error(path: Path, records: Sequence[Record], error: Exception) -> StateError:
    return StateError(
        f"the journal {path} is from another version of ai-how",
        details=f"{type(error).__name__}: {error}",
        hint=f"use ai-how {records[0].get('written_by')}, which wrote it",
    )


def _read_records(path: Path) -> tuple[list[Record], int]:
    """The valid records, and their size in bytes.

    Raises FileNotFoundError, or StateError if a line before the last is damaged, or the file cannot
    be read.
    """
    records: list[Record] = []
    valid_bytes = 0
    try:
        lines = read_file(path).splitlines(keepends=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(
            f"the journal {path} cannot be read: {error.strerror}",
            hint=f"ls -l {shlex.quote(str(path))}",
        ) from error
    for number, line in enumerate(lines, start=1):
        record = decode_line(line)
        if record is None and number < len(lines):
            move = shlex.join(["mv", str(path), f"{path}.damaged"])
            raise StateError(
                f"the journal {path} is damaged in line {number} of {len(lines)}",
                details="The steps that its run began can no longer be read from it.",
                hint=f"{move}  # then destroy the cluster, or start it again",
            )
        if record is not None:
            records.append(record)
            valid_bytes += len(line)
    return records, valid_bytes


def _parse_records(
    path: Path,
    records: Sequence[Record],
    valid_bytes: int,
    step_types: Mapping[str, type[Step]],
) -> JournalContents:
    """Raises KeyError, ValueError or TypeError for valid records with unknown contents."""
    if (found := records[0]["journal"]) != FORMAT:
        raise ValueError(f"its format is {found}, this version reads {FORMAT}")
    header = decode_header(records[0])
    begun: dict[str, Step] = {}
    done: set[str] = set()
    kept: set[str] = set()
    undone: set[str] = set()
    is_over = False
    for record in records[1:]:
        match record:
            case {"intent": list(steps)}:
                begun |= {step["key"]: decode_step(step, step_types) for step in steps}
            case {"done": dict(applied)}:
                done |= set(applied)
                kept |= {key for key, what in applied.items() if what == Applied.KEPT}
            case {"undone": list(keys)}:
                done -= set(keys)
                undone |= set(keys)
            case {"failed": _}:
                pass  # For the user: a failed step is undone like one without a result.
            case {"end": _}:
                is_over = True
            case _:
                raise ValueError(f"it has an unknown record: {', '.join(record)}")
    return JournalContents(
        path=path,
        verb=header.verb,
        op_id=header.op_id,
        cluster=header.cluster,
        pid=header.pid,
        started_at=header.started_at,
        note=header.note,
        begun=tuple(begun.values()),
        done=frozenset(done),
        kept=frozenset(kept),
        needs_no_undo=frozenset(kept | undone),
        is_over=is_over,
        valid_bytes=valid_bytes,
    )
