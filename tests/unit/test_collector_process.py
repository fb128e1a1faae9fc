"""The process that watches a cluster: real ones, on a cluster that is made up."""

import json
import os
import shutil
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ai_how.clusters.collecting import (
    end_collector,
    find_collector,
    hold_place,
    start_collector,
)
from ai_how.errors import HostError
from ai_how.monitoring.live import COLLECTOR
from ai_how.waiting import Deadline, wait_until
from made_up_collector import MadeUp


@pytest.fixture
def cluster(tmp_path):
    made_up = MadeUp(tmp_path / "state")
    yield made_up
    made_up.end()


@pytest.fixture
def live(cluster):
    cluster.start()
    one = cluster.live(silent_s=0.5)
    yield one
    one.close()


def await_(ask, what="it", within_s=20):
    return wait_until(ask, Deadline.after(within_s), what, interval_s=0.02)


def is_over(pid):
    return not Path(f"/proc/{pid}").exists()


def trouble_of(seen):
    one = seen.find_source(COLLECTOR)
    return one.trouble if one else None


def test_a_collector_answers_and_ends(cluster, live):
    pid = cluster.pid
    seen = live.snapshot()
    assert seen.cluster == "made-up"
    assert seen.find_source("history").trouble is None
    status = live.status()
    assert status["pid"] == pid
    assert 0 < status["own_memory_mib"] <= status["memory_mib"]
    assert end_collector(cluster.paths)
    await_(lambda: is_over(pid))
    assert not cluster.paths.collector_socket.exists()
    assert find_collector(cluster.paths) is None
    assert not end_collector(cluster.paths)


def test_its_files_are_private_and_its_log_is_empty(cluster, live):
    live.snapshot()
    paths = cluster.paths
    for path in (paths.collector, paths.collector_socket, paths.collector_log, paths.history):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert paths.collector_log.read_text() == ""


def test_each_new_snapshot_is_followed_until_it_is_closed(live):
    times = []
    for seen in live.follow():
        if trouble_of(seen):  # the machine is busy
            continue
        times.append(seen.at)
        if len(times) == 4:
            live.close()
    assert times == sorted(set(times))
    assert len(times) == 4


def test_a_directory_with_a_long_name_has_a_collector_too(tmp_path):
    cluster = MadeUp(tmp_path / ("d" * 100) / ("e" * 100))
    try:
        cluster.start()
        live = cluster.live()
        assert live.snapshot().cluster == "made-up"
        live.close()
    finally:
        cluster.end()


@pytest.mark.fault("M01", "two started at the same time")
def test_of_two_collectors_one_remains(cluster):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: start_collector(cluster.order()), range(4)))
    pid = cluster.pid
    with pytest.raises(HostError, match=rf"is being watched already \(process {pid}\)"):
        hold_place(cluster.paths, 0.0)
    live = cluster.live()
    assert live.status()["pid"] == pid
    live.close()


@pytest.mark.fault("M01", "killed while a reader follows, and while one asks")
def test_a_killed_collector_is_started_again_under_an_open_face(cluster, live):
    first = cluster.pid
    pids = []
    for seen in live.follow():
        if not pids and trouble_of(seen) is None:
            os.kill(first, signal.SIGKILL)
            pids.append(first)
        elif pids and trouble_of(seen) is None and cluster.pid != first:
            pids.append(cluster.pid)
            break
    os.kill(pids[1], signal.SIGKILL)
    await_(lambda: is_over(pids[1]))
    assert trouble_of(live.snapshot()) is None
    assert cluster.pid not in pids


@pytest.mark.fault("M01", "stopped by a signal while a reader follows")
def test_readers_of_a_collector_that_hangs_are_told(cluster, live):
    live.snapshot()
    pid = cluster.pid
    told = live.follow()
    next(told)
    os.kill(pid, signal.SIGSTOP)
    try:
        seen = next(one for one in told if trouble_of(one))
        assert "has said nothing for" in trouble_of(seen)
        assert all(one.trouble for one in seen.sources)
        assert seen.host is not None
    finally:
        os.kill(pid, signal.SIGCONT)
    assert any(trouble_of(one) is None for one in told)


