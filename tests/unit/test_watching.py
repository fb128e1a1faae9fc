"""What a start and a stop do about the process that watches the cluster."""

import os
import signal
import time
from dataclasses import dataclass

import pytest

from ai_how.clusters.collecting import find_collector, read_end
from ai_how.clusters.watching import unwatch, watch_from_start
from ai_how.hpc.kind import SlurmCluster
from ai_how.hpc.manager import HpcManager
from ai_how.monitoring.status import ask_status
from ai_how.spec.models import MonitoringSpec
from made_up_collector import NAME, MadeUp


@dataclass
class Started:
    """A cluster that was just started, and what was warned of."""

    made_up: MadeUp
    warned: list[str]

    def watch(self, *, enabled, collector=SlurmCluster.collector, is_begun=True, keep_days=7):
        kind = SlurmCluster()
        kind.collector = collector
        watch_from_start(
            HpcManager(kind=kind, roots=self.made_up.roots, name=NAME),
            MonitoringSpec(enabled=enabled, keep_days=keep_days),
            is_begun=is_begun,
            warn=self.warned.append,
        )

    @property
    def status(self):
        paths = self.made_up.paths
        return ask_status(paths, find_collector(paths))


@pytest.fixture
def started(tmp_path):
    made_up = MadeUp(tmp_path / "state")
    yield Started(made_up, [])
    made_up.end()


def kinds_of(started):
    live = started.made_up.live()
    try:
        return [one.kind for one in live.events(0, time.time() + 60) if one.subject == NAME]
    finally:
        live.close()


def test_a_cluster_is_watched_from_its_start_to_its_stop_if_its_file_says_so(started):
    started.watch(enabled=True, keep_days=30)
    seen = started.status
    assert (seen["stays"], seen["keep_days"]) == (True, 30)
    assert kinds_of(started) == ["start"]
    started.watch(enabled=True, is_begun=False)
    assert started.status["pid"] == seen["pid"]
    assert started.status["keep_days"] == 7
    unwatch(started.made_up.paths, "suspend", started.warned.append)
    assert started.status["pid"] is None
    started.watch(enabled=True)
    assert kinds_of(started) == ["start", "suspend", "start"]
    assert started.warned == []


def test_without_a_word_in_the_file_nobody_watches_but_who_looks_may_again(started):
    paths = started.made_up.paths
    unwatch(paths, "stop", started.warned.append)
    assert read_end(paths) == "", "nobody has ever watched it"
    started.watch(enabled=True)
    unwatch(paths, "stop", started.warned.append)
    assert read_end(paths) == "stop"
    started.watch(enabled=False)
    assert find_collector(paths) is None
    assert read_end(paths) == ""


def test_a_file_that_no_longer_says_so_leaves_it_only_while_somebody_looks(started):
    started.watch(enabled=True)
    started.watch(enabled=False)
    assert started.status["stays"] is False


def test_a_collector_that_fails_is_a_warning(started):
    started.watch(enabled=True, collector="ai_how.no_such_module")
    (warning,) = started.warned
    assert warning.startswith("made-up is up, but it is not watched: ")


def test_a_kind_that_is_not_watched_has_no_collector(started):
    started.watch(enabled=True, collector="")
    assert started.warned == []
    assert find_collector(started.made_up.paths) is None


@pytest.mark.fault("M01", "stopped by a signal while the cluster is stopped")
def test_a_collector_that_hangs_is_killed_by_a_stop(started, monkeypatch):
    monkeypatch.setattr("ai_how.clusters.collecting.END_S", 0.5)
    started.watch(enabled=True)
    os.kill(started.status["pid"], signal.SIGSTOP)
    unwatch(started.made_up.paths, "stop", started.warned.append)
    assert find_collector(started.made_up.paths) is None
    assert started.warned == []
