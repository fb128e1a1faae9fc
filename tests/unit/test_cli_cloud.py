"""The verbs of cloud are those of hpc, with its own words, clusters and hints."""

import json
import re
from functools import partial

import pytest
import typer
from cli_runner import GOOD, Cli
from cloud_world import KUBE, have_cloud, remember_kube
from test_cli_hpc import NODE_VERBS, remember

from ai_how.cli.app import app
from ai_how.cli.arguments import read_command_line
from ai_how.cli.cluster_verbs import _show_stop
from ai_how.cli.kinds import CLOUD, HPC
from ai_how.console.commands import Call, called_as, completed

SHARED = (
    *("start", "stop", "status", "destroy", "recover", "list", "ssh", "exec", "console"),
    *("ssh-config", "logs", "cp", "rsync", "forward", "why"),
)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    have_cloud(monkeypatch)
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("verb", SHARED)
def test_the_help_of_a_verb_has_the_words_of_its_kind(cli, verb):
    ended = cli("cloud", verb, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: ai-how cloud {verb}")
    for word in ("SLURM", "slurm", "hpc", "squeue", "controller"):
        assert word not in ended.out, word
    for group in ("hpc", "cloud"):
        assert not re.search(r"\{[a-z_]+\}", cli(group, verb, "--help").out)


def test_the_verbs_of_slurm_are_not_there(cli):
    commands = typer.main.get_command(app).commands
    assert set(SHARED) <= set(commands["cloud"].commands) <= {*SHARED, "kubectl", "kubeconfig"}
    ended = cli("cloud", "run", "--", "id")
    assert (ended.code, ended.err) == (
        2,
        "error: no such command 'run'\nhint: ai-how cloud --help\n",
    )
    assert cli("cloud", "stop", "--wait").code == 2


def test_the_groups_share_no_command(cli):
    commands = typer.main.get_command(app).commands
    for verb in SHARED:
        assert commands["hpc"].commands[verb] is not commands["cloud"].commands[verb]


@pytest.mark.parametrize("verb", NODE_VERBS)
@pytest.mark.parametrize("given", ["-c kube.yaml", "--cluster kube"])
def test_a_node_is_found_in_the_cluster_of_the_file_or_of_the_name(cli, verb, given):
    remember_kube(cli)
    cli.write("kube.yaml", KUBE)
    word, *rest = verb.format("compute-77").split()
    ended = cli("cloud", word, *given.split(), *rest)
    assert ended.code == 2
    assert ended.err == (
        "error: cluster kube has no node compute-77\n"
        "  it has: control-plane-01, worker-01, worker-02\n"
    )


@pytest.mark.parametrize("verb", ["exec {} -- true", "console {}"])
def test_hints_have_the_group_of_the_kind(cli, verb):
    remember_kube(cli)
    word, *rest = verb.format("worker-01").split()
    ended = cli("cloud", word, "--cluster", "kube", *rest)
    hint = "ai-how cloud start --cluster kube worker-01"
    assert (ended.code, ended.err) == (3, f"error: worker-01 has no VM\nhint: {hint}\n")


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("exec control-plane-01", "no command was given", "exec --help"),
        ("logs --serial -u kubelet", "a serial console has no times, units and boots", "logs"),
        ("cp a", "SRC... DST was expected", "cp --help"),
        ("rsync", "[OPTION]... SRC... DST was expected", "rsync --help"),
        ("forward", "missing argument", "forward --help"),
        ("why a b", "one node at a time", "why --help"),
        ("stop --suspend worker-01 --cluster kube", "Kubernetes would miss single", "stop"),
        ("destroy --cluster kube", "destroy asks before it removes", "destroy --force"),
    ],
)
def test_what_is_missing_or_too_much_is_said(cli, line, said, hint):
    ended = cli("cloud", *line.split())
    assert ended.code == 2
    assert said.lower() in ended.err.lower()
    assert f"hint: ai-how cloud {hint}" in ended.err


def test_a_verb_of_the_other_kind_says_which_one_to_use(cli):
    remember_kube(cli)
    remember(cli, "demo")
    for verb in ("status", "stop", "ssh", "ssh-config", "logs", "why"):
        for group, other, name in (("hpc", "cloud", "kube"), ("cloud", "hpc", "demo")):
            ended = cli(group, verb, "--cluster", name)
            assert ended.code == 3
            assert ended.err == (
                f"error: {name} is a cluster of the kind {other}, not {group}\n"
                "  Each kind has commands of its own; a new cluster needs another name.\n"
                f"hint: ai-how {other} status --cluster {name}\n"
            )


