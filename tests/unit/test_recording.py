"""What a collector keeps, and what it goes on with when that fails."""

import math
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.guest.serial_log import one_line
from ai_how.monitoring.answers import Answers
from ai_how.monitoring.model import Event, Finding
from ai_how.monitoring.recording import Recorder
from ai_how.monitoring.records import read_snapshot, write_snapshot
from ai_how.monitoring.store import Store
from ai_how.process import run
from made_up_cluster import NOON, make_job, make_snapshot


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


@pytest.fixture
def recorder(path):
    one = Recorder(path, keep_days=7, retry_s=0)
    yield one
    one.close()


def texts(recorder, path):
    return [(one.kind, one.text) for one in events(recorder, path)]


def events(recorder, path):
    _, waiting, _ = recorder.waiting()
    if not path.exists():
        return waiting
    with closing(Store(path, is_reader=True)) as store:
        return [event for _, event in store.events(0, math.inf)] + waiting


def with_jobs(*jobs, at=NOON):
    seen = make_snapshot(at=at)
    return replace(seen, slurm=replace(seen.slurm, jobs=jobs))


def troubled(seen, name, why="it hangs"):
    sources = [replace(one, trouble=why) if one.name == name else one for one in seen.sources]
    return replace(seen, sources=tuple(sources))


def test_a_minute_is_written_when_the_next_begins(recorder, path):
    for number in range(13):
        seen = make_snapshot(at=NOON + 5 * number)
        host = replace(seen.host, cpus_busy=float(number))
        recorder.take(replace(seen, host=host))
    with closing(Store(path, is_reader=True)) as store:
        assert store.series("cpu", "host", 0, NOON + 1e6) == [(NOON, pytest.approx(5.5))]


def test_events_are_what_changes(recorder, path):
    finding = Finding(id="x", severity="warning", subject="host", text="it is full", since=NOON)
    first = make_snapshot(at=NOON)
    off = replace(
        first,
        at=NOON + 5,
        nodes=tuple(
            replace(one, vm=replace(one.vm, state="shut_off", reason="saved"))
            if one.name == "compute-01"
            else one
            for one in first.nodes
        ),
        findings=(finding,),
    )
    for seen in (first, troubled(off, "slurm"), replace(first, at=NOON + 10)):
        recorder.take(seen)
    assert texts(recorder, path) == [
        ("gap", "it hangs"),
        ("finding", "it is full"),
        ("suspend", "compute-01 is suspended (saved)"),
        ("gap-over", "slurm answers again"),
        ("finding-over", "it is full"),
        ("resume", "compute-01 is resumed (booted)"),
    ]


def test_a_job_has_a_start_and_an_end(recorder, path):
    job = replace(make_job(5, ["compute-01"], NOON), state="pending", nodes=(), ended_at=None)
    runs = replace(job, state="running", nodes=("compute-01",), started_at=NOON + 3)
    recorder.take(with_jobs(job))
    recorder.take(with_jobs(runs, at=NOON + 5))
    recorder.take(with_jobs(runs, at=NOON + 10))
    recorder.take(with_jobs(replace(runs, state="failed", ended_at=NOON + 12), at=NOON + 15))
    seen = [(one.at, one.kind, one.subject) for one in events(recorder, path)]
    assert seen == [(NOON + 3, "job-start", "5"), (NOON + 12, "job-end", "5")]


def test_a_job_whose_end_nobody_saw_does_not_run_for_ever(path):
    runs = replace(make_job(4, ["compute-01"], NOON), state="running")
    first = Recorder(path, keep_days=7)
    first.take(with_jobs(runs))
    first.close()
    second = Recorder(path, keep_days=7)
    second.take(troubled(with_jobs(at=NOON + 900), "slurm"))
    second.take(with_jobs(at=NOON + 905))
    second.close()
    with closing(Store(path)) as store:
        assert store.open_jobs() == []
        assert '"unknown"' in store.jobs(0, math.inf)[0][1]


def test_a_job_that_ended_before_is_no_news_to_the_next_collector(path):
    ended = replace(make_job(6, ["compute-01"], NOON), state="completed", ended_at=NOON)
    for at in (NOON + 1, NOON + 100):
        one = Recorder(path, keep_days=7)
        one.take(with_jobs(ended, at=at))
        one.close()
    assert [kind for kind, _ in texts(one, path)] == ["job-start", "job-end"]


def test_the_use_of_a_job_is_kept_over_a_restart_of_the_collector(path):
    ran = replace(
        make_job(6, ["compute-01"], NOON),
        state="completed",
        ended_at=NOON,
        cpu_used_s=7.5,
        memory_peak_mib=80,
        use_seen_at=NOON - 1,
    )
    shown = replace(ran, cpu_used_s=None, memory_peak_mib=None, use_seen_at=None)
    for number, job in enumerate((ran, shown, shown)):
        one = Recorder(path, keep_days=7)
        one.take(with_jobs(job, at=NOON + 60 * number))
        one.close()
    with closing(Store(path)) as store:
        kept = store.find_job("6")
    assert (kept.cpu_used_s, kept.memory_peak_mib, kept.use_seen_at) == (7.5, 80, NOON - 1)


def test_a_job_that_ended_is_read_from_the_database_once(recorder, path):
    ended = replace(make_job(6, ["compute-01"], NOON), state="completed", ended_at=NOON)
    recorder.take(with_jobs(ended, at=NOON + 1))
    recorder.close()
    second, looked = Recorder(path, keep_days=7), []
    second.take(with_jobs(at=NOON + 50))
    found = second._store.find_job
    second._store.find_job = lambda job: looked.append(job) or found(job)
    for number in range(3):
        second.take(with_jobs(ended, at=NOON + 60 + number))
    second.close()
    assert looked == ["6"]


