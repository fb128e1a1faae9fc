"""What was seen for days, in SQLite."""

import math
import os
import signal
import sqlite3
import stat
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.monitoring.model import Event
from ai_how.monitoring.records import read_job
from ai_how.monitoring.store import MINUTE_S, Store, StoreError, set_aside
from ai_how.process import start_daemon
from ai_how.waiting import Deadline, wait_until
from made_up_cluster import NOON, make_job

CPU = ("cpu", "compute-01")
MINUTE = int(NOON // MINUTE_S)
WRITER = """
import sys
from pathlib import Path
from ai_how.monitoring.store import Store
store, number = Store(Path(sys.argv[1])), 0
while True:
    store.write([(number, {("cpu", f"node-{n}"): 1.0 for n in range(300)})])
    number += 1
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


@pytest.fixture
def store(path):
    with closing(Store(path)) as one:
        yield one


def jobs_of(store, since=0.0, until=math.inf, **more):
    return [read_job(record.encode()) for _, record in store.jobs(since, until, **more)]


def events_of(store, **more):
    return [event for _, event in store.events(0, math.inf, **more)]


def job(number=5, **more):
    return replace(make_job(number, ["compute-01"], NOON), **more)


def event(text="it happened", at=NOON):
    return Event(at=at, kind="heal", subject="compute-01", text=text)


def test_the_means_of_minutes_are_read_again(store, path):
    store.write([(MINUTE, {CPU: 1.5, ("load", "b"): 3.0}), (MINUTE + 2, {CPU: 2.5})])
    with closing(Store(path, is_reader=True)) as reader:
        seen = reader.series(*CPU, NOON - 60, NOON + 600)
        assert seen == [(MINUTE * 60.0, 1.5), ((MINUTE + 2) * 60.0, 2.5)]
        assert reader.series("load", "b", NOON - 60, NOON + 600) == [(MINUTE * 60.0, 3.0)]
        assert reader.series("load", "c", 0, NOON + 600) == []
        assert reader.names() == [CPU, ("load", "b")]


def test_a_minute_that_goes_on_in_another_process_keeps_what_it_had(path):
    for means in ({CPU: 1.0, ("load", "b"): 2.0}, {CPU: 5.0}):
        with closing(Store(path)) as store:
            store.write([(MINUTE, means)])
    with closing(Store(path)) as store:
        assert store.series(*CPU, 0, NOON + 600) == [(MINUTE * 60.0, 5.0)]
        assert store.series("load", "b", 0, NOON + 600) == [(MINUTE * 60.0, 2.0)]


def test_its_files_are_private_whatever_the_umask(path):
    before = os.umask(0)
    try:
        with closing(Store(path)) as store:
            store.write([(MINUTE, {CPU: 1.0})])
            files = list(path.parent.iterdir())
            assert len(files) == 3
            assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    finally:
        os.umask(before)


def test_a_job_is_one_through_its_life(store):
    store.write(jobs=[job(6, state="pending")], seen_at=NOON)
    store.write(jobs=[job(6, state="completed", ended_at=NOON + 9)], seen_at=NOON + 9)
    assert [one.state for one in jobs_of(store)] == ["completed"]
    assert store.open_jobs() == []


def test_a_requeued_job_stays_one_and_a_number_that_is_used_again_is_another(store):
    first = job(5, state="running", submitted_at=NOON)
    store.write(jobs=[first], seen_at=NOON)
    requeued = replace(first, state="pending", submitted_at=NOON + 60, restarts=1)
    store.write(jobs=[requeued], seen_at=NOON + 60)
    assert jobs_of(store) == [requeued]
    ended = replace(requeued, state="completed", ended_at=NOON + 90)
    store.write(jobs=[ended, replace(first, submitted_at=NOON + 900)], seen_at=NOON + 900)
    assert [one.submitted_at for one in jobs_of(store)] == [NOON + 60, NOON + 900]


def test_jobs_of_a_span_are_those_that_were_there_then(store):
    ended = job(6, state="completed", submitted_at=NOON, ended_at=NOON + 100)
    store.write(jobs=[ended, job(5, state="running", submitted_at=NOON + 200)], seen_at=NOON)
    assert [one.id for one in jobs_of(store, NOON + 50, NOON + 60)] == ["6"]
    assert [one.id for one in jobs_of(store, NOON + 101, NOON + 1e6)] == ["5"]
    assert jobs_of(store, 0, NOON) == []


def test_jobs_and_events_come_in_pages(store):
    jobs = [job(number, state="running", submitted_at=NOON + number // 3) for number in range(10)]
    store.write((), [event(str(number), NOON + number // 3) for number in range(10)], jobs)
    for ask in (store.jobs, store.events):
        seen, after = [], {}
        while rows := ask(0, math.inf, most=3, **after):
            assert len(rows) <= 3
            seen += rows
            after = {"after": rows[-1][0]}
        assert seen == ask(0, math.inf)
        assert len(seen) == 10


def test_what_is_older_than_it_is_kept_for_is_removed(store):
    old, new = NOON - 8 * 86400, NOON - 86400
    ended = job(6, state="completed", submitted_at=old, ended_at=old)
    store.write(
        [(int(old // 60), {CPU: 1.0}), (int(new // 60), {CPU: 2.0})],
        [event("old", old), event("new", new)],
        [ended, job(5, state="running", submitted_at=old)],
        seen_at=old,
    )
    store.prune(NOON - 7 * 86400)
    assert [value for _, value in store.series(*CPU, 0, NOON)] == [2.0]
    assert [one.text for one in events_of(store)] == ["new"]
    assert [one.id for one in jobs_of(store)] == ["5"]


def test_the_oldest_goes_if_it_is_too_much(path):
    with closing(Store(path, most_bytes=200_000)) as store:
        means = {("cpu", f"node-{number}"): 1.0 for number in range(500)}
        for number in range(200):
            store.write([(MINUTE + number, means)])
        for _ in range(20):
            store.prune(0)
        seen = store.series("cpu", "node-1", 0, NOON + 1e6)
        assert 0 < len(seen) < 120
        assert seen[-1][0] == (MINUTE + 199) * 60
    assert path.stat().st_size < 220_000


@pytest.mark.fault("M02", "of a newer version, and of another program")
def test_a_database_that_is_not_ours_is_left_alone(path):
    with closing(sqlite3.connect(path)) as base:
        base.execute("create table diary (day)")
        base.execute("pragma user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer version of ai-how \(its schema is 99\)"):
        Store(path)
    assert path.read_bytes()[100:] == before[100:]


@pytest.mark.fault("M02", "overwritten, cut short, or no database at all")
@pytest.mark.parametrize("harm", ["noise", "head", "cut"])
def test_a_damaged_database_is_known_as_one(path, harm):
    with closing(Store(path)) as store:
        for number in range(50):
            store.write([(number, {("cpu", f"n{one}"): 1.0 for one in range(200)})])
    whole = bytearray(path.read_bytes())
    if harm == "noise":
        whole[4096:12288] = os.urandom(8192)
    elif harm == "head":
        whole[:100] = b"x" * 100
    else:
        del whole[len(whole) // 2 :]
    path.write_bytes(whole)
    with pytest.raises(StoreError, match="damaged") as caught:
        Store(path)
    assert caught.value.is_damaged
    kept = set_aside(path)
    assert kept.read_bytes()[4096:] == whole[4096:]
    with closing(Store(path)) as store:
        assert store.names() == []


@pytest.mark.fault("M02", "killed while it is written")
def test_a_killed_writer_leaves_whole_minutes(path):
    for _ in range(4):
        child = start_daemon([sys.executable, "-c", WRITER, path], log=path.with_suffix(".log"))
        try:
            wait_until(lambda: _minutes(path) > 3, Deadline.after(60), "minutes", interval_s=0.01)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        with closing(Store(path)) as store:
            counts = {len(store.series("cpu", f"node-{n}", 0, 1e9)) for n in (0, 150, 299)}
            assert len(counts) == 1
            store.prune(1e9)


def _minutes(path: Path) -> int:
    try:
        with closing(Store(path, is_reader=True)) as store:
            return len(store.series("cpu", "node-0", 0, 1e9))
    except StoreError:
        return 0


def test_nothing_is_written_of_what_fails_half_way(store):
    broken = replace(job(5), id=None)
    with pytest.raises(StoreError):
        store.write([(MINUTE, {CPU: 1.0})], [event()], [broken])
    assert store.series(*CPU, 0, NOON + 600) == []
    assert events_of(store) == []
    store.write([(MINUTE, {CPU: 1.0})])
    assert store.series(*CPU, 0, NOON + 600) != []
