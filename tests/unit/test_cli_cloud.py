"""The verbs of cloud are those of hpc, with its own words, clusters and hints."""

import json
import re
from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest
import typer
from cli_runner import GOOD, Cli
from cloud_world import KUBE, remember_kube
from test_cli_hpc import NODE_VERBS, remember
from test_docs_json import assert_whole, documented
from test_seen import seen
from test_which_cluster import call

from ai_how.cli.app import app
from ai_how.cli.arguments import read_command_line
from ai_how.cli.cluster_verbs import _show_stop
from ai_how.cli.kinds import CLOUD, HPC
from ai_how.cloud.kind import KUBERNETES
from ai_how.console.commands import Call, called_as, completed
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.state.cluster_state import read_state, write_state
from cloud_bench import image_of

SHARED = (
    *("start", "stop", "status", "destroy", "recover", "list", "ssh", "exec", "console"),
    *("ssh-config", "logs", "cp", "rsync", "forward", "why"),
)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
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


def test_the_version_of_a_cluster_is_that_of_its_software():
    image = image_of("1.20.2").manifest
    assert (KUBERNETES.version_in(image), SLURM.version_in(image)) == ("1.20.2", None)
    image = image.model_copy(update={"slurm_version": "24.11.5", "kubernetes_version": None})
    assert (KUBERNETES.version_in(image), SLURM.version_in(image)) == (None, "24.11.5")


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


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, list[str]]]:
    """The commands that were run in nodes, which are all on but one."""
    commands: list[tuple[str, list[str]]] = []
    on = replace(seen("<domain/>"), state=VmState.RUNNING)

    def run(agent, argv, *, timeout_s, shown, is_json):
        commands.append((agent.name, list(argv)))
        return 7

    monkeypatch.setattr(LibvirtClient, "find_domain", lambda client, uuid: on)
    monkeypatch.setattr("ai_how.cli.exec_program.execute", run)
    return commands


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("-- get pods -A", "get pods -A"),
        ("get pods -o json --json", "get pods -o json --json"),
        ("exec web -- ls -c /", "exec web -- ls -c /"),
        ("--cluster kube -- --help", "--help"),
        ("-v=8 version", "-v=8 version"),
    ],
)
def test_kubectl_gets_all_its_words_and_its_code_is_ours(cli, ran, given, passed):
    remember_kube(cli)
    cli.write("cluster.yaml", KUBE)
    assert cli("cloud", "kubectl", *given.split()).code == 7
    [(node, argv)] = ran
    assert node == "control-plane-01"
    at = argv.index("kubectl")
    assert "KUBECONFIG=/etc/kubernetes/admin.conf" in argv[:at]
    assert any(one.startswith("PATH=/usr/lib/kubernetes/bin:") for one in argv[:at])
    assert argv[at + 1 :] == passed.split()


def test_kubectl_takes_the_first_control_plane_that_is_on(cli, ran, monkeypatch):
    paths = remember_kube(cli)
    state = read_state(paths)
    first = state.nodes[0]
    second = first.model_copy(
        update={"name": "control-plane-02", "uuid": UUID(int=2), "domain_name": "kube-2"}
    )
    write_state(paths, state.model_copy(update={"nodes": (first, second, *state.nodes[1:])}))
    on = replace(seen("<domain/>"), state=VmState.RUNNING)
    monkeypatch.setattr(LibvirtClient, "find_domain", lambda c, uuid: on if uuid.int == 2 else None)
    assert cli("cloud", "kubectl", "--cluster", "kube", "get", "nodes").code == 7
    assert [node for node, _ in ran] == ["control-plane-02"]
    monkeypatch.setattr(LibvirtClient, "find_domain", lambda client, uuid: None)
    ended = cli("cloud", "kubectl", "--cluster", "kube", "get", "nodes")
    hint = "ai-how cloud start --cluster kube control-plane-01"
    assert (ended.code, ended.err) == (3, f"error: control-plane-01 has no VM\nhint: {hint}\n")


def test_kubectl_without_words_says_what_is_missing(cli):
    for words in ((), ("--",)):
        ended = cli("cloud", "kubectl", *words)
        assert ended.code == 2
        assert ended.err.endswith("hint: ai-how cloud kubectl -- --help\n")


BOTH = KUBE + GOOD.partition("clusters:\n")[2]