@pytest.mark.fault("M03", "set back by an hour, and forward by a day")
def test_a_clock_that_is_set_loses_nothing_else(recorder, path):
    ago = 20 * 86400
    recorder._settled_at = -math.inf
    recorder.take(make_snapshot(at=NOON - ago))
    recorder.take(make_snapshot(at=NOON))
    recorder.take(make_snapshot(at=NOON - 3600))
    recorder._pruned_at = -math.inf
    for number in range(20):
        recorder.take(make_snapshot(at=NOON - 3600 + 5 * number))
    answers = Answers(recorder, path)
    seen = answers._kept("cpu", "host", 0, NOON - 3600 + 60)
    assert seen[0][0] == NOON - ago
    assert ("collector", "the clock of the host was set back by 3600 s") in texts(recorder, path)
    assert all(at < NOON for at, _ in recorder.history.points("cpu", "host", 0, math.inf))


@pytest.mark.fault("S22", "names of jobs with escapes, and with halves of characters")
def test_what_a_guest_names_its_jobs_harms_no_record(recorder, path):
    name = "\x1b]0;title\x07\ud800" + "x" * 5000
    job = replace(make_job(4, ["compute-01"], NOON), state="running", name=one_line(name))
    seen = recorder.take(with_jobs(job))
    assert read_snapshot(write_snapshot(seen)) == seen
    recorder.note(Event(at=NOON, kind="heal", subject=name, text=name))
    seen = recorder.take(with_jobs(job, at=NOON + 60))
    assert seen.find_source("history").trouble is None
    assert recorder.waiting()[1] == []
    assert all(len(text) <= 200 and text.isprintable() for _, text in texts(recorder, path))


def test_what_is_old_goes_when_it_is_sure_what_time_it_is(path):
    with closing(Store(path)) as store:
        old = int(NOON // 60) - 8 * 1440
        store.write([(old, {("cpu", "host"): 1.0}), (old + 1440 * 2, {("cpu", "host"): 2.0})])
    recorder = Recorder(path, keep_days=7)
    recorder._settled_at = -math.inf
    recorder.take(make_snapshot(at=NOON))
    recorder.take(make_snapshot(at=NOON + 60))
    recorder.close()
    with closing(Store(path)) as store:
        assert [value for _, value in store.series("cpu", "host", 0, NOON)] == [2.0]


@pytest.mark.fault("M02", "damaged while it is in use")
def test_a_damaged_database_is_set_aside_and_a_new_one_begun(recorder, path):
    recorder.take(make_snapshot(at=NOON))
    recorder.take(make_snapshot(at=NOON + 60))
    recorder._store.close()
    recorder._store = None
    path.write_bytes(b"noise" * 5000)
    recorder.take(make_snapshot(at=NOON + 120))
    recorder.take(make_snapshot(at=NOON + 180))
    seen = recorder.take(make_snapshot(at=NOON + 240))
    assert seen.find_source("history").trouble is None
    assert path.with_name("history.sqlite.damaged").read_bytes() == b"noise" * 5000
    assert any("is kept as history.sqlite.damaged" in text for _, text in texts(recorder, path))


@pytest.mark.fault("M02", "written by a newer version")
def test_with_a_newer_database_it_goes_on_in_memory(path):
    with closing(sqlite3.connect(path)) as base:
        base.execute("pragma user_version = 7")
    recorder = Recorder(path, keep_days=7)
    seen = recorder.take(make_snapshot())
    recorder.close()
    assert "newer version" in seen.find_source("history").trouble
    assert recorder.history.points("cpu", "host", 0, math.inf) == [(NOON, 6.5)]
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("pragma user_version").fetchone() == (7,)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place])
    yield place
    run(["umount", place])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.fault("M02", "on a disk that is full, at once and later")
@pytest.mark.parametrize("is_full_at_once", [True, False])
def test_with_a_full_disk_it_goes_on_in_memory_and_writes_later(small_disk, is_full_at_once):
    path, ballast = small_disk / "history.sqlite", small_disk / "ballast"
    recorder = Recorder(path, keep_days=7, retry_s=0)
    if not is_full_at_once:
        recorder.take(make_snapshot(at=NOON))
    fill(ballast)
    number = 1
    while not (seen := recorder.take(make_snapshot(at=NOON + 60 * number))).sources[-1].trouble:
        number += 1
        assert number < 2000
    assert seen.find_source("history").trouble.endswith("is full") or is_full_at_once
    job = replace(make_job(4, ["compute-01"], NOON), state="running")
    recorder.take(with_jobs(job, at=NOON + 60 * (number + 1)))
    answers = Answers(recorder, path)
    asked = {"since": 0.0, "until": NOON * 2, "name": "cpu", "subject": "host", "step_s": 60.0}
    assert b"6.5" in answers.answer({"ask": "series", **asked, "since": NOON})
    assert b'"id":"4"' in answers.answer({"ask": "jobs", **asked})
    ballast.unlink()
    seen = recorder.take(make_snapshot(at=NOON + 60 * (number + 2)))
    assert seen.find_source("history").trouble is None
    recorder.close()
    with closing(Store(path)) as store:
        kept = [at for at, _ in store.series("cpu", "host", 0, NOON * 2)]
        assert [job for _, job in store.jobs(0, math.inf)]
    first = NOON + (60 if is_full_at_once else 0)
    assert kept == [first + 60 * one for one in range(len(kept))]
    assert len(kept) >= number + 1


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
