"""The collection is built, installed from its tarball, and read by ansible-inventory."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli

from ai_how import __version__
from ai_how.process import run
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import default_roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc

SOURCE = Path(__file__).resolve().parents[2] / "ansible" / "ai_how" / "cluster"
TOOLS = Path(sys.executable).parent
FILE = """\
plugin: ai_how.cluster.nodes
cluster: demo
compose: {gib: ai_how_memory_mib // 1024}
keyed_groups: [{key: ai_how_state, prefix: state}]
"""


@pytest.fixture
def home(tmp_path, monkeypatch, capsys) -> Path:
    """The home of a user whose cluster demo is remembered."""
    Cli(tmp_path, monkeypatch, capsys)
    paths = default_roots().cluster("demo")
    ensure_private_directory(paths.root)
    state = draft_of(read_hpc(name="demo"), storage=tmp_path).state
    write_state(paths, state.model_copy(update={"host_uri": "test:///default"}))
    paths.spec.write_text(GOOD)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{TOOLS}:{os.environ['PATH']}")
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(tmp_path / "collections"))
    return tmp_path


def ansible(*words: str, cwd: Path, check: bool = True):
    return run([TOOLS / words[0], *words[1:]], cwd=cwd, timeout_s=300, check=check)


def test_the_tarball_has_an_inventory_plugin_that_asks_the_program(home):
    shutil.copytree(SOURCE, home / "source")
    ansible("ansible-galaxy", "collection", "build", cwd=home / "source")
    tarball = home / "source" / f"ai_how-cluster-{__version__}.tar.gz"
    where = ("-p", str(home / "collections"))
    ansible("ansible-galaxy", "collection", "install", "--offline", str(tarball), *where, cwd=home)
    (home / "lab.ai_how.yml").write_text(FILE)
    read = json.loads(
        ansible("ansible-inventory", "-i", "lab.ai_how.yml", "--list", cwd=home).stdout
    )
    assert read["compute"]["hosts"] == ["compute-01", "compute-02"]
    assert sorted(read["state_absent"]["hosts"]) == ["compute-01", "compute-02", "controller"]
    one = read["_meta"]["hostvars"]["compute-02"]
    assert (one["gib"], one["ansible_ssh_host_key_checking"]) == (1, True)
    (home / "lab.ai_how.yml").write_text(FILE.replace("demo", "other"))
    listed = ansible("ansible-inventory", "-i", "lab.ai_how.yml", "--list", cwd=home, check=False)
    assert "there is no cluster other" in listed.stderr
