"""The verbs of hpc refuse with words, an exit code and what to do; on libvirt's test driver."""

import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli
from test_seen import seen

from ai_how.cli.cluster import split_words
from ai_how.cli.cluster_verbs import _show_stop
from ai_how.cli.kinds import HPC
from ai_how.errors import GuestError
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.state.cluster_state import write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from ai_how.vm_management.xml.render import render_domain
from cluster_bench import draft_of, make_image, read_hpc
from shapes import COMPUTE

TEST_HOST = f"test://{Path(__file__).resolve().parents[1] / 'driver' / 'test_node.xml'}"
WITH_IMAGE = GOOD.replace("    name: demo\n", "    name: demo\n    base_image_path: tiny\n")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def add_image(cli: Cli) -> None:
    """An image of 1 MiB, by the name tiny."""
    store = ImageStore(cli.roots.images)
    store.paths.root.mkdir(parents=True)
    image = make_image(cli.home / "image")
    with store.draft() as draft:
        shutil.copy(image.disk, draft)
        store.add(draft, image.manifest)


def remember(cli: Cli, name: str = "demo") -> ClusterPaths:
    """A cluster that was started on the test driver, and of which nothing is there."""
    paths = cli.roots.cluster(name)
    ensure_private_directory(paths.root)
    draft = draft_of(read_hpc(name=name), storage=cli.home / "storage")
    write_state(paths, draft.state.model_copy(update={"host_uri": "test:///default"}))
    return paths


NODE_VERBS = ("ssh {}", "exec {} -- true", "console {}", "logs {}")


@pytest.mark.parametrize("verb", NODE_VERBS)
def test_an_unknown_node_is_refused_with_those_that_there_are(cli, verb):
    remember(cli)
    word, *rest = verb.format("compute-77").split()
    ended = cli("hpc", word, "--cluster", "demo", *rest)
    assert ended.code == 2
    assert ended.err == (
        "error: cluster demo has no node compute-77\n  it has: controller, compute-01, compute-02\n"
    )


def test_a_node_is_found_by_its_whole_name_alone(cli):
    """A cluster `compute` has a node `compute-01`, whose VM is `compute-compute-01`."""
    log = remember(cli, "compute").console_log("compute-01")
    ensure_private_directory(log.parent)
    log.write_text("its own\n")
    for name in ("compute-01", "compute-compute-01"):
        ended = cli("hpc", "logs", "--serial", "--cluster", "compute", name)
        assert (ended.code, ended.out) == (0, "its own\n")
    for name in ("01", "compute", "compute-", "compute-compute-compute-01", "ontroller"):
        for verb in ("logs", "ssh"):
            ended = cli("hpc", verb, "--cluster", "compute", name)
            assert f"cluster compute has no node {name}\n" in ended.err
    ended = cli("hpc", "stop", "--cluster", "compute", "compute-compute-01")
    assert "cluster compute has no node compute-compute-01\n" in ended.err


def test_serial_consoles_of_several_nodes_are_told_apart(cli):
    paths = remember(cli)
    for name, text in (("controller", "c1\nc2\n"), ("compute-01", "\x1b[31ma1\x1b[0m\tx\x07\n")):
        ensure_private_directory(paths.console_log(name).parent)
        paths.console_log(name).write_text(text)
    asked = ("hpc", "logs", "--cluster", "demo", "--serial", "-n", "1")
    ended = cli(*asked)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "controller  c2\ncompute-01  a1\tx\n"
    assert cli(*asked, "compute-01", "demo-compute-01").out == "a1\tx\n"
    told = [json.loads(line) for line in cli(*asked, "--json").out.splitlines()]
    assert [(one["node"], one["message"]) for one in told] == [
        ("controller", "c2"),
        ("compute-01", "\x1b[31ma1\x1b[0m\tx\x07"),
    ]
    [line] = cli("--json", "hpc", "logs", "--cluster", "demo", "nope").out.splitlines()
    assert json.loads(line)["error"]["brief"] == "cluster demo has no node nope"


