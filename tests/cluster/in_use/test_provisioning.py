"""Playbooks on a real cluster: docs/ansible.md as it stands, failures, a wrong key, a kill."""

import json
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ai_how.process import run, start_daemon
from ai_how.state.cluster_state import read_state
from pages import COMMAND_S, DOCS, block_of, commands, run_commands
from real_cluster import START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.in_order, pytest.mark.long]

PAGE = (DOCS / "ansible.md").read_text()
NODES = ("controller", "compute-01", "compute-02")
BROKEN = """\
- hosts: compute
  become: true
  gather_facts: false
  tasks:
    - name: break
      ansible.builtin.command: ls /nowhere
      when: inventory_hostname == 'compute-02'
"""
# The first run waits in its task for ever; the file lets later ones pass.
SLOW = """\
- hosts: compute-01
  become: true
  gather_facts: false
  tasks:
    - name: wait
      ansible.builtin.command: sh -c 'touch /run/begun; exec sleep 987654'
      args: {creates: /run/goes-on}
"""


@pytest.fixture(scope="module")
def site(used: Cluster) -> Iterator[Path]:
    """The directory of the cluster's file, which has the playbook of the page meanwhile."""
    directory, text = used.file.parent, used.file.read_text()
    (directory / "site.yml").write_text(block_of(PAGE, "- hosts:"))
    (directory / "greeting.j2").write_text(block_of(PAGE, "This is {{"))
    used.file.write_text(text + textwrap.indent(block_of(PAGE, "provision:"), "    "))
    yield directory
    used.file.write_text(text)
    for node in NODES:
        used.execute(node, "rm -rf /opt/site /run/begun /run/goes-on; userdel keeper || true")


def with_playbook(used: Cluster, site: Path, name: str, playbook: str) -> str:
    """Another file of the same cluster, which has only this playbook."""
    (site / f"{name}.yml").write_text(playbook)
    head, _, _ = used.file.read_text().partition("    provision:")
    file = site / f"of-{name}.yaml"
    file.write_text(f"{head}    provision: [{name}.yml]\n")
    return str(file)


def test_the_page_shows_what_its_commands_print(used: Cluster, site: Path):
    shown = list(commands(PAGE))
    assert len(shown) == 8
    tools = Path(sys.executable).parent
    env = {"PATH": f"{tools}:/usr/bin:/bin", "AI_HOW_STATE_DIR": str(used.state_dir)}
    for command, lines in shown:
        if command.startswith("ai-how "):
            run_commands([(command, lines)], site, used.state_dir)
            continue
        done = run(["bash", "-c", command], cwd=site, env=env, timeout_s=COMMAND_S)
        for line in lines:
            assert line.partition("…")[0] in done.stdout, (line, done.stdout)
    text = used.execute("compute-02", "cat /opt/site/greeting; stat -c %U /opt/site/owner")
    assert text == ("This is compute-02 of a virtual cluster, with 2 compute nodes.\nkeeper\n")


def test_a_start_skips_what_has_not_changed(used: Cluster, site: Path):
    done = json.loads(used.call("hpc", "start", "--json", timeout_s=START_S))
    assert (done["steps"], [one["nodes"] for one in done["playbooks"]]) == ([], [[]])


def test_a_node_that_was_off_gets_what_has_changed_when_it_starts(used: Cluster, site: Path):
    used.call("hpc", "stop", "compute-02", timeout_s=START_S)
    listed = json.loads(used.call("hpc", "inventory"))
    assert listed["compute_up"]["hosts"] == ["compute-01"]
    assert listed["_meta"]["hostvars"]["compute-02"]["ai_how_state"] == "shut_off"
    (site / "greeting.j2").write_text("changed\n")
    done = json.loads(used.call("hpc", "provision", "--json", timeout_s=COMMAND_S))
    assert [one["nodes"] for one in done["playbooks"]] == [["compute-01", "controller"]]
    done = json.loads(used.call("hpc", "start", "--json", timeout_s=START_S))
    assert [one["nodes"] for one in done["playbooks"]] == [["compute-02"]]
    assert used.execute("compute-02", "cat /opt/site/greeting") == "changed\n"


def test_a_failure_names_task_and_node_and_leaves_the_cluster_up(used: Cluster, site: Path):
    file = with_playbook(used, site, "broken", BROKEN)
    before = read_state(used.paths).provisioned
    done = used.try_call("hpc", "provision", file, timeout_s=COMMAND_S)
    assert done.returncode == 7
    assert done.stderr.splitlines()[0] == (
        "error: the cluster is up, but broken.yml failed: break on compute-02"
    )
    assert "/nowhere" in done.stderr
    told = json.loads(used.try_call("hpc", "provision", file, "--json", timeout_s=COMMAND_S).stdout)
    assert (told["error"]["node"], told["error"]["exit_code"]) == ("compute-02", 7)
    assert used.status()["is_ready"]
    assert read_state(used.paths).provisioned == before


def test_a_node_with_another_host_key_is_refused(used: Cluster, site: Path):
    known = used.paths.known_hosts
    text = known.read_text()
    lines = {line.split()[0]: line for line in text.splitlines()}
    key = lines["hpc-controller"].removeprefix("hpc-controller")
    known.write_text(text.replace(lines["hpc-compute-01"], f"hpc-compute-01{key}"))
    try:
        done = used.try_call(
            "hpc", "provision", "--limit", "compute-01", "--check", timeout_s=COMMAND_S
        )
    finally:
        known.write_text(text)
    assert done.returncode == 7
    assert "failed: directory on compute-01" in done.stderr.splitlines()[0]
    assert "Host key verification failed" in done.stderr


def processes_of(directory: Path) -> list[str]:
    """The command lines of Ansible and ssh for the clusters of this state directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            is_tool = any(word in line for word in ("ansible", "ssh", "keeper"))
            if is_tool and str(directory) in line:
                found.append(line)
    return found


def wait_for(holds, timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(1)


def test_after_a_kill_nothing_is_left_and_the_next_run_runs_again(used: Cluster, site: Path):
    file = with_playbook(used, site, "slow", SLOW)
    words = [*used.argv, "hpc", "provision", file]
    child = start_daemon(words, log=site / "killed.log")
    begun = ("hpc", "exec", "compute-01", "--", "test", "-e", "/run/begun")
    wait_for(lambda: used.try_call(*begun).returncode == 0)
    assert processes_of(used.state_dir)
    locked = used.try_call("hpc", "provision", file)
    assert (locked.returncode, "hpc provision is under way" in locked.stderr) == (6, True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_for(lambda: not processes_of(used.paths.root))
    wait_for(lambda: not used.paths.provision.exists())
    used.execute("compute-01", "pkill -f '[s]leep 987654'; touch /run/goes-on")
    done = json.loads(used.call("hpc", "provision", file, "--json", timeout_s=COMMAND_S))
    assert [one["nodes"] for one in done["playbooks"]] == [["compute-01"]]
    assert used.call("hpc", "provision", file) == "playbook slow.yml: nothing to do\n"
