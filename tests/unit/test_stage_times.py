"""How long each stage took is remembered of every node, whatever the cluster's partitions."""

from ai_how.clusters.observation import Observed
from ai_how.clusters.stage_times import StageTimes
from ai_how.hpc.plan import plan_start
from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, StoragePaths
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of

CHAIN = {"disk": 1.0, "domain": 1.0, "boot": 1.0, "agent": 1.0, "services": 1.0}
PARTITIONS = """slurm_config: {partitions: [{name: a, nodes: [compute-01]},
  {name: b, nodes: [compute-02]}]}"""


def remembered(tmp_path, *lines: str, ready_s: dict[str, float]) -> ClusterState:
    """The state of a start in which each step took a second, or as long as `ready_s` says."""
    draft, image = draft_of(read_hpc(*lines)), make_image(tmp_path / "image")
    paths = ClusterPaths(tmp_path / "hpc")
    inputs = rendering_of(draft, StoragePaths(tmp_path), paths, {DIGEST: image})
    times = StageTimes(Observer())
    for step in plan_start(draft, Observed(), inputs).steps:
        times.done(step, Applied.MADE, ready_s.get(step.key, 1.0))
    return times.remembered(draft.state)


def test_every_node_has_the_seconds_of_each_of_its_stages(tmp_path):
    state = remembered(tmp_path, ready_s={"ready/hpc": 2.5})
    assert [node.stages_s for node in state.nodes] == [{**CHAIN, "ready": 2.5}] * 3


def test_the_nodes_of_several_partitions_are_ready_when_the_last_of_these_is(tmp_path):
    state = remembered(tmp_path, PARTITIONS, ready_s={"ready/hpc/a": 3.0, "ready/hpc/b": 2.0})
    assert [node.stages_s for node in state.nodes] == [{**CHAIN, "ready": 3.0}] * 3