@pytest.mark.parametrize(
    "verb", [*(verb.format("compute-01") for verb in NODE_VERBS), "stop", "status", "ssh-config"]
)
def test_without_a_cluster_there_is_a_word_on_which_there_are(cli, verb):
    remember(cli, "other")
    word, *rest = verb.split()
    ended = cli("hpc", word, "--cluster", "demo", *rest)
    assert ended.code == 3
    assert ended.err == (
        "error: there is no cluster demo\n  clusters of this user: other\n"
        "hint: ai-how hpc status --cluster other\n"
    )


def test_where_there_is_no_cluster_at_all_none_but_the_named_one_is_proposed(cli):
    said = "error: there is no cluster demo\n  clusters of this user: none\nhint: ai-how hpc start"
    assert cli("hpc", "status", "--cluster", "demo").err == f"{said} FILE\n"
    cli.write("cluster.yaml", GOOD)
    assert cli("hpc", "status").err == f"{said}\n"
    remember(cli, "other")
    said = said.replace("none", "other")
    assert cli("hpc", "status").err == f"{said}\n", "which starts the cluster of the file"


@pytest.mark.parametrize("verb", ["exec {} -- true", "console {}"])
@pytest.mark.parametrize("state", ["off", "gone"])
def test_a_node_that_is_off_is_told_with_how_to_start_it(cli, verb, state):
    remember(cli)
    one = draft_of(read_hpc(name="demo")).state.get_node("compute-01")
    xml = render_domain(replace(COMPUTE, name=one.domain_name, uuid=one.uuid))
    with LibvirtClient("test:///default") as client:
        if state == "off":
            client.define_domain(xml)
        try:
            word, *rest = verb.format("compute-01").split()
            ended = cli("hpc", word, "--cluster", "demo", *rest)
        finally:
            if state == "off":
                client.undefine_domain(one.uuid, snapshots_too=False)
    what = "is off" if state == "off" else "has no VM"
    hint = "ai-how hpc start --cluster demo compute-01"
    assert (ended.code, ended.err) == (3, f"error: compute-01 {what}\nhint: {hint}\n")


def test_a_node_that_is_suspended_is_told_with_how_it_goes_on(cli, monkeypatch):
    remember(cli)
    one = draft_of(read_hpc(name="demo")).state.get_node("compute-01")
    shown = replace(seen("<domain/>"), uuid=one.uuid, state=VmState.SHUT_OFF, has_managed_save=True)
    monkeypatch.setattr(LibvirtClient, "find_domain", lambda client, uuid: shown)
    ended = cli("hpc", "exec", "--cluster", "demo", "compute-01", "--", "true")
    said = "error: compute-01 is suspended\nhint: ai-how hpc start --cluster demo\n"
    assert (ended.code, ended.err) == (3, said)


@pytest.mark.parametrize(
    ("command", "shown"),
    [(["sleep", "5"], "sleep 5"), (["sleep 5; true"], "sleep 5; true"), (["a", "b c"], "a 'b c'")],
)
def test_a_command_that_takes_too_long_is_named_as_it_was_given(cli, monkeypatch, command, shown):
    remember(cli)
    on = replace(seen("<domain/>"), state=VmState.RUNNING)
    asked: list[object] = []

    def answer(client, uuid, order, timeout_s):
        asked.append(order["execute"])
        if order["execute"] == "guest-file-open":
            raise GuestError("no such file")
        return {"pid": 7, "exited": "guest-file-open" in asked}

    monkeypatch.setattr(LibvirtClient, "find_domain", lambda client, uuid: on)
    monkeypatch.setattr(LibvirtClient, "agent_command", answer)
    options = ("--cluster", "demo", "--timeout", "0.01")
    ended = cli("hpc", "exec", *options, "compute-01", "--", *command)
    said = f"error: timed out waiting for the end of {shown} in compute-01\n"
    assert (ended.code, ended.err) == (124, said)


