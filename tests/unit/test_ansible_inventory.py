"""The inventory: hosts, groups and variables of a cluster, as Ansible itself reads them."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import Cli
from ruamel.yaml import YAML

from ai_how.clusters.observation import Observed
from ai_how.clusters.status import status_of
from ai_how.hpc.inventory import Inventory, make_inventory
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import ClusterPaths, default_roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc

NODES = """compute_nodes:
    - {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    - cpu_cores: 1
      memory_gb: 1
      disk_gb: 10
      gpu: {simulated: {type: t4-x, memory_gb: 16, count: 2}}"""
PARTITIONS = "slurm_config: {partitions: [main, {name: big-mem, nodes: [compute-02]}]}"
FILE = f"""\
version: "1.0"
clusters:
  hpc:
    name: my-lab
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    {NODES}
    {PARTITIONS}
"""


def inventory(*off: str, root: Path = Path("/home/me/.local/state/ai-how/my-lab")) -> Inventory:
    """That of a controller and three nodes, of which these are off."""
    hpc = read_hpc(PARTITIONS, name="my-lab", nodes=NODES)
    state = draft_of(hpc).state
    seen = status_of(SLURM, state, Observed(), {}, {})
    nodes = tuple(
        replace(node, state=VmState.SHUT_OFF if node.name in off else VmState.RUNNING)
        for node in seen.nodes
    )
    return make_inventory(state, replace(seen, nodes=nodes), hpc.slurm_config, ClusterPaths(root))


def test_the_groups_are_roles_partitions_gpus_and_the_names_of_common_roles():
    every, compute = (
        ("controller", "compute-01", "compute-02", "compute-03"),
        ("compute-01", "compute-02", "compute-03"),
    )
    assert inventory().groups == {
        "hpc": every,
        "my_lab": every,
        "controller": every[:1],
        "slurmservers": every[:1],
        "cluster_control": every[:1],
        "cluster_login": every[:1],
        "compute": compute,
        "slurmexechosts": compute,
        "cluster_batch": compute,
        "partition_main": compute,
        "my_lab_main": compute,
        "main": compute,
        "partition_big_mem": ("compute-02",),
        "my_lab_big_mem": ("compute-02",),
        "big_mem": ("compute-02",),
        "gpu": ("compute-03",),
        "gpu_t4_x": ("compute-03",),
        "hpc_up": every,
        "controller_up": every[:1],
        "compute_up": compute,
        "partition_main_up": compute,
        "partition_big_mem_up": ("compute-02",),
    }


def test_a_node_that_is_off_is_in_all_and_its_groups_but_in_none_that_is_up():
    found = inventory("compute-02")
    assert found.hosts["compute-02"]["ai_how_state"] == "shut_off"
    assert {name for name, members in found.groups.items() if "compute-02" in members} == {
        *("hpc", "my_lab", "compute", "slurmexechosts", "cluster_batch"),
        *(
            "partition_main",
            "my_lab_main",
            "main",
            "partition_big_mem",
            "my_lab_big_mem",
            "big_mem",
        ),
    }
    assert found.groups["partition_big_mem_up"] == ()


def test_gpus_are_variables_of_their_node():
    hosts = inventory().hosts
    gpus = {name: (hosts[name]["ai_how_gpus"], hosts[name]["ai_how_gres"]) for name in hosts}
    assert gpus["compute-03"] == ({"t4-x": 2}, "gpu:t4-x:2")
    assert gpus["compute-01"] == ({}, "")


def test_ssh_goes_by_the_configuration_of_the_cluster_and_checks_host_keys():
    found = inventory(root=Path("/my state/my-lab"))
    assert found.variables["ansible_ssh_common_args"] == "-F '/my state/my-lab/ssh/config'"
    assert found.variables["ansible_ssh_host_key_checking"] is True
    assert found.variables["ansible_user"] == "hpc"
    assert found.variables["ansible_remote_tmp"] == "/tmp/.ansible-hpc"
    assert [one["ansible_host"] for one in found.hosts.values()] == list(found.hosts)
    # Two clusters may have the same names and addresses: no connection is shared by them.
    assert len({one["ansible_control_path"] for one in found.hosts.values()}) == len(found.hosts)


def ask_ansible(*words: str, cwd: Path, **env: str) -> str:
    program = Path(sys.executable).with_name("ansible-inventory")
    return run(
        [program, *words], cwd=cwd, env=os.environ | {"HOME": str(cwd)} | env, timeout_s=120
    ).stdout


@pytest.fixture
def home(tmp_path, monkeypatch, capsys) -> Path:
    """The home of a user whose cluster my-lab is remembered: its file is in the directory."""
    Cli(tmp_path, monkeypatch, capsys).write("cluster.yaml", FILE)
    paths = default_roots().cluster("my-lab")
    ensure_private_directory(paths.root)
    state = draft_of(read_hpc(PARTITIONS, name="my-lab", nodes=NODES), storage=tmp_path).state
    write_state(paths, state.model_copy(update={"host_uri": "test:///default"}))
    paths.spec.write_text(FILE)
    return tmp_path


def test_ansible_reads_the_program_as_an_inventory(home):
    program = Path(sys.executable).with_name("ai-how-inventory")
    read = json.loads(ask_ansible("-i", str(program), "--list", cwd=home))
    assert read["my_lab_big_mem"]["hosts"] == ["compute-02"]
    one = read["_meta"]["hostvars"]["compute-03"]
    assert (one["ai_how_gres"], one["ai_how_state"]) == ("gpu:t4-x:2", "absent")
    assert one["ansible_ssh_common_args"].endswith("/my-lab/ssh/config")


def test_the_cluster_of_the_program_is_named_by_the_environment(home, monkeypatch, tmp_path):
    program = Path(sys.executable).with_name("ai-how-inventory")
    where = str(default_roots().state)
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME")
    env = {"HOME": str(tmp_path), "AI_HOW_CLUSTER": "my-lab", "AI_HOW_STATE_DIR": where}
    done = run([program, "--host", "compute-03"], cwd=Path("/"), env=env, timeout_s=60)
    assert json.loads(done.stdout)["ai_how_role"] == "compute"
    done = run([program, "--list"], cwd=Path("/"), env=env | {"AI_HOW_CLUSTER": "x"}, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, "error: there is no cluster x")


@pytest.fixture
def cli(home, monkeypatch, capsys) -> Cli:
    return Cli(home, monkeypatch, capsys)


def test_the_file_in_yaml_says_what_the_program_says(cli):
    written = YAML(typ="safe", pure=True).load(cli("hpc", "inventory", "--yaml").out)["all"]
    listed = json.loads(cli("hpc", "inventory").out)
    assert written["vars"] == listed["all"]["vars"]
    assert written["hosts"] == listed["_meta"]["hostvars"]
    for name, group in written["children"].items():
        assert list(group["hosts"]) == listed[name]["hosts"]


def test_one_host_has_its_variables_and_one_that_is_not_known_has_none(cli):
    assert json.loads(cli("hpc", "inventory", "--host", "controller").out)["ai_how_role"] == (
        "controller"
    )
    assert cli("hpc", "inventory", "--host", "nowhere").out == "{}\n"


def test_two_forms_at_once_are_refused(cli):
    ended = cli("hpc", "inventory", "--list", "--yaml")
    assert (ended.code, ended.err) == (2, "error: --list, --host and --yaml exclude each other\n")
    assert "hpc inventory --yaml has no JSON" in cli("hpc", "inventory", "--yaml", "--json").out
