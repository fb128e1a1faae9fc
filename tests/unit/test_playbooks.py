"""Which playbooks run where: digests, new nodes, and what is refused before a start."""

import json
import sys
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli

from ai_how.process import run_with_order
from ai_how.provisioning.playbooks import files_of, find_pending, read_playbooks, with_run
from ai_how.spec.provision import ProvisionSpec
from ai_how.spec.reader import read_spec_text
from ai_how.state.cluster_state import parse_state, read_state, render_state, write_state
from ai_how.state.models import PlaybookState
from ai_how.state.paths import default_roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc

NODES = ("controller", "compute-01")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A playbook with a role, a file that it names, and one that nothing names."""
    (tmp_path / "roles/base/tasks").mkdir(parents=True)
    (tmp_path / "roles/base/tasks/main.yml").write_text("- command: id\n")
    (tmp_path / "site.yml").write_text("- import_playbook: other.yml\n")
    (tmp_path / "other.yml").write_text("- hosts: all\n  vars_files: [names.yml]\n")
    (tmp_path / "names.yml").write_text("a: 1\n")
    (tmp_path / "results.csv").write_text("1,2\n")
    return tmp_path


def read(tree: Path, **fields):
    [found] = read_playbooks([ProvisionSpec(playbook="site.yml", **fields)], tree)
    return found


def nodes_of(pending) -> list[tuple[str, ...]]:
    return [one.nodes for one in pending]


def test_a_playbook_depends_on_what_it_names_and_on_its_roles(tree):
    names = [path.relative_to(tree).as_posix() for path in files_of(tree / "site.yml")]
    assert names == ["names.yml", "other.yml", "roles/base/tasks/main.yml", "site.yml"]


def test_a_playbook_that_ran_is_skipped_until_something_has_changed(tree):
    first = read(tree)
    done = with_run((), first, NODES)
    assert find_pending([first], done, NODES) == ()
    (tree / "results.csv").write_text("3,4\n")
    assert find_pending([read(tree)], done, NODES) == ()
    for change in ("roles/base/tasks/main.yml", "names.yml", "site.yml"):
        before = read(tree)
        (tree / change).write_text(f"{(tree / change).read_text()}# changed\n")
        done = with_run((), before, NODES)
        assert nodes_of(find_pending([read(tree)], done, NODES)) == [NODES], change
    assert nodes_of(find_pending([read(tree, vars={"b": 2})], done, NODES)) == [NODES]
    script = tree / "roles/base/tasks/main.yml"
    done = with_run((), read(tree), NODES)
    script.chmod(0o755)
    assert nodes_of(find_pending([read(tree)], done, NODES)) == [NODES]


def test_a_new_node_gets_what_it_lacks_and_no_other_one_does(tree):
    playbook = read(tree)
    done = with_run((), playbook, NODES)
    assert nodes_of(find_pending([playbook], done, (*NODES, "compute-02"))) == [("compute-02",)]
    done = with_run(done, playbook, ["compute-02"])
    assert [one.nodes for one in done] == [(*NODES, "compute-02")]


def test_a_node_that_was_off_when_a_playbook_changed_gets_it_later(tree):
    done = with_run((), read(tree), NODES)
    changed = read(tree, vars={"b": 2})
    done = with_run(done, changed, ["controller"])
    assert nodes_of(find_pending([changed], done, NODES)) == [("compute-01",)]


def test_created_is_once_for_each_node_and_always_is_at_every_start(tree):
    done = with_run((), read(tree, when="created"), NODES)
    changed = read(tree, when="created", vars={"b": 2})
    assert find_pending([changed], done, NODES) == ()
    assert nodes_of(find_pending([read(tree, when="always")], done, NODES)) == [NODES]
    assert nodes_of(find_pending([changed], done, NODES, is_forced=True)) == [NODES]


def test_the_same_playbook_with_other_tags_is_another_entry(tree):
    done = with_run((), read(tree, tags=["a"]), NODES)
    assert nodes_of(find_pending([read(tree, tags=["b"])], done, NODES)) == [NODES]
    assert find_pending([read(tree, tags=["a"])], done, NODES) == ()


def test_what_ran_is_remembered_and_a_state_without_it_is_as_it_was():
    state = draft_of(read_hpc()).state
    assert '"provisioned"' not in render_state(state)
    ran = PlaybookState(entry="e", digest="d", nodes=("controller", "compute-01"))
    state = state.model_copy(update={"provisioned": (ran,)})
    assert parse_state(render_state(state).encode()) == state
    [left] = state.without_provisioned(["compute-01"]).provisioned
    assert left.nodes == ("controller",)


def problems(lines: str, directory: Path | None = None) -> list[str]:
    _, found = read_spec_text(GOOD + lines, "f", {}, directory=directory)
    return [str(one) for one in found]


def test_a_playbook_may_be_written_as_its_path(tmp_path):
    (tmp_path / "site.yml").write_text("[]")
    assert problems("    provision: [site.yml]\n", tmp_path) == []
    spec, _ = read_spec_text(f"{GOOD}    provision: [site.yml]\n", "f", {})
    assert spec.clusters.hpc.provision == (ProvisionSpec(playbook="site.yml"),)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{playbook: none.yml}", "none.yml: there is no such file"),
        ("{playbook: site.yml, vault_password_file: x}", "x: there is no such file"),
        ("{playbook: site.yml, when: never}", "allowed: created, changed or always"),
        ("{playbook: site.yml, limit: --become}", "hosts or groups"),
        ("{playbook: -e}", "a path of the host"),
        ("{playbook: site.yml, tags: ['a,b']}", "a tag of Ansible"),
    ],
)
def test_what_cannot_run_is_refused_with_its_line(tmp_path, entry, said):
    (tmp_path / "site.yml").write_text("[]")
    [found] = problems(f"    provision: [{entry}]\n", tmp_path)
    assert found.startswith("f:7: clusters.hpc.provision[0]")
    assert said in found


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    cli = Cli(tmp_path, monkeypatch, capsys)
    cli.write("site.yml", "- hosts: all\n")
    cli.write("cluster.yaml", f"{GOOD}    provision: [site.yml]\n")
    return cli


def test_without_ansible_a_start_is_refused_before_it_begins(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    ended = cli("--connect", "test:///default", "hpc", "start")
    assert (ended.code, ended.err.splitlines()) == (
        3,
        [
            "error: ansible-playbook is not installed, but the file has playbooks",
            f"hint: {tmp_path}/python -m pip install 'ansible-core>=2.18'",
        ],
    )
    program = cli.write(
        "bin/ansible-playbook", "#!/bin/sh\necho 'ansible-playbook [core 2.14.18]'\n"
    )
    program.chmod(0o755)
    ended = cli("--connect", "test:///default", "hpc", "start")
    assert (ended.code, ended.err.splitlines()[:2]) == (
        3,
        [
            f"error: {program} is too old: 2.14",
            "  The nodes need ansible-core 2.18 or later.",
        ],
    )
    assert not default_roots().cluster("demo").root.exists()


def remember(cli: Cli, *names: str) -> None:
    """The cluster of the file is remembered, and its playbook as run on these nodes."""
    paths = default_roots().cluster("demo")
    ensure_private_directory(paths.root)
    state = draft_of(read_hpc(name="demo"), storage=cli.home).state
    [playbook] = read_playbooks([ProvisionSpec(playbook="site.yml")], cli.home)
    ran = with_run((), playbook, names)
    update = {"host_uri": "test:///default", "provisioned": ran}
    write_state(paths, state.model_copy(update=update))


def test_a_dry_run_shows_what_would_run(cli):
    remember(cli, "controller", "compute-01")
    ended = cli("hpc", "provision", "--dry-run")
    assert (ended.code, ended.out) == (0, "playbook site.yml runs on compute-02\n")
    [one] = json.loads(cli("hpc", "provision", "--dry-run", "--force", "--json").out)["playbooks"]
    assert (one["playbook"], one["nodes"]) == (
        "site.yml",
        ["controller", "compute-01", "compute-02"],
    )


def test_what_has_not_changed_is_skipped_without_a_look_at_the_host(cli):
    remember(cli, "controller", "compute-01", "compute-02")
    ended = cli("hpc", "provision")
    assert (ended.code, ended.out) == (0, "playbook site.yml: nothing to do\n")


def test_a_cluster_of_which_no_node_runs_is_refused(cli):
    remember(cli)
    ended = cli("hpc", "provision")
    assert (ended.code, ended.err.splitlines()[0]) == (3, "error: no node of demo runs")
    assert read_state(default_roots().cluster("demo")).provisioned[0].nodes == ()


def test_a_file_without_playbooks_is_refused(cli):
    cli.write("cluster.yaml", GOOD)
    ended = cli("hpc", "provision")
    assert (ended.code, ended.err.splitlines()[0]) == (2, "error: the file has no playbooks")


def test_two_limits_of_several_names_are_refused(cli):
    cli.write("cluster.yaml", f"{GOOD}    provision: [{{playbook: site.yml, limit: compute}}]\n")
    ended = cli("hpc", "provision", "--limit", "a:b")
    assert (ended.code, ended.err) == (
        2,
        "error: --limit takes one name here: a playbook of the file has a limit, too\n",
    )


STOCK = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: say
      ansible.builtin.debug: {msg: hello}
    - name: hide
      ansible.builtin.command: "sh -c 'echo secret; exit 3'"
      no_log: true
      ignore_errors: true
    - name: break
      ansible.builtin.command: "sh -c 'echo wrong >&2; exit 3'"
      when: inventory_hostname == 'two'
"""