def test_a_cluster_with_an_intact_state_has_nothing_to_recover(cli):
    paths = remember(cli)
    before = paths.state.read_bytes()
    ended = cli("--connect", "test:///default", "hpc", "recover", "--cluster", "demo")
    assert (ended.code, paths.state.read_bytes()) == (3, before)
    said = "error: there is nothing to recover: the state of demo is intact"
    status = "ai-how --connect test:///default hpc status --cluster demo"
    assert ended.err == f"{said}\nhint: {status}\n"


@pytest.mark.parametrize("verb", [*NODE_VERBS, "ssh-config"])
@pytest.mark.parametrize("given", ["mine.yaml", "./mine.yaml", "-c mine.yaml", "--cluster mine"])
def test_the_ways_into_nodes_find_the_cluster_as_the_other_verbs_do(cli, verb, given):
    remember(cli, "mine")
    cli.write("cluster.yaml", GOOD.replace("demo", "other"))
    cli.write("mine.yaml", GOOD.replace("demo", "mine"))
    word, *rest = verb.format("compute-77").split()
    ended = cli("hpc", word, *given.split(), *rest)
    wanted = "config" if verb == "ssh-config" else "cluster mine has no node compute-77\n"
    assert wanted in ended.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("exec", "missing argument"),
        ("exec f.yaml", "no node was named"),
        ("exec controller", "no command was given"),
        ("exec -t controller true", "no such option: -t"),
        ("ssh --forward controller", "no such option: --forward"),
        ("logs --since 10 controller", "--since 10: this is no time"),
        ("logs --serial -u slurmd", "a serial console has no times, units and boots"),
        ("logs -f --boot -1", "nothing is added to a former boot"),
        ("console controller compute-01", "one node at a time"),
        ("run --pty --detach -- bash", "--pty and --detach exclude each other"),
        ("run --pty --attach 7 -- bash", "--attach is for a job that runs already"),
        ("run --pty --attach 7", "--pty and --attach exclude each other"),
        ("run --pty -- bash", "--pty needs a terminal as standard input"),
    ],
)
def test_what_is_missing_or_too_much_is_said(cli, line, said):
    ended = cli("hpc", *line.split())
    assert ended.code == 2
    assert said in ended.err.lower()


def test_destroy_demands_force_where_nobody_can_be_asked(cli):
    paths = remember(cli)
    ended = cli("hpc", "destroy", "--cluster", "demo")
    assert ended.code == 2
    assert ended.err == (
        "error: destroy asks before it removes anything, but there is no terminal\n"
        "hint: ai-how hpc destroy --cluster demo --force\n"
    )
    assert paths.state.exists()
    told = json.loads(cli("hpc", "destroy", "--cluster", "demo", "--json").out)
    assert told["error"]["exit_code"] == 2
    assert paths.state.exists()


def test_destroy_of_what_is_gone_is_success_and_forgets_it(cli):
    paths = remember(cli)
    ended = cli("hpc", "destroy", "--force", "--cluster", "demo")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("demo is destroyed\n")
    assert not paths.root.exists()
    assert cli("hpc", "destroy", "--force", "--cluster", "demo", "--connect", TEST_HOST).out == (
        "there was no cluster demo\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timeout", "5"], "--timeout needs --wait"),
        (["--wait", "--suspend"], "--wait cannot be used with --suspend, which keeps the jobs"),
    ],
)
def test_a_wait_that_has_no_meaning_is_refused(cli, words, said):
    ended = cli("hpc", "stop", *words, "--cluster", "demo")
    assert ended.code == 2
    assert f"error: {said}\n" in ended.err


def test_stop_of_an_unknown_node_is_refused_before_anything_is_stopped(cli):
    remember(cli)
    ended = cli("hpc", "stop", "compute-77", "--cluster", "demo")
    assert ended.code == 2
    assert "error: cluster demo has no node compute-77\n" in ended.err


