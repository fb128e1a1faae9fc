"""What was seen of a cluster for days: means of minutes, jobs and events, in SQLite.

Each method raises StoreError; then nothing of the call was written.
"""

import math
import os
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ai_how.errors import HostError
from ai_how.monitoring.history import MOST_SERIES, NAN, Series
from ai_how.monitoring.model import Event, Job
from ai_how.monitoring.records import read_job, write_job

MINUTE_S = 60
SCHEMA = 1
MARK = 0x61692D68
"""`application_id`: "ai-h"."""
MOST_BYTES = 256 << 20
MOST_ROWS = 100_000
BUSY_S = 5.0
PRUNED_AT_ONCE = 0.1
_SETUP = """
create table series (id integer primary key, name text not null, subject text not null,
                     unique (name, subject));
create table minutes (minute integer primary key, means blob not null);
create table jobs (id text not null, submitted_at real not null, started_at real, ended_at real,
                   has_ended integer not null, seen_at real not null, record text not null,
                   primary key (id, submitted_at)) without rowid;
create index jobs_by_end on jobs (has_ended, ended_at);
create table events (at real not null, kind text not null, subject text not null,
                     text text not null);
create index events_by_time on events (at);
"""
_BLOCK = 512
_SQLITE_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Key = tuple[str, str]
"""Name and subject of a series."""
Minute = tuple[int, dict[Key, float]]
"""The number of a minute since 1970, and the means of each series in it."""
Place = tuple[float, str]
"""Where a page of rows begins: behind a time, and a number at that time."""
FIRST: Place = (-1e300, "")


class StoreError(HostError):
    """The database cannot be used now: its disk is full, or it was written by a newer version."""

    is_damaged = False