def test_a_bug_in_a_round_is_told_and_the_next_rounds_go_on(cluster, live, monkeypatch):
    live.snapshot()
    cluster.control(raises="a bug")
    await_(lambda: any(one["trouble"] for one in live.status()["sources"]))
    assert "ValueError: a bug" in cluster.paths.collector_log.read_text()
    events = live.events(0, time.time() + 60)
    assert [one.text for one in events if one.kind == "gap"] == ["ValueError: a bug"]


@pytest.mark.parametrize("why", ["stop", "suspend"])
def test_after_a_stop_no_open_face_starts_another(cluster, live, why):
    live.snapshot()
    end_collector(cluster.paths, why)
    seen = live.snapshot()
    assert trouble_of(seen).startswith("the cluster was s")
    assert find_collector(cluster.paths) is None
    start_collector(cluster.order(begun_by="start"))
    assert trouble_of(live.snapshot()) is None
    kinds = [one.kind for one in live.events(0, time.time() + 60)]
    assert [one for one in kinds if one in {why, "start"}] == [why, "start"]


def test_a_destroyed_cluster_ends_its_collector(cluster, live):
    live.snapshot()
    pid = cluster.pid
    shutil.rmtree(cluster.paths.root)
    await_(lambda: is_over(pid))
    assert not cluster.paths.root.exists()
    assert trouble_of(live.snapshot()) == "the cluster was destroyed"


def test_without_readers_it_ends_by_itself_unless_it_stays(cluster, monkeypatch):
    monkeypatch.setenv("MADE_UP_LINGER_S", "0.1")
    pid = cluster.start()
    await_(lambda: is_over(pid))
    pid = cluster.start(stays=True)
    live = cluster.live()
    assert live.status()["stays"]
    live.close()
    time.sleep(2.5)
    assert cluster.pid == pid


def test_one_that_runs_is_told_to_stay(cluster):
    pid = cluster.start()
    start_collector(cluster.order(stays=True, keep_days=30), is_setting=True)
    live = cluster.live()
    status = live.status()
    live.close()
    assert (status["pid"], status["stays"], status["keep_days"]) == (pid, True, 30)


def test_one_of_another_version_is_replaced(cluster):
    first = cluster.start()
    note = json.loads(cluster.paths.collector.read_text())
    cluster.paths.collector.write_text(json.dumps(note | {"version": "0.0.1"}))
    live = cluster.live()
    assert live.status()["version"] != "0.0.1"
    live.close()
    assert cluster.pid != first
    await_(lambda: is_over(first))


def test_one_that_cannot_begin_says_why(cluster):
    cluster.paths.state.unlink()
    with pytest.raises(HostError, match="ended") as caught:
        start_collector(cluster.order())
    assert "there is no cluster made-up" in caught.value.details


def test_its_log_is_bounded(cluster, live):
    live.snapshot()
    with cluster.paths.collector_log.open("a") as log:
        log.write("x" * (300 << 10))
    await_(lambda: cluster.paths.collector_log.stat().st_size < 1000)


def test_what_was_seen_is_there_for_the_next_collector(cluster, live):
    live.snapshot()
    asked = live.series("cpu", "host", time.time() - 60, time.time() + 60, 1)
    assert 6.5 in [value for _, value in asked]
    assert [one.id for one in live.jobs(0, time.time() + 60)]
    end_collector(cluster.paths)
    cluster.start()
    kept = live.series("cpu", "host", time.time() - 3600, time.time() - 120, 60)
    assert {value for _, value in kept} == {None}
    texts = [one.text for one in live.events(0, time.time() + 60) if one.kind == "collector"]
    assert texts == [
        "watching made-up begins",
        "watching made-up ends",
        "watching made-up begins",
    ]