def test_stop_of_what_is_off_has_nothing_to_do(cli):
    remember(cli)
    ended = cli("hpc", "stop", "--cluster", "demo")
    assert (ended.code, ended.out) == (0, "demo is off: nothing to do\n")
    one = cli("hpc", "stop", "compute-02", "--cluster", "demo")
    assert (one.code, one.out) == (0, "compute-02 is off: nothing to do\n")


@pytest.mark.parametrize(
    ("nodes", "suspends", "said"),
    [
        ([], False, "demo is off; to start it again: ai-how hpc start"),
        ([], True, "demo is suspended; to resume it: ai-how hpc start"),
        (["a"], False, "a is off; to start it again: ai-how hpc start a"),
        (["a", "b"], False, "a, b are off; to start them again: ai-how hpc start a b"),
    ],
)
def test_a_stop_ends_with_the_way_back(nodes, suspends, said, capsys):
    _show_stop("demo", nodes, HPC, is_new=True, suspends=suspends)
    assert capsys.readouterr().out == f"{said}\n"


def test_status_of_what_is_gone_says_so_of_each_node(cli):
    remember(cli)
    told = json.loads(cli("hpc", "status", "--cluster", "demo", "--json").out)
    assert told["is_ready"] is False
    assert told["slurm_trouble"] == "the controller is off"
    assert [(one["name"], one["state"]) for one in told["nodes"]] == [
        ("controller", "absent"),
        ("compute-01", "absent"),
        ("compute-02", "absent"),
    ]
    assert {one["reason"] for one in told["nodes"]} == {"not defined, its disk is missing"}
    assert told["report"]["total"]["memory_mib"] == 3 * 1024


@pytest.mark.parametrize(
    ("words", "file", "nodes"),
    [
        ([], None, []),
        (["compute-01"], None, ["compute-01"]),
        (["my.yaml"], "my.yaml", []),
        (["my.yml", "compute-01", "compute-02"], "my.yml", ["compute-01", "compute-02"]),
        (["./cluster", "compute-01"], "cluster", ["compute-01"]),
        (["compute-01", "my.yaml"], None, ["compute-01", "my.yaml"]),
    ],
)
def test_the_first_word_is_a_file_when_it_looks_like_one(words, file, nodes):
    assert split_words(words) == (Path(file) if file else None, nodes)


def test_start_of_an_unknown_node_lists_the_nodes(cli):
    add_image(cli)
    cli.write("cluster.yaml", WITH_IMAGE)
    for words in (["compute-77"], ["cluster.yaml", "compute-77"]):
        ended = cli("--connect", TEST_HOST, "hpc", "start", *words)
        assert ended.code == 2
        assert ended.err == (
            "error: cluster demo has no node compute-77\n"
            "  it has: controller, compute-01, compute-02\n"
        )
    assert not cli.roots.cluster("demo").state.exists()


