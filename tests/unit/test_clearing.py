"""What destroy may take away, and what it may not."""

from dataclasses import replace
from uuid import UUID

import pytest

from ai_how.clusters.cleanup import drop_backups, forget, prepare_backups
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.errors import HostError, SpecError, StateError
from ai_how.hpc.manager import HpcManager
from ai_how.plan.journal import Journal
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import default_roots
from cluster_bench import draft_of, read_hpc

STATE = draft_of(read_hpc()).state


@pytest.fixture
def roots(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return default_roots(tmp_path / "state")


@pytest.mark.fault("S02", "paths for names of clusters")
@pytest.mark.parametrize("name", ["/etc", "..", ".", ".embedded", "a/b", "", "A", "x" * 41, "-a"])
def test_a_path_is_no_cluster(roots, name):
    with pytest.raises(SpecError, match="is not a valid name of a cluster"):
        roots.cluster(name)
    with pytest.raises(SpecError, match="is not a valid name of a cluster"):
        HpcManager(roots=roots, name=name).destroy()


def test_a_cluster_is_looked_for_only_where_it_is(roots):
    paths = roots.cluster("hpc")
    paths.root.mkdir(parents=True)
    write_state(paths, STATE.model_copy(update={"host_uri": "embedded", "name": "hpc"}))
    with pytest.raises(HostError, match="the cluster hpc is on embedded, not on qemu:///system"):
        HpcManager(roots=roots, name="hpc", connect="qemu:///system").destroy()
    assert HpcManager(roots=roots, name="hpc", connect="auto").place().kind == "embedded"


def test_a_backup_replaces_nothing_and_leaves_its_directory_as_it_is(tmp_path):
    target = tmp_path / "kept"
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    plan = plan_destroy(STATE, backups=target)
    prepare_backups(target, plan, kind="hpc")
    assert target.stat().st_mode & 0o777 == 0o755
    [first, *_] = [step for step in plan.steps if step.kind == "backup"]
    assert first.target.name == f"{first.domain}-{STATE.lineage.hex[:8]}.qcow2"
    first.target.touch()
    with pytest.raises(HostError, match="already exists, and a backup overwrites nothing"):
        prepare_backups(target, plan, kind="hpc")


def test_a_backup_of_a_disk_that_is_gone_outlives_a_destroy_that_failed(tmp_path):
    plan = plan_destroy(STATE, backups=tmp_path)
    steps = [
        replace(step, disk=tmp_path / f"{step.domain}-disk")
        for step in plan.steps
        if step.kind == "backup"
    ]
    gone, made, missing = steps
    for file in (gone.target, made.disk, made.target, missing.disk):
        file.touch()
    drop_backups(replace(plan, steps=tuple(steps)))
    assert gone.target.exists()
    assert not made.target.exists()


def test_a_first_start_that_was_cut_short_is_no_missing_cluster(roots):
    paths = roots.cluster("hpc")
    paths.root.mkdir(parents=True)
    note = {"cluster_id": str(UUID(int=1)), "serial": 0, "host": "embedded"}
    Journal.create(
        paths.journal, verb="start", op_id=UUID(int=2), cluster="hpc", note=note
    ).close_file()
    with pytest.raises(StateError, match="the first start of hpc was cut short") as refused:
        HpcManager(roots=roots, name="hpc").status()
    assert refused.value.hint.startswith("ai-how hpc destroy")


def test_what_a_failed_start_leaves_is_its_evidence(roots):
    paths = roots.cluster("hpc")
    for directory in (paths.secrets, paths.evidence):
        directory.mkdir(parents=True)
    for file in (paths.lock, paths.munge_key, paths.evidence / "errors.txt"):
        file.touch()
    forget(paths)
    assert sorted(str(p.relative_to(paths.root)) for p in paths.root.rglob("*")) == [
        "evidence",
        "evidence/errors.txt",
        "lock",
    ]
