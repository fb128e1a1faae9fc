"""What a start needs before it, and what it leaves to a process of its own."""

import shlex
import sys
from pathlib import Path

import pytest

from ai_how.clusters.images import find_missing_images
from ai_how.clusters.observation import Observed
from ai_how.hpc.kind import SLURM
from ai_how.hpc.manager import HpcManager
from ai_how.hpc.plan import plan_start
from ai_how.plan.step import Plan
from ai_how.spec.models import ClusterFile
from ai_how.spec.reader import read_spec_text
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import Roots, StoragePaths, default_roots, ensure_private_directory
from ai_how.waiting import Deadline, wait_until
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of

DRAFT = draft_of(read_hpc())


@pytest.fixture
def roots(tmp_path, monkeypatch) -> Roots:
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return default_roots()


def spec_of(*lines: str) -> ClusterFile:
    """A file whose `clusters.hpc` has these lines besides its nodes."""
    node = "{cpu_cores: 1, memory_gb: 1, disk_gb: 10}"
    named = ("name: hpc", f"controller: {node}", f"compute_nodes: [{node}]", *lines)
    body = "".join(f"    {line}\n" for line in named)
    spec, problems = read_spec_text(f'version: "1.0"\nclusters:\n  hpc:\n{body}', "test.yaml", {})
    assert spec is not None, problems
    return spec


def remember(roots: Roots, host_uri: str) -> None:
    """The state of a cluster that is there."""
    ensure_private_directory(roots.cluster("hpc").root)
    write_state(roots.cluster("hpc"), DRAFT.state.model_copy(update={"host_uri": host_uri}))


def test_the_default_image_is_needed_by_a_first_start_whose_nodes_boot_it(roots):
    def missing(*lines: str) -> tuple[str, ...]:
        state = HpcManager(roots=roots, name="hpc").find_state()
        return find_missing_images(SLURM, spec_of(*lines), state, roots)

    assert missing() == ("default",)
    assert missing("base_image_path: default") == ("default",)
    assert missing("base_image_path: tiny") == ()
    remember(roots, "embedded")
    assert missing() == ()


@pytest.fixture
def cold(tmp_path, roots) -> Plan:
    """The plan of a start that found no saved machine."""
    images = {DIGEST: make_image(tmp_path / "image")}
    paths = roots.cluster("hpc")
    rendering = rendering_of(DRAFT, StoragePaths(tmp_path / "storage"), paths, images)
    return plan_start(DRAFT, Observed(), rendering)


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """Stands for Python: says what it was to run."""
    script = tmp_path / "program"
    script.write_text('#!/bin/sh\necho "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


@pytest.mark.usefixtures("program")
def test_machines_are_saved_by_a_process_of_its_own_for_the_same_file(roots, cold):
    remember(roots, "embedded")
    manager = HpcManager(roots=roots, name="hpc", connect="embedded")
    manager.save_for_next_start(spec_of(), cold, source=Path("/srv/my.yaml"))
    said = wait_until(lambda: roots.warm_log.read_text() or None, Deadline.after(20), "the program")
    assert shlex.split(said) == [
        *("-m", "ai_how", "--state-dir", str(roots.state)),
        *("--connect", "embedded", "--config", "/srv/my.yaml", "image", "warm"),
    ]


@pytest.mark.usefixtures("program")
def test_nothing_is_saved_that_is_not_wanted_or_of_no_use(roots, cold):
    remember(roots, "embedded")
    manager = HpcManager(roots=roots, name="hpc")
    manager.save_for_next_start(spec_of("start: {warm: false}"), cold, source=None)
    manager.save_for_next_start(spec_of(), Plan("start", ()), source=None)
    assert not roots.warm_log.exists()


@pytest.mark.usefixtures("program")
def test_nothing_is_saved_on_a_host_that_saves_no_memory(roots, cold):
    remember(roots, "test:///default")
    HpcManager(roots=roots, name="hpc").save_for_next_start(spec_of(), cold, source=None)
    assert not roots.warm_log.exists()
