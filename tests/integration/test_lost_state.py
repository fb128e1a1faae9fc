"""What is remembered is lost while the cluster is there; it is found again, and nothing else is."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.state.cluster_state import read_state
from tiny_cluster import TinyHome

pytestmark = pytest.mark.libvirt

LOST = "the cluster hpc exists, but its state is lost"


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    started = tiny_home.call("hpc", "start")
    assert started.code == 0, started.said
    yield tiny_home
    gone = tiny_home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said


def call(home: TinyHome, *words: str) -> str:
    done = home.call(*words)
    assert done.code == 0, done.said
    return done.out


def lose(path: Path) -> None:
    """Every file of the cluster's directory, but not what libvirt and QEMU use."""
    for file in sorted(path.rglob("*"), reverse=True):
        if "console" not in file.parts:
            file.unlink() if file.is_file() else file.rmdir()


@pytest.mark.fault("F18", "the state directory emptied under running guests")
def test_a_cluster_whose_state_is_lost_is_recovered_from_libvirt(home: TinyHome) -> None:
    paths = home.paths("hpc")
    before = read_state(paths)
    lose(paths.root)
    for words in (("status",), ("stop",), ("destroy", "--force"), ("start",)):
        refused = home.call("hpc", *words)
        assert refused.code == 3, refused.said
        assert " hpc recover --cluster hpc" in refused.err
    assert LOST in home.call("hpc", "status").err
    with home.client() as client:
        assert len(client.list_domains()) == 4  # ours, and the decoy
    told = call(home, "hpc", "recover")
    assert "the state of hpc was restored from libvirt" in told
    after = read_state(paths)
    same = ("lineage", "name", "host_uri", "user", "network")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    plain = [one.model_copy(update={"stages_s": {}}) for one in before.nodes]
    assert list(after.nodes) == plain
    steps = json.loads(call(home, "--json", "hpc", "start"))["steps"]
    assert {step["key"].partition("/")[0] for step in steps} <= {"services", "clocks", "ready"}
    assert json.loads(call(home, "--json", "hpc", "start"))["steps"] == []


@pytest.mark.fault("F18", "state.json deleted, its backups kept")
@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_state_that_is_lost_or_damaged_comes_back_from_its_backup(
    home: TinyHome, damage: str
) -> None:
    paths = home.paths("hpc")
    call(home, "hpc", "stop")
    call(home, "hpc", "start")  # the second state: the first is a backup now
    lineage = read_state(paths).lineage
    if damage == "deleted":
        paths.state.unlink()
    else:
        paths.state.write_bytes(paths.state.read_bytes()[:-100])
    assert "its backup with serial 1" in call(home, "hpc", "recover")
    assert read_state(paths).lineage == lineage
    assert call(home, "hpc", "start")
    refused = home.call("hpc", "recover")
    assert refused.code == 3
    assert "there is nothing to recover: the state of hpc is intact" in refused.err


@pytest.mark.fault("S21", "a foreign VM and network with a copy of our mark")
def test_a_copied_mark_makes_nobody_ours(home: TinyHome) -> None:
    """The decoy of the leak gate says that it is the controller of hpc."""
    call(home, "hpc", "destroy", "--force")
    refused = home.call("hpc", "recover")
    assert refused.code == 3
    assert "libvirt has no VM of a cluster hpc" in refused.err
    assert "there is no cluster hpc" in home.call("hpc", "status").err


@pytest.mark.fault("F05", "SIGKILL when all steps are done and the state is not written")
def test_a_start_that_died_when_all_was_up_is_remembered_and_not_undone(home: TinyHome) -> None:
    call(home, "hpc", "destroy", "--force")
    clean = home.call("hpc", "start")
    last = len(clean.boundaries) - 3
    assert clean.boundaries[last] == ("after done", "ready/hpc")
    call(home, "hpc", "destroy", "--force")
    killed = home.call("hpc", "start", at=last, act="kill")
    assert killed.code == -9, killed.said
    assert read_state(home.paths("hpc")) is None
    assert "the first start of hpc was cut short" in home.call("hpc", "status").err
    with home.client() as client:
        before = {(one.name, one.domid) for one in client.list_domains()}
    again = home.call("hpc", "start")
    assert again.code == 0, again.said
    assert "completing the start that was cut short after its last step" in again.err
    assert "nothing to do" in again.out
    with home.client() as client:
        assert {(one.name, one.domid) for one in client.list_domains()} == before
    assert len(read_state(home.paths("hpc")).nodes) == 3
