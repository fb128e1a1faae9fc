"""`hpc monitor`: a real collector, of a cluster that is only remembered."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli
from test_docs_json import assert_documented
from test_state_models import cluster_state

from ai_how.clusters.collecting import end_collector, find_collector
from ai_how.clusters.watching import settings_of
from ai_how.errors import AiHowError
from ai_how.hpc.kind import SLURM
from ai_how.monitoring import status
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import ensure_private_directory
from ai_how.waiting import Deadline, wait_until


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    one = Cli(tmp_path, monkeypatch, capsys)
    paths = one.roots.cluster("demo")
    ensure_private_directory(paths.root)
    state = cluster_state().model_copy(update={"name": "demo", "host_uri": "test:///default"})
    write_state(paths, state)
    (tmp_path / "cluster.yaml").write_text(GOOD)
    yield one
    with suppress(AiHowError):
        end_collector(paths)


def asked(cli, *words):
    done = cli("--json", "hpc", "monitor", *words)
    assert done.code == 0, (done.out, done.err)
    return json.loads(done.out)


def test_start_status_and_stop_tell_the_same_of_one_process(cli, monkeypatch):
    paths = cli.roots.cluster("demo")
    before = asked(cli, "status")
    assert before["pid"] is None
    begun = asked(cli, "start")
    assert begun["stays"]
    pid = begun["pid"]
    wait_until(
        lambda: asked(cli, "status")["newest_age_s"] is not None, Deadline.after(30), "a snapshot"
    )
    running = asked(cli, "status")
    assert running["pid"] == pid
    assert {"cluster", "host", "libvirt"} <= {one["name"] for one in running["sources"]}
    shown = cli("hpc", "monitor", "status").out
    assert shown.startswith(f"demo is watched by process {pid} since ")
    assert "until the cluster is stopped" in shown
    monkeypatch.setattr(status, "PATIENCE_S", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        hung = asked(cli, "status")
        warned = cli("hpc", "monitor", "status").err
    finally:
        os.kill(pid, signal.SIGCONT)
    assert hung["trouble"] == "the collector does not answer within 0.2 s"
    assert hung["trouble"] in warned
    ended = asked(cli, "stop")
    assert ended["pid"] is None
    assert ended["history_bytes"] > 0
    assert find_collector(paths) is None
    assert not Path(f"/proc/{pid}/cwd").exists()
    assert_documented(
        "`hpc monitor start`, `stop` and `status`", before, begun, running, hung, ended
    )
    assert cli("hpc", "monitor", "stop").out == "demo was not watched\n"
    assert cli("hpc", "monitor", "status").out.startswith("demo is not watched; kept of it: ")


@pytest.mark.parametrize("verb", ["start", "stop", "status"])
def test_a_cluster_that_is_not_there_is_refused(cli, verb):
    done = cli("hpc", "monitor", verb, "--cluster", "other")
    assert done.code == 3
    assert "other" in done.err


def test_how_long_it_is_kept_is_that_of_the_last_start(cli):
    paths = cli.roots.cluster("demo")
    assert settings_of(SLURM, paths).keep_days == 7
    paths.spec.write_text(GOOD + "    monitoring: {enabled: true, keep_days: 30}\n")
    kept = settings_of(SLURM, paths)
    assert (kept.enabled, kept.keep_days) == (True, 30)
    paths.spec.write_text("nonsense: [")
    assert settings_of(SLURM, paths).keep_days == 7
