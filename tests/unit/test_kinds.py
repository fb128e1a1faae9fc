"""What depends on the kind of a cluster: the verbs in hints, its images, when it is ready."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from ai_how.clusters.cleanup import check_backups
from ai_how.clusters.manager import ClusterManager
from ai_how.clusters.observation import Observed, Wiring
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.clusters.status import status_of
from ai_how.errors import HostError, SpecError, StateError
from ai_how.hpc.kind import SLURM
from ai_how.images.manifest import Image
from ai_how.plan.journal import Journal
from ai_how.state.paths import Roots, default_roots, ensure_private_directory
from ai_how.vm_management.nodes.share_faults import ShareFault
from bare_kind import BARE
from cluster_bench import draft_of, everything_seen, make_image, read_hpc

TEST_HOST = f"test://{Path(__file__).resolve().parents[1] / 'driver' / 'test_node.xml'}"
INPUTS = PlanInputs(
    network_xml=lambda: "<network/>",
    domain_xml=lambda node, _one: f"<domain>{node.name}</domain>",
    base_of=lambda digest: Path(f"/srv/ai-how/bases/{digest}.qcow2"),
)


def bare(desired):
    return replace(desired, state=desired.state.model_copy(update={"kind": "bare"}))


CLUSTER = bare(draft_of(read_hpc()))


@pytest.fixture
def manager(tmp_path, monkeypatch) -> ClusterManager:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    roots: Roots = default_roots(tmp_path / "state")
    ensure_private_directory(roots.state)
    ensure_private_directory(roots.cluster("hpc").root)
    return ClusterManager(kind=BARE, roots=roots, name="hpc", connect=TEST_HOST)


def plan(desired, seen: Observed) -> None:
    BARE.plan_start(desired, seen, INPUTS, only=(), tell_all=False, stale=(), boot_limit=None)


def test_a_manager_says_how_a_cluster_of_its_kind_is_started(manager):
    with pytest.raises(StateError, match="there is no cluster hpc") as refused:
        manager.status()
    assert refused.value.hint == "ai-how bare start"


def test_a_manager_says_how_a_first_start_of_its_kind_is_removed(manager):
    note = {"kind": "bare", "cluster_id": str(uuid4()), "serial": 0, "host": TEST_HOST}
    journal = manager.paths.journal
    Journal.create(journal, verb="start", op_id=uuid4(), cluster="hpc", note=note).close_file()
    with pytest.raises(StateError, match="cut short") as refused:
        manager.status()
    assert refused.value.hint.startswith("ai-how bare destroy --cluster hpc")


def test_what_cannot_be_changed_names_the_verbs_of_the_kind():
    changed = bare(draft_of(read_hpc(memory_gb=2), CLUSTER.state))
    with pytest.raises(SpecError) as refused:
        plan(changed, everything_seen(changed))
    assert refused.value.hint == "ai-how bare stop controller && ai-how bare start controller"
    with pytest.raises(SpecError) as refused:
        draft_of(read_hpc("network: {subnet: 10.9.0.0/24}"), CLUSTER.state)
    assert refused.value.hint == "ai-how bare destroy  # then start it again, or set subnet back"


def test_what_is_found_of_a_cluster_names_the_verbs_of_its_kind():
    seen = everything_seen(CLUSTER)
    saved = replace(next(iter(seen.domains.values())), has_managed_save=True)
    with pytest.raises(HostError) as refused:
        check_backups(CLUSTER.state, replace(seen, domains={saved.uuid: saved}))
    assert refused.value.hint.startswith("ai-how bare start ")
    wiring = Wiring(bridge_trouble="it is gone", dead_taps={"compute-01": "t"})
    seen = replace(seen, wiring=wiring, readiness=None)
    status = status_of(BARE, CLUSTER.state, seen, {}, {})
    assert status.network_problems[0].endswith("ai-how bare start")
    [problem] = status.nodes[1].problems[-1:]
    assert problem.endswith("ai-how bare stop compute-01 && ai-how bare start compute-01")
    faults = tuple(ShareFault("/srv/a", is_there=is_there) for is_there in (True, False))
    seen = replace(seen, wiring=None, share_faults={"compute-01": faults})
    status = status_of(BARE, CLUSTER.state, seen, {}, {})
    assert status.nodes[1].problems[-2:] == (
        (
            "the server of its share /srv/a has ended; to mount it again: "
            "ai-how bare stop compute-01 && ai-how bare start compute-01"
        ),
        "its share /srv/a was removed on this host",
    )


def test_a_kind_says_which_images_its_nodes_boot(tmp_path):
    ours = make_image(tmp_path / "image")
    manifest = ours.manifest.model_copy(update={"identity": "nocloud", "name": "foreign"})
    foreign = Image(ours.directory, manifest)
    SLURM.check_image(ours)
    for image in (ours, foreign):
        BARE.check_image(image)
    with pytest.raises(
        HostError, match="the image foreign cannot be used for the nodes"
    ) as refused:
        SLURM.check_image(foreign)
    assert refused.value.hint == "remove base_image_path to use the built-in image"


def test_a_kind_says_when_its_cluster_is_ready():
    """SLURM says nothing of its controller."""
    seen = everything_seen(CLUSTER)
    assert status_of(SLURM, CLUSTER.state, seen, {}, {}).is_ready
    closed = {"compute-01": replace(seen.readiness["compute-01"], is_working=False)}
    less = replace(seen, readiness=seen.readiness | closed)
    assert not status_of(SLURM, CLUSTER.state, less, {}, {}).is_ready
    nodes = [one.model_copy(update={"auto_start": False}) for one in CLUSTER.state.nodes]
    off = CLUSTER.state.model_copy(update={"nodes": tuple(nodes)})
    assert status_of(SLURM, off, less, {}, {}).is_ready
    assert not status_of(SLURM, CLUSTER.state, Observed(), {}, {}).is_ready
