"""What a plan is doing, written down before it is done, so that any process can undo it."""

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

# Called as ("before intent", key), ("after intent", key) and so on around each record, with an
# empty key for the end: the one place where a test makes the run fail or die.
OnBoundary = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What a journal tells of a run that was cut short."""

    path: Path
    verb: str
    op_id: UUID
    cluster: str
    pid: int
    started_at: datetime
    note: Mapping[str, Any]
    begun: tuple[Step, ...]
    """In the order of their beginning; whether they ended is not always known."""
    done: frozenset[str]
    """Keys of the steps that were applied to their end."""
    needs_no_undo: frozenset[str]
    """Keys of begun steps with nothing to undo: found there already, or undone."""
    is_over: bool
    """The run came to its end, and only removing the journal is left."""
    valid_bytes: int
    """Where the whole records end; what follows was torn by the end of the run."""

    @property
    def remaining(self) -> tuple[Step, ...]:
        """What there is to undo, the newest first."""
        if self.is_over:
            return ()
        return tuple(step for step in reversed(self.begun) if step.key not in self.needs_no_undo)


class Journal:
    """Append-only, one checksummed record a line; each is on disk before its method returns.

    Used by one thread. Every method raises StateError when the disk refuses, and from then on: what
    is on disk after a failed fsync is not known, so nothing is written after it.
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
        """Begin the journal of a run; StateError where that of an earlier one still is."""
        if _has_records(path):
            raise StateError(f"{path} is there from a run that was cut short and not yet undone")
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
            # One without a whole first record was cut short before any change.
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
    def reopen(cls, seen: JournalContents, *, on_boundary: OnBoundary | None = None) -> Self:
        """Go on with a journal that was read, behind its last whole record."""
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(seen.path, flags)
        except OSError as error:
            raise _write_error(seen.path, error) from error
        journal = cls(seen.path, descriptor, on_boundary, cluster=seen.cluster)
        try:
            os.ftruncate(descriptor, seen.valid_bytes)
            # Else the torn tail might come back behind what is written next.
            os.fsync(descriptor)
        except OSError as error:
            journal.close_file()
            raise _write_error(seen.path, error) from error
        return journal

    @classmethod
    def read(cls, path: Path, step_types: Mapping[str, type[Step]]) -> JournalContents | None:
        """What a run left; None where there is no journal, or nothing had begun.

        A last line that is not whole was never acted upon and does not count. Raises StateError for
        a journal that is damaged elsewhere, or from a newer version.
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
        """What a journal's first record notes of its cluster; None where there is no journal.

        The steps need not be known, so it is read whatever kind of cluster it is of. Raises
        StateError where that record is damaged, or from another version.
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
        """Write down that these are about to be applied, with all that their undo needs."""
        self._append_record(
            "intent", [encode_step(step) for step in steps], [step.key for step in steps]
        )

    def done(self, applied: Mapping[str, Applied]) -> None:
        """Write down what these steps did."""
        self._append_record("done", dict(applied), applied)

    def failed(self, errors: Mapping[str, BaseException]) -> None:
        """Write down why these steps failed; they still have to be undone."""
        told = {key: f"{type(error).__name__}: {error}"[:500] for key, error in errors.items()}
        self._append_record("failed", told, errors)

    def undone(self, keys: Sequence[str]) -> None:
        """Write down that nothing of these steps remains."""
        self._append_record("undone", list(keys), keys)

    def close(self) -> None:
        """The run is over: remove the journal, which says so itself where we die in between."""
        with suppress(StateError):
            self._append_record("end", datetime.now(UTC).isoformat(), [""])
        self.close_file()
        try:
            self.path.unlink(missing_ok=True)
            fsync_directory(self.path.parent)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def close_file(self) -> None:
        """Write no more, and let the journal lie for the next run."""
        if self._descriptor is not None:
            # All that was promised is synced: whatever this says, nothing is lost.
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

    def _append_record(self, word: str, what: object, keys: Iterable[str]) -> None:
        on_boundary = self._on_boundary or _unobserved
        for key in keys:
            on_boundary(f"before {word}", key)
        self._write({word: what})
        for key in keys:
            on_boundary(f"after {word}", key)

    def _write(self, record: Record) -> None:
        if self._failure is not None:
            raise _write_error(self.path, self._failure) from self._failure
        if self._descriptor is None:
            raise ValueError(f"{self.path} was left")
        try:
            _append(self._descriptor, record)
        except OSError as error:
            self._failure = error
            raise _write_error(self.path, error) from error


def _append(descriptor: int, record: Record) -> None:
    write_all(descriptor, encode_line(record))
    os.fsync(descriptor)


def _unobserved(moment: str, key: str) -> None:
    """Let every boundary pass."""


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
    """The whole records, and how many bytes they take.

    Raises FileNotFoundError, or StateError for damage before the end and for what cannot be read.
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
                details="What the run that wrote it had begun cannot be known from it.",
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
    """KeyError, ValueError or TypeError for records that are whole, but not ours."""
    if (found := records[0]["journal"]) != FORMAT:
        raise ValueError(f"its format is {found}, ours is {FORMAT}")
    header = decode_header(records[0])
    begun: dict[str, Step] = {}
    done: set[str] = set()
    needs_no_undo: set[str] = set()
    is_over = False
    for record in records[1:]:
        match record:
            case {"intent": list(steps)}:
                begun |= {step["key"]: decode_step(step, step_types) for step in steps}
            case {"done": dict(applied)}:
                done |= set(applied)
                needs_no_undo |= {key for key, what in applied.items() if what == Applied.KEPT}
            case {"undone": list(keys)}:
                done -= set(keys)
                needs_no_undo |= set(keys)
            case {"failed": _}:
                pass  # For people; a step that failed is undone as one that was cut short.
            case {"end": _}:
                is_over = True
            case _:
                raise ValueError(f"it has a record of {', '.join(record)}")
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
        needs_no_undo=frozenset(needs_no_undo),
        is_over=is_over,
        valid_bytes=valid_bytes,
    )