def test_status_shows_each_cluster_of_the_file(cli):
    cli.write("cluster.yaml", BOTH)
    remember_kube(cli)
    remember(cli, "demo")
    told = json.loads(cli("status", "--json").out)["clusters"]
    assert [(one["kind"], one["name"]) for one in told] == [("hpc", "demo"), ("cloud", "kube")]
    assert [one["error"] for one in told] == [None, None]
    assert "slurm_version" in told[0]["status"]
    assert "kubernetes_version" in told[1]["status"]
    assert_whole({"clusters": told}, "", documented("`status`"))
    shown = cli("status")
    assert shown.code == 0
    assert [line.split(":")[0] for line in shown.out.splitlines() if "ready" in line] == [
        "demo",
        "kube",
    ]


def test_a_cluster_that_is_not_there_hides_no_other(cli):
    cli.write("cluster.yaml", BOTH)
    remember_kube(cli)
    ended = cli("status", "--json")
    assert ended.code == 3
    demo, kube = json.loads(ended.out)["clusters"]
    assert (demo["status"], kube["error"]) == (None, None)
    assert demo["error"]["brief"] == "there is no cluster demo"
    assert_whole({"clusters": [demo, kube]}, "", documented("`status`"))
    ended = cli("status")
    assert ended.code == 3
    assert "error: there is no cluster demo" in ended.err
    assert "kube: not ready" in ended.out


def test_status_of_a_name_finds_its_kind(cli, monkeypatch):
    remember_kube(cli)
    remember(cli, "demo")
    for name, kind in (("kube", "cloud"), ("demo", "hpc")):
        [one] = json.loads(cli("status", "--cluster", name, "--json").out)["clusters"]
        assert (one["kind"], one["name"]) == (kind, name)
    monkeypatch.setenv("AI_HOW_CLUSTER", "kube")
    assert "kube: not ready" in cli("status").out


def test_a_list_of_all_has_the_kinds(cli):
    remember_kube(cli)
    remember(cli, "demo")
    told = json.loads(cli("list", "--json").out)
    assert [(one["name"], one["kind"]) for one in told] == [("demo", "hpc"), ("kube", "cloud")]
    head, *rows = cli("list").out.splitlines()
    assert head.split()[:2] == ["cluster", "kind"]
    assert [row.split()[:2] for row in rows] == [["demo", "hpc"], ["kube", "cloud"]]
    assert "kind" not in cli("hpc", "list").out.split()
    assert "to start one: ai-how " in cli("list", "--state-dir", "empty").out


def test_validate_counts_each_cluster_of_the_file(cli):
    cli.write("cluster.yaml", BOTH)
    ended = cli("validate", "--offline")
    assert ended.code == 0
    assert ended.out.splitlines()[-2:] == [
        "demo: 3 nodes, 3 vCPUs, 3072 MiB memory, 30 GiB disk at most",
        "kube: 3 nodes, 4 vCPUs, 4096 MiB memory, 30 GiB disk at most",
    ]
    told = json.loads(cli("validate", "--json", "--connect", "test:///default").out)
    assert list(told["estimates"]) == ["demo", "kube"]
    assert told["estimate"] == told["estimates"]["demo"]
    assert told["estimates"]["kube"]["needs"]["vcpus"] == 4
    shown = cli("validate", "--connect", "test:///default").out
    assert shown.count("this host can run") == 2


def test_a_file_with_a_kubernetes_cluster_alone_has_the_verbs_of_its_images(cli):
    cli.write("cluster.yaml", KUBE)
    told = json.loads(cli("validate", "--json", "--connect", "test:///default").out)
    assert list(told["estimates"]) == ["kube"]
    for words in (("image", "warm"), ("cache", "key"), ("cache", "export", "new.cache")):
        ended = cli("--connect", "test:///default", *words)
        assert "clusters.hpc" not in ended.err
        assert "bug" not in ended.err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ai-how cloud ku", "kubectl kubeconfig"),
        ("ai-how cloud stop --cluster k", "kube"),
        ("ai-how hpc stop --cluster k", ""),
        ("ai-how status --cluster k", "kube"),
        ("ai-how cloud ssh co", "control-plane-01"),
        ("ai-how hpc ssh co", "compute-01 compute-02 controller"),
        ("ai-how cloud logs --cluster kube w", "worker-01 worker-02"),
    ],
)
def test_a_shell_completes_the_names_of_its_kind(cli, line, offered):
    remember_kube(cli)
    remember(cli, "demo")
    words = {"_AI_HOW_COMPLETE": "complete_bash", "COMP_WORDS": line}
    done = call(cli, **words, COMP_CWORD=str(len(line.split()) - 1))
    assert done.stdout.split() == offered.split(), done.stderr
    assert done.stderr == ""