class Store:
    """The database of one cluster, for one thread."""

    def __init__(
        self, path: Path, *, most_bytes: int = MOST_BYTES, is_reader: bool = False
    ) -> None:
        """Open it, and create or check it; a reader takes it as it is, and may be too late."""
        self._path = path
        self._most_bytes = most_bytes
        self._ids: dict[Key, int] = {}
        self._base = _opened(path, is_reader=is_reader)
        try:
            with self._told():
                self._base.execute("pragma cache_size = -512")
                if not is_reader:
                    self._set_up()
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._base.close()

    def write(
        self,
        minutes: Iterable[Minute] = (),
        events: Iterable[Event] = (),
        jobs: Iterable[Job] = (),
        *,
        seen_at: float = 0.0,
    ) -> None:
        """Write means of minutes, events, and what is known of jobs at `seen_at`.

        A minute keeps the means that it had and does not get. A job that was requeued stays one.
        """
        with self._told(), self._base:
            for minute, means in minutes:
                self._put_minute(minute, means)
            self._base.executemany(
                "insert into events values (?, ?, ?, ?)",
                [(one.at, one.kind, one.subject, one.text) for one in events],
            )
            for job in jobs:
                self._put_job(job, seen_at)

    def series(self, name: str, subject: str, since: float, until: float) -> Series:
        """The means of the minutes that begin in this span; no entry for one that is unknown."""
        with self._told():
            found = self._base.execute(
                "select id from series where name = ? and subject = ?", (name, subject)
            ).fetchone()
            if found is None:
                return []
            rows = self._base.execute(
                "select minute, substr(means, ?, 4) from minutes"
                " where minute >= ? and minute < ? order by minute",
                (4 * (found[0] - 1) + 1, math.ceil(since / MINUTE_S), math.ceil(until / MINUTE_S)),
            )
            means = [
                (minute * float(MINUTE_S), array("f", part)[0])
                for minute, part in rows
                if len(part) == array("f").itemsize
            ]
        return [(at, mean) for at, mean in means if not math.isnan(mean)]

    def names(self) -> list[Key]:
        """Name and subject of each series."""
        with self._told():
            rows = self._base.execute("select name, subject from series order by name, subject")
            return [(str(name), str(subject)) for name, subject in rows]

    def jobs(
        self, since: float, until: float, *, after: Place = FIRST, most: int = MOST_ROWS
    ) -> list[tuple[Place, str]]:
        """The jobs that waited, ran or ended then, as JSON, by the time of their submission.

        At most so many, behind that place.
        """
        with self._told():
            return [
                ((submitted_at, number), record)
                for submitted_at, number, record in self._base.execute(
                    "select submitted_at, id, record from jobs"
                    " where submitted_at < ?"
                    " and (has_ended = 0 or coalesce(ended_at, seen_at) >= ?)"
                    " and (submitted_at, id) > (?, ?) order by submitted_at, id limit ?",
                    (until, since, *after, most),
                )
            ]

    def open_jobs(self) -> list[Job]:
        """Those whose end was not seen."""
        return self._read_jobs("has_ended = 0", ())

    def find_job(self, job: str) -> Job | None:
        """The newest with this number."""
        found = self._read_jobs("id = ?", (job,))
        return found[-1] if found else None

    def events(
        self, since: float, until: float, *, after: Place = FIRST, most: int = MOST_ROWS
    ) -> list[tuple[Place, Event]]:
        """What happened then, oldest first: at most so many, behind that place."""
        with self._told():
            return [
                ((at, str(row)), Event(at=at, kind=kind, subject=subject, text=text))
                for row, at, kind, subject, text in self._base.execute(
                    "select rowid, at, kind, subject, text from events where at >= ? and at < ?"
                    " and (at, rowid) > (?, ?) order by at, rowid limit ?",
                    (since, until, after[0], int(after[1] or 0), most),
                )
            ]

    def prune(self, before: float) -> None:
        """Remove what is older, and the oldest of what is too much."""
        with self._told(), self._base:
            self._base.execute("delete from minutes where minute < ?", (before // MINUTE_S,))
            self._base.execute(
                "delete from jobs where has_ended and coalesce(ended_at, seen_at) < ?", (before,)
            )
            self._base.execute("delete from events where at < ?", (before,))
            self._base.execute(
                "delete from jobs where (id, submitted_at) in (select id, submitted_at from jobs"
                " order by seen_at desc limit -1 offset ?)",
                (MOST_ROWS,),
            )
            self._base.execute(
                "delete from events where rowid in"
                " (select rowid from events order by at desc limit -1 offset ?)",
                (MOST_ROWS,),
            )
            if self._used_bytes() > self._most_bytes:
                self._drop_oldest()
        with self._told():
            # `execute` would free a single page: it steps once through what has no rows.
            self._base.executescript("pragma incremental_vacuum")

    def _drop_oldest(self) -> None:
        for table, column in (("minutes", "minute"), ("events", "at")):
            self._base.execute(
                f"delete from {table} where {column} in (select {column} from {table}"  # noqa: S608
                f" order by {column} limit (select ceil(count(*) * ?) from {table}))",
                (PRUNED_AT_ONCE,),
            )

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._base.execute(f"pragma {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _put_minute(self, minute: int, means: Mapping[Key, float]) -> None:
        row = self._base.execute("select means from minutes where minute = ?", (minute,)).fetchone()
        values = array("f", row[0] if row else b"")
        for key, mean in means.items():
            place = self._id_of(key) - 1
            if place < MOST_SERIES:
                values.extend([NAN] * (place + 1 - len(values)))
                values[place] = mean
        self._base.execute(
            "insert or replace into minutes values (?, ?)", (minute, values.tobytes())
        )

    def _put_job(self, job: Job, seen_at: float) -> None:
        submitted_at = job.submitted_at or 0.0
        last = self._base.execute(
            "select submitted_at, has_ended from jobs where id = ? order by submitted_at desc",
            (job.id,),
        ).fetchone()
        if last and last[0] != submitted_at and (job.restarts or not last[1]):
            # SLURM gives a requeued job a new time of submission.
            self._base.execute(
                "delete from jobs where id = ? and submitted_at = ?", (job.id, last[0])
            )
        self._base.execute(
            "insert or replace into jobs values (?, ?, ?, ?, ?, ?, ?)",
            (
                job.id,
                submitted_at,
                job.started_at,
                job.ended_at,
                job.has_ended,
                seen_at,
                write_job(job).decode(),
            ),
        )

    def _read_jobs(self, where: str, values: Sequence[object]) -> list[Job]:
        with self._told():
            rows = self._base.execute(
                f"select record from jobs where {where} order by submitted_at, id",  # noqa: S608
                values,
            ).fetchall()
        return [read_job(record.encode()) for (record,) in rows]

    def _id_of(self, key: Key) -> int:
        if key not in self._ids:
            self._base.execute("insert or ignore into series (name, subject) values (?, ?)", key)
            found = self._base.execute(
                "select id from series where name = ? and subject = ?", key
            ).fetchone()
            self._ids[key] = int(found[0])
        return self._ids[key]

    def _set_up(self) -> None:
        self._base.execute("pragma auto_vacuum = incremental")
        self._base.execute("pragma journal_mode = wal").fetchone()
        self._base.execute("pragma synchronous = normal")
        version, mark = (
            int(self._base.execute(f"pragma {name}").fetchone()[0])
            for name in ("user_version", "application_id")
        )
        if version > SCHEMA:
            raise StoreError(
                f"{self._path} was written by a newer version of ai-how (its schema is {version})"
            )
        if version == 0:
            with self._base:
                self._base.execute("begin immediate")
                # Another process may have made it since.
                if int(self._base.execute("pragma user_version").fetchone()[0]) == 0:
                    for statement in _SETUP.split(";"):
                        self._base.execute(statement)
                    self._base.execute(f"pragma application_id = {MARK}")
                    self._base.execute(f"pragma user_version = {SCHEMA}")
        elif mark != MARK:
            raise _damaged(self._path, "it is a database of another program")
        elif (said := self._base.execute("pragma quick_check(1)").fetchone()[0]) != "ok":
            raise _damaged(self._path, str(said))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of SQLite become ours; what was begun is rolled back."""
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            self._ids.clear()
            raise _error_of(self._path, error) from error


def size_of(path: Path) -> int:
    """What a database takes on its disk, in bytes."""
    size = 0
    for one in (path, *_beside(path)):
        with suppress(OSError):
            size += one.stat().st_blocks * _BLOCK
    return size


def _opened(path: Path, *, is_reader: bool) -> sqlite3.Connection:
    try:
        if is_reader:
            uri = f"{path.absolute().as_uri()}?mode=rw"  # a reader of a WAL may have to write, too
            return sqlite3.connect(uri, uri=True, timeout=BUSY_S)
        # Whatever the umask: SQLite gives its other files the same mode.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
        return sqlite3.connect(path, timeout=BUSY_S, isolation_level="IMMEDIATE")
    except (OSError, sqlite3.Error) as error:
        raise _error_of(path, error) from error


def _error_of(path: Path, error: Exception) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    is_unread = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    if code in _SQLITE_DAMAGE or is_unread:
        return _damaged(path, str(error))
    said = error.strerror if isinstance(error, OSError) else str(error)
    return StoreError(f"{path.name} cannot be used: {said}")


def _damaged(path: Path, why: str) -> StoreError:
    error = StoreError(f"{path.name} is damaged: {why[:200]}")
    error.is_damaged = True
    return error


def set_aside(path: Path) -> Path:
    """Rename a database that is damaged, in the place of an earlier one. Raises StoreError."""
    kept = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(kept)
        for one in _beside(path):
            one.unlink(missing_ok=True)
    except OSError as error:
        raise _error_of(path, error) from error
    return kept


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