def test_a_dry_run_shows_the_plan_and_does_nothing(cli):
    add_image(cli)
    cli.write("cluster.yaml", WITH_IMAGE)
    ended = cli("--connect", TEST_HOST, "hpc", "start", "--dry-run", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert (told["cluster"], told["dry_run"]) == ("demo", True)
    keys = [step["key"] for step in told["steps"]]
    assert "network/demo" in keys
    assert "boot/demo-compute-02" in keys
    assert keys[-1] == "ready/demo"
    lines = cli("--connect", TEST_HOST, "hpc", "start", "--dry-run").out.splitlines()
    assert lines == [f"{step['key']}: {step['what']}" for step in told["steps"]]
    assert told["boot_limit"] is None
    cli.write("cluster.yaml", f"{WITH_IMAGE}    start: {{boot_limit: 2}}\n")
    ended = cli("--connect", TEST_HOST, "hpc", "start", "--dry-run")
    last = ended.out.splitlines()[-1]
    assert last == "at most 2 of 3 nodes boot at the same time (start.boot_limit)"
    assert not cli.roots.cluster("demo").state.exists()
    assert not cli.roots.cluster("demo").journal.exists()


def test_a_cluster_that_another_run_holds_is_refused_with_its_process(cli):
    paths = remember(cli)
    add_image(cli)
    cli.write("cluster.yaml", WITH_IMAGE)
    with held_lock(paths.lock, doing="hpc start"):
        for words in (
            ["destroy", "--force"],
            ["stop"],
            ["start", "--dry-run"],
        ):
            ended = cli("--connect", "test:///default", "hpc", *words)
            assert ended.code == 6, words
            assert f"error: hpc start is under way in process {os.getpid()}, since " in ended.err
            assert f"hint: ps -fp {os.getpid()}\n" in ended.err
        assert json.loads(cli("hpc", "status", "--json").out)["name"] == "demo"
    assert paths.state.exists()


def test_the_lock_of_a_dead_run_holds_nothing(cli):
    paths = remember(cli)
    with paths.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write('{"pid": 1, "since": "then", "doing": "hpc start"}')
    assert cli("hpc", "stop", "--cluster", "demo").code == 0


def test_a_dry_run_builds_no_image(cli):
    cli.write("cluster.yaml", GOOD)
    ended = cli("--connect", TEST_HOST, "hpc", "start", "--dry-run")
    assert ended.code == 3
    assert ended.err == "error: the default image is not built yet\nhint: ai-how image build\n"
    assert not cli.roots.images.exists()


@pytest.fixture
def without_tools(monkeypatch):
    """A build of the image would fail at its first step."""
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize("line", ["", "    base_image_path: default\n"])
def test_the_default_image_is_built_for_a_new_cluster_by_either_of_its_names(
    cli, without_tools, line
):
    cli.write("cluster.yaml", GOOD.replace("    name: demo\n", f"    name: demo\n{line}"))
    ended = cli("--connect", TEST_HOST, "hpc", "start")
    assert ended.code == 3
    assert "error: mmdebstrap is not installed\n" in ended.err


def test_no_image_is_built_for_a_cluster_that_is_there(cli, without_tools):
    remember(cli)
    cli.write("cluster.yaml", GOOD)
    ended = cli("hpc", "start")
    assert ended.code == 3
    assert "mmdebstrap" not in ended.err


def test_an_image_that_is_not_there_is_named(cli):
    cli.write("cluster.yaml", WITH_IMAGE)
    ended = cli("--connect", TEST_HOST, "hpc", "start")
    assert ended.code == 3
    assert "error: there is no image tiny\n" in ended.err
    assert "hint: ai-how image build\n" in ended.err


def test_a_file_without_a_slurm_cluster_has_no_verbs(cli):
    text = GOOD.replace("hpc:", "cloud:").replace("controller:", "control_plane:")
    cli.write("cluster.yaml", text.replace("compute_nodes:", "worker_nodes:"))
    for verb in ("start", "stop", "status", "ssh-config"):
        ended = cli("hpc", verb)
        assert ended.code == 2
        assert ended.err.startswith("error: the file has no clusters.hpc\n")


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("qemu:///session", 3, "qemu:///session cannot give a cluster its own network"),
        ("qemu+ssh://me@there/system", 3, "a remote host is not supported yet"),
        ("xen:///", 2, "this libvirt URI is not allowed: 'xen:///'"),
    ],
)
def test_a_host_that_cannot_have_clusters_is_refused(cli, uri, code, message):
    add_image(cli)
    cli.write("cluster.yaml", WITH_IMAGE)
    ended = cli("--connect", uri, "hpc", "start")
    assert ended.code == code
    assert message in ended.err


def test_a_damaged_state_is_told_with_the_way_back(cli):
    paths = remember(cli)
    paths.state.write_text("{")
    for words in (["status"], ["stop"], ["destroy", "--force"], ["ssh", "controller"]):
        ended = cli("hpc", *words, "--cluster", "demo")
        assert ended.code == 3, words
        assert f"error: {paths.state} is damaged\n" in ended.err
        assert "hint: " in ended.err