KEEPER = [sys.executable, "-I", "-m", "ai_how.provisioning.keeper"]


def order_of(tmp_path: Path, argv: list[str], env: dict[str, str]) -> str:
    where = {"log": str(tmp_path / "log"), "directory": str(tmp_path / "run")}
    return json.dumps({"argv": argv, "env": env, "cwd": str(tmp_path), **where})


class StopError(Exception):
    """As Ctrl-C."""


def test_when_a_run_is_stopped_all_that_it_started_ends(tmp_path):
    """Also what has a session of its own, as the masters of ssh."""
    begin = "setsid sleep 9999 & echo $! >&$AI_HOW_EVENTS_FD; wait"
    seen: list[str] = []

    def stop(line: str) -> None:
        seen.append(line)
        raise StopError

    with pytest.raises(StopError):
        run_with_order(KEEPER, order=order_of(tmp_path, ["bash", "-c", begin], {}), on_line=stop)
    assert not Path(f"/proc/{seen[0]}").exists()


def test_a_process_that_a_playbook_leaves_ends_with_it(tmp_path):
    begin = "setsid sleep 9999 & echo $! >&$AI_HOW_EVENTS_FD; exit 4"
    seen: list[str] = []
    order = order_of(tmp_path, ["bash", "-c", begin], {})
    run_with_order(KEEPER, order=order, on_line=seen.append)
    assert json.loads(seen[1]) == {"event": "end", "code": 4}
    assert not Path(f"/proc/{seen[0]}").exists()