def test_a_name_that_no_cluster_has_is_told_with_those_that_there_are(cli):
    remember(cli, "demo")
    said = "error: there is no cluster nope\n  clusters of this user: {}\nhint: ai-how {}\n"
    ended = cli("cloud", "status", "--cluster", "nope")
    assert ended.err == said.format("demo", "hpc status --cluster demo")
    remember_kube(cli)
    ended = cli("cloud", "status", "--cluster", "nope")
    assert ended.err == said.format("demo, kube", "cloud status --cluster kube")


def test_a_file_without_a_cluster_of_the_kind_is_refused(cli):
    cli.write("cluster.yaml", KUBE)
    assert "the file has no clusters.hpc" in cli("hpc", "status").err
    cli.write("cluster.yaml", GOOD)
    assert "the file has no clusters.cloud" in cli("cloud", "status").err


def test_a_list_has_the_clusters_of_its_kind(cli):
    remember_kube(cli)
    remember(cli, "demo")
    for group, name in (("hpc", "demo"), ("cloud", "kube")):
        [one] = json.loads(cli(group, "list", "--json").out)
        assert (one["name"], one["kind"]) == (name, group)
        assert name in cli(group, "list").out
    assert cli("cloud", "list", "--state-dir", "empty").out == (
        "there are no clusters; to start one: ai-how --state-dir empty cloud start\n"
    )


def test_status_has_the_name_of_the_software_in_its_keys(cli):
    remember_kube(cli)
    told = json.loads(cli("cloud", "status", "--cluster", "kube", "--json").out)
    keys = {*told, *told["nodes"][0]}
    assert {"kubernetes", "kubernetes_reason", "kubernetes_version", "kubernetes_trouble"} <= keys
    assert not [key for key in keys if "slurm" in key]
    assert [one["name"] for one in told["nodes"]] == ["control-plane-01", "worker-01", "worker-02"]
    shown = cli("cloud", "status", "--cluster", "kube").out
    assert "Kubernetes" in shown
    assert "SLURM" not in shown


def test_stop_of_what_is_off_has_nothing_to_do(cli):
    remember_kube(cli)
    ended = cli("cloud", "stop", "--cluster", "kube")
    assert (ended.code, ended.out) == (0, "kube is off: nothing to do\n")


def test_a_stop_ends_with_the_way_back(capsys):
    show = partial(_show_stop, "kube", is_new=True)
    show([], CLOUD, suspends=False)
    show(["a"], CLOUD, suspends=False)
    show([], CLOUD, suspends=True)
    assert capsys.readouterr().out == (
        "kube is off; to start it again: ai-how cloud start\n"
        "a is off; to start it again: ai-how cloud start a\n"
        "kube is suspended; to resume it: ai-how cloud start\n"
    )


def test_destroy_forgets_the_cluster(cli):
    paths = remember_kube(cli)
    ended = cli("cloud", "destroy", "--force", "--cluster", "kube")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("kube is destroyed\n")
    assert not paths.root.exists()


def test_ssh_without_a_node_goes_to_the_control_plane(cli, monkeypatch):
    remember_kube(cli)
    ran: list[list[str]] = []
    monkeypatch.setattr("ai_how.process.become", ran.append)
    assert cli("cloud", "ssh", "--cluster", "kube").code == 0
    assert cli("cloud", "ssh", "--cluster", "kube", "--", "uptime", "-p").code == 0
    assert ["kube-control-plane-01" in map(str, argv) for argv in ran] == [True, True]
    assert "uptime -p" in " ".join(map(str, ran[1]))


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("cloud ssh -t worker-01 top -v", "cloud ssh --pass=-t -- worker-01 top -v"),
        ("cloud exec worker-01 -- ls --json", "cloud exec -- worker-01 -- ls --json"),
        ("cloud exec --json worker-01 ls", "--json cloud exec -- worker-01 ls"),
        ("cloud rsync -av a worker-01:b", "cloud rsync -- -av a worker-01:b"),
    ],
)
def test_the_words_of_a_command_are_its_own(given, read):
    assert read_command_line(given.split()).words == tuple(read.split())


def test_printed_commands_are_completed():
    with called_as(Call("ai-how", cluster="kube", state_dir=None, connect="embedded")):
        assert completed("ai-how cloud start") == (
            "ai-how --connect embedded cloud start --cluster kube"
        )
        assert completed("ai-how cloud list") == "ai-how --connect embedded cloud list"


def test_words_that_are_no_words_of_a_kind_stay():
    assert HPC.fill("{kind} {x} ${y} {}") == "hpc {x} ${y} {}"
    assert HPC.fill(None) is None
