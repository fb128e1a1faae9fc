"""How long each stage of a node took, and how long it waited for others between them."""

from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter

import pytest

from ai_how.cli.cluster_view import stages_line
from ai_how.clusters.observation import Observed
from ai_how.clusters.stage_times import STAGES, StageTimes
from ai_how.clusters.status import status_of
from ai_how.hpc.kind import SLURM
from ai_how.hpc.plan import plan_start
from ai_how.plan.observer import Observer
from ai_how.plan.start_limiter import StartLimiter
from ai_how.plan.step import Applied, Plan, Step
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, StoragePaths
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of

CHAIN = {"disk": 1.0, "domain": 1.0, "boot": 1.0, "agent": 1.0, "services": 1.0}
PARTITIONS = """slurm_config: {partitions: [{name: a, nodes: [compute-01]},
  {name: b, nodes: [compute-02]}]}"""
FOUR = "compute_nodes: {count: 4, cpu_cores: 1, memory_gb: 1, disk_gb: 10}"
ONE_IS_OFF = """compute_nodes: [{cpu_cores: 1, memory_gb: 1, disk_gb: 10},
  {cpu_cores: 1, memory_gb: 1, disk_gb: 10, auto_start: false}]"""


def carried_out(plan: Plan, took_s: Callable[[Step], float]) -> Iterator[tuple[Step, float, float]]:
    """Each step, when it ends and how long it took, in order; as the executor does it, at once."""
    by_key = {step.key: step for step in plan.steps}
    order = TopologicalSorter({step.key: step.needs for step in plan.steps})
    limiter, now_s, running = StartLimiter(plan.limit), 0.0, dict[str, float]()
    order.prepare()
    while order.is_active():
        ready = [by_key[key] for key in order.get_ready()]
        for step in limiter.admit(ready, is_idle=not running and not ready):
            running[step.key] = now_s + took_s(step)
        key = min(running, key=running.__getitem__)
        now_s = running.pop(key)
        yield by_key[key], now_s, took_s(by_key[key])
        limiter.finished(key, has_failed=False)
        order.done(key)


def remembered(
    tmp_path, *lines: str, ready_s: dict[str, float], boot_limit: int | None = None, **nodes: str
) -> ClusterState:
    """The state of a start in which each step took a second, or as long as `ready_s` says."""
    draft, image = draft_of(read_hpc(*lines, **nodes)), make_image(tmp_path / "image")
    paths = ClusterPaths(tmp_path / "hpc")
    inputs = rendering_of(draft, StoragePaths(tmp_path), paths, {DIGEST: image})
    plan, at = plan_start(draft, Observed(), inputs, boot_limit=boot_limit), [0.0]
    times = StageTimes(Observer(), now=lambda: at[0])

    def took_s(step: Step) -> float:
        return ready_s.get(step.key, 1.0 if step.kind in STAGES else 0.0)

    for step, ended_at, elapsed_s in carried_out(plan, took_s):
        at[0] = ended_at
        times.done(step, Applied.MADE, elapsed_s)
    return times.remembered(draft.state)


def test_every_node_has_the_seconds_of_each_of_its_stages(tmp_path):
    state = remembered(tmp_path, ready_s={"ready/hpc": 2.5})
    expected = {**CHAIN, "queue": 0.0, "others": 0.0, "ready": 2.5}
    assert [node.stages_s for node in state.nodes] == [expected] * 3


def test_the_nodes_of_several_partitions_are_ready_when_the_last_of_these_is(tmp_path):
    state = remembered(tmp_path, PARTITIONS, ready_s={"ready/hpc/a": 3.0, "ready/hpc/b": 2.0})
    assert [node.stages_s["ready"] for node in state.nodes] == [3.0] * 3


def test_the_time_that_a_node_waits_for_its_turn_and_for_others_is_named(tmp_path):
    """Two at once of 1 + 4: the last one waits longest for its turn, the first one afterwards."""
    state = remembered(tmp_path, ready_s={"ready/hpc": 2.0}, boot_limit=2, nodes=FOUR)
    assert [node.stages_s["queue"] for node in state.nodes] == [0.0, 1.0, 3.0, 4.0, 6.0]
    assert [node.stages_s["others"] for node in state.nodes] == [6.0, 5.0, 3.0, 2.0, 0.0]


def test_the_stages_of_each_node_are_together_the_time_of_the_plan(tmp_path):
    state = remembered(
        tmp_path, ready_s={"ready/hpc": 2.0, f"base/{DIGEST[:12]}": 4.0}, boot_limit=2, nodes=FOUR
    )
    (total,) = {sum(node.stages_s.values()) for node in state.nodes}
    assert total == pytest.approx(4 + 11 + 2)


def test_the_stages_are_in_the_order_in_which_a_node_passes_them(tmp_path):
    state = remembered(tmp_path, ready_s={})
    for node in state.nodes:
        assert list(node.stages_s) == [name for name in STAGES if name in node.stages_s]


def test_a_node_that_stays_off_waits_for_nobody(tmp_path):
    state = remembered(tmp_path, ready_s={}, nodes=ONE_IS_OFF)
    assert state.get_node("compute-02").stages_s == {"disk": 1.0, "domain": 1.0}


def test_what_a_node_waited_for_is_said_in_words(tmp_path):
    state = remembered(tmp_path, ready_s={}, boot_limit=2, nodes=FOUR)
    seen = status_of(SLURM, state, Observed(), {}, {})
    assert stages_line(seen.nodes[-1]) == (
        "disk 1.0 s, domain 1.0 s, waiting for its turn 6.0 s, boot 1.0 s, agent 1.0 s, "
        "services 1.0 s, waiting for other nodes 0.0 s, ready 1.0 s"
    )
