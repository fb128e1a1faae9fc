"""Which cluster and node a verb is about, the list of all clusters, and what a shell completes."""

import json
import os
import sys
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli

from ai_how.process import Completed, run
from ai_how.state.cluster_state import write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from cluster_bench import draft_of, read_hpc

DRIVER = "test:///default"
# In place of ssh(1): it prints its words after the configuration.
ECHO = '#!/bin/sh\nshift 2\nprintf "<%s>" "$@"\n'


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def remember(cli: Cli, name: str, host: str = DRIVER) -> ClusterPaths:
    """A cluster that was started, and of which nothing is there."""
    paths = cli.roots.cluster(name)
    ensure_private_directory(paths.root)
    draft = draft_of(read_hpc(name=name), storage=cli.home / "storage")
    write_state(paths, draft.state.model_copy(update={"host_uri": host}))
    return paths


def call(cli: Cli, *words: str, **env: str) -> Completed:
    """The program in a process of its own."""
    argv = [sys.executable, "-m", "ai_how", *words]
    return run(argv, check=False, env={**os.environ, **env}, cwd=cli.home, timeout_s=120)


def listed(cli: Cli) -> dict[str, dict]:
    done = cli("--json", "hpc", "list")
    assert done.code == 0
    return {one["name"]: one for one in json.loads(done.out)}


def test_no_cluster_is_listed_where_there_is_none(cli: Cli) -> None:
    assert listed(cli) == {}
    assert "there are no clusters; to start one: ai-how hpc start" in cli("hpc", "list").out


def test_all_clusters_are_listed_whatever_is_wrong_with_one(cli: Cli) -> None:
    remember(cli, "good")
    remember(cli, "elsewhere", host="test:///nowhere.xml")
    remember(cli, "damaged").state.write_text("{")
    journal = remember(cli, "cut").journal
    journal.write_text("")
    found = listed(cli)
    assert list(found) == ["cut", "damaged", "elsewhere", "good"]
    good = found["good"]
    assert (good["state"], good["nodes"], good["nodes_on"]) == ("off", 3, 0)
    assert (good["host"], good["disk_mib"], good["trouble"]) == (DRIVER, 0, None)
    assert found["cut"]["state"] == "unfinished"
    for name in ("damaged", "elsewhere"):
        assert found[name]["state"] is None
        assert found[name]["trouble"]
    table = cli("hpc", "list").out
    assert "0 of 3" in table
    assert "? of 3" in table
    assert f"damaged: {found['damaged']['trouble']}" in table


def test_a_verb_that_is_under_way_is_said(cli: Cli) -> None:
    paths = remember(cli, "good")
    with held_lock(paths.lock, doing="hpc stop"):
        assert listed(cli)["good"]["doing"] == "hpc stop"
    assert listed(cli)["good"]["doing"] is None
    # Of a run that was killed.
    paths.lock.write_text(json.dumps({"pid": 2**30, "since": "", "doing": "hpc start"}))
    assert listed(cli)["good"]["doing"] is None


def test_a_cluster_is_chosen_by_the_environment_unless_a_file_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(cli, "other")
    cli.write("cluster.yaml", GOOD)
    monkeypatch.setenv("AI_HOW_CLUSTER", "other")
    assert "cluster other has no node x" in cli("hpc", "logs", "x").err
    for words in (["start"], ["run", "--", "true"], ["provision"]):
        assert "the file of the cluster other is not stored here" in cli("hpc", *words).err
    for words in (("-c", "cluster.yaml"), ("--cluster", "demo")):
        assert "demo" in cli("hpc", "logs", *words, "x").err
    assert "demo" in cli("hpc", "logs", "./cluster.yaml", "x").err
    monkeypatch.setenv("AI_HOW_CONFIG", "cluster.yaml")
    assert "demo" in cli("hpc", "logs", "x").err
    monkeypatch.setenv("AI_HOW_CLUSTER", "")
    assert "demo" in cli("hpc", "logs", "x").err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "<--><good-controller>"),
        (("compute-01",), "<--><good-compute-01>"),
        (("--", "squeue", "--me"), "<--><good-controller><squeue --me>"),
        (("--", "/bin/ls", "-l"), "<--><good-controller></bin/ls -l>"),
        (("--", "./a.sh"), "<--><good-controller><./a.sh>"),
        (("--", "compute-01", "/bin/ls"), "<--><good-compute-01></bin/ls>"),
        (("--", "compute-01", "id", "-u"), "<--><good-compute-01><id -u>"),
        (("--", "compute-01", "--", "id"), "<--><good-compute-01><id>"),
        (("-t", "--", "top"), "<-t><--><good-controller><top>"),
    ],
)
def test_a_login_without_a_node_is_to_the_controller(
    cli: Cli, words: tuple[str, ...], shown: str
) -> None:
    remember(cli, "good")
    ssh = cli.home / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(ECHO)
    ssh.chmod(0o755)
    path = f"{ssh.parent}:{os.environ['PATH']}"
    done = call(cli, "hpc", "ssh", "--cluster", "good", *words, PATH=path)
    assert done.stdout == f"<-o><IdentityAgent=none>{shown}", done.stderr


def test_a_node_that_is_not_there_is_no_command(cli: Cli) -> None:
    remember(cli, "good")
    done = cli("hpc", "ssh", "--cluster", "good", "squeue")
    assert "cluster good has no node squeue" in done.err
    done = cli("hpc", "ssh", "--cluster", "good", "--", "squeue", "--", "--me")
    assert "cluster good has no node squeue" in done.err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ai-how h", "hpc host"),
        ("ai-how hpc st", "start stop status"),
        ("ai-how hpc ssh co", "compute-01 compute-02 controller"),
        ("ai-how hpc stop --cluster g", "good great"),
        ("ai-how hpc logs --cluster good compute-", "compute-01 compute-02"),
        ("ai-how hpc logs --cluster good controller compute-01 compute-", "compute-01 compute-02"),
        ("ai-how hpc logs --cluster unknown c", ""),
        ("ai-how image show x", ""),
    ],
)
def test_a_shell_completes_verbs_and_names(cli: Cli, line: str, offered: str) -> None:
    for name in ("good", "great"):
        remember(cli, name)
    remember(cli, "damaged").state.write_text("{")
    words = {"_AI_HOW_COMPLETE": "complete_bash", "COMP_WORDS": line}
    # As the script does that Typer installs: by the program's own name.
    done = call(cli, **words, COMP_CWORD=str(len(line.split()) - 1))
    assert done.stdout.split() == offered.split(), done.stderr
    assert done.stderr == ""