def test_the_results_of_tasks_are_reported_as_they_come(tmp_path):
    """With Ansible itself, on two hosts that are this one."""
    (tmp_path / "site.yml").write_text(STOCK)
    plugins = Path(__file__).parents[2] / "src/ai_how/provisioning/plugins"
    directory = tmp_path / "run"
    directory.mkdir()
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (directory / "inventory.json").write_text(
        json.dumps({"all": {"hosts": {"one": None, "two": None}, "vars": local}})
    )
    program = Path(sys.executable).with_name("ansible-playbook")
    env = {
        "HOME": str(tmp_path),
        "ANSIBLE_STDOUT_CALLBACK": "ai_how_events",
        "ANSIBLE_CALLBACK_PLUGINS": str(plugins),
    }
    lines: list[str] = []
    argv = [str(program), "-i", str(directory / "inventory.json"), "site.yml"]
    run_with_order(KEEPER, order=order_of(tmp_path, argv, env), on_line=lines.append)
    events = [json.loads(line) for line in lines]
    results = [(e["host"], e["task"], e["status"]) for e in events if e["event"] == "result"]
    assert sorted(results) == [
        ("one", "break", "skipped"),
        ("one", "hide", "ignored"),
        ("one", "say", "ok"),
        ("two", "break", "failed"),
        ("two", "hide", "ignored"),
        ("two", "say", "ok"),
    ]
    [message] = [e["message"] for e in events if e.get("status") == "failed"]
    assert message == "non-zero return code\nexit code 3\nwrong"
    assert "secret" not in "".join(lines) + (tmp_path / "log").read_text()
    assert events[-1] == {"event": "end", "code": 2}
    assert not directory.exists()
