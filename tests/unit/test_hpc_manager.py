"""The conductor's verbs where another run had died, or where there is nothing of ours."""

import os
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from ai_how.clusters.cleanup import prepare_backups, release_host
from ai_how.clusters.plan_runner import PlanRunner
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.start import PreparedStart
from ai_how.errors import HostError, LockedError, PlanFailedError, StateError
from ai_how.host.place import resolve_host
from ai_how.hpc.kind import SLURM
from ai_how.hpc.manager import HpcManager
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.journal import Journal
from ai_how.plan.observer import Observer
from ai_how.plan.step import Plan
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots, default_roots, ensure_private_directory
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.steps.networks import StartNetwork
from cluster_bench import draft_of, read_hpc

TEST_HOST = f"test://{Path(__file__).resolve().parents[1] / 'driver' / 'test_node.xml'}"


@pytest.fixture
def roots(tmp_path, monkeypatch) -> Roots:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return default_roots(tmp_path / "state")


@pytest.fixture
def state(tmp_path) -> ClusterState:
    draft = draft_of(read_hpc(), storage=tmp_path / "storage")
    return draft.state.model_copy(update={"host_uri": TEST_HOST})


def make_directory(roots: Roots, name: str = "hpc") -> ClusterPaths:
    ensure_private_directory(roots.state)
    paths = roots.cluster(name)
    ensure_private_directory(paths.root)
    return paths


def leave_journal(paths: ClusterPaths, state: ClusterState, verb: str, **note: object) -> None:
    """As a run leaves it that dies before its first step."""
    note |= {"cluster_id": str(state.lineage), "serial": state.serial, "host": state.host_uri}
    Journal.create(paths.journal, verb=verb, op_id=uuid4(), cluster="hpc", note=note).close_file()


def manager_of(roots: Roots, said: list[str] | None = None) -> HpcManager:
    return HpcManager(roots=roots, name="hpc", warn=(said if said is not None else []).append)


def test_destroy_leaves_a_directory_that_is_no_clusters(roots):
    foreign = roots.state / "hpc" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.parent.chmod(0o755)
    foreign.touch()
    assert HpcManager(roots=roots, name="hpc", connect=TEST_HOST).destroy().steps == ()
    assert foreign.exists()
    assert foreign.parent.stat().st_mode & 0o777 == 0o755


def test_a_first_start_that_was_cut_short_names_the_cluster_to_destroy(roots, state):
    leave_journal(make_directory(roots), state, "start")
    with pytest.raises(StateError, match="the first start of hpc was cut short") as refused:
        manager_of(roots).status()
    assert refused.value.hint.startswith("ai-how hpc destroy --cluster hpc  #")


def test_a_first_start_that_is_under_way_is_not_called_cut_short(roots, state):
    paths = make_directory(roots)
    leave_journal(paths, state, "start")
    with (
        held_lock(paths.lock, doing="hpc start"),
        pytest.raises(LockedError, match="hpc start is under way in process"),
    ):
        manager_of(roots).status()


def test_stop_undoes_a_first_start_that_was_cut_short_and_says_so(roots, state):
    paths, said = make_directory(roots), []
    leave_journal(paths, state, "start")
    assert manager_of(roots, said).stop().steps == ()
    assert len(said) == 1
    assert said[0].startswith("undoing the start that was cut short (process ")
    assert not paths.journal.exists()


@pytest.mark.parametrize("verb", ["stop", "destroy"])
def test_a_destroy_that_was_cut_short_leaves_no_secrets(roots, state, verb):
    paths = make_directory(roots)
    kept = write_state(paths, state)
    for directory in (paths.secrets, paths.ssh, paths.xml):
        directory.mkdir()
    for file in (paths.munge_key, paths.ssh_key):
        file.touch()
    leave_journal(paths, kept, "destroy", backups=None)
    manager = manager_of(roots)
    assert (manager.stop() if verb == "stop" else manager.destroy()).steps == ()
    left = [path.name for path in paths.root.iterdir()] if paths.root.exists() else []
    assert left == (["lock"] if verb == "stop" else [])


@pytest.mark.fault("S13", "umask 000 and 077")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_directory_for_backups_is_private_whatever_the_umask(tmp_path, state, umask):
    target = tmp_path / "kept"
    former = os.umask(umask)
    try:
        prepare_backups(target, plan_destroy(state, backups=target), kind="hpc")
    finally:
        os.umask(former)
    assert target.stat().st_mode & 0o777 == 0o700


def test_backups_into_a_file_are_refused_with_its_name(tmp_path, state):
    target = tmp_path / "kept"
    target.touch()
    with pytest.raises(HostError, match="kept: File exists"):
        prepare_backups(target, plan_destroy(state, backups=target), kind="hpc")


def test_bases_stay_while_another_cluster_is_being_made(roots, state):
    place = resolve_host(TEST_HOST, roots)
    base = place.storage.base("0" * 64)
    base.parent.mkdir(parents=True)
    base.touch()
    paths = make_directory(roots, "other")
    leave_journal(paths, state, "start")
    release_host(place, roots)
    assert base.exists()
    paths.journal.unlink()
    release_host(place, roots)
    assert not base.exists(), "bases are removed from hosts that are not embedded, too"


def test_what_a_failed_start_keeps_is_remembered_from_its_beginning(roots, state):
    paths = make_directory(roots)
    former = write_state(paths, state.model_copy(update={"config_digest": "former"}))
    asked = former.model_copy(update={"config_digest": "new"})
    # There is no such network to start, so this step fails.
    plan = Plan("start", (StartNetwork(state.network.name, state.network.uuid),))
    draft = replace(draft_of(read_hpc()), state=asked)
    start = PreparedStart(kind=SLURM, desired=draft, plan=plan, images={}, archives={})
    serials: dict[str, int] = {}

    def look(moment: str, _key: str) -> None:
        serials[moment] = read_state(paths).serial

    with LibvirtClient(TEST_HOST) as client:
        carrier = PlanRunner(
            roots=roots,
            paths=paths,
            kind=SLURM,
            place=resolve_host(TEST_HOST, roots),
            client=client,
            observer=Observer(),
            warn=lambda _line: None,
            timeouts=Timeouts(),
            on_boundary=look,
        )
        with pytest.raises(PlanFailedError):
            carrier.bring_up(start, carrier.journal(plan, asked), keep_on_failure=True)
    assert serials["before intent"] == former.serial + 1
    kept = read_state(paths)
    assert kept.config_digest == "former", "or nodes that run would never be told of the new one"
    assert not paths.journal.exists()
