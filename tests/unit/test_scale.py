"""What is thought about a cluster grows with its nodes, not their square: calls are counted."""

import cProfile
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.stage_times import StageTimes
from ai_how.clusters.status import status_of
from ai_how.console.live_nodes import LiveNodes
from ai_how.hpc.identities import build_identities, config_digest
from ai_how.hpc.kind import SLURM
from ai_how.hpc.plan import plan_start
from ai_how.hpc.stop_plan import plan_stop
from ai_how.hpc.workload import read_sinfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.records import encode_step
from ai_how.plan.start_limiter import StartLimiter
from ai_how.plan.step import Applied
from ai_how.spec.models import HpcSpec
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.networks.definition import define_network
from ai_how.vm_management.networks.drift import find_drift
from ai_how.vm_management.networks.subnets import choose_subnet
from cluster_bench import (
    CLUSTER_ID,
    DIGEST,
    TWO_NODES,
    draft_of,
    everything_seen,
    make_image,
    read_hpc,
    rendering_of,
)

SIZES = (16, 64, 256)
MOST = 1.25  # what is the same for every cluster makes it less than 1


def hpc_of(nodes: int) -> HpcSpec:
    return read_hpc(nodes=TWO_NODES.replace("count: 2", f"count: {nodes}"))


def draft_for(nodes: int) -> DesiredCluster:
    subnet = choose_subnet(None, [], CLUSTER_ID, node_count=nodes + 1)
    return draft_of(hpc_of(nodes), subnet=subnet, storage=Path("/nowhere"))


def calls_of(act: Callable[[], object]) -> int:
    """How many functions are called, those in C among them; the same in every run."""
    profile = cProfile.Profile()
    profile.enable()
    act()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("scale") / "image")


def works_of(draft: DesiredCluster, image) -> dict[str, Callable[[], object]]:
    """Everything that a verb thinks about a whole cluster, by its name."""
    state, paths = draft.state, ClusterPaths(Path("/nowhere/hpc"))
    rendering = rendering_of(draft, StoragePaths(Path("/nowhere")), paths, {DIGEST: image})
    on, off = everything_seen(draft), everything_seen(draft, VmState.SHUT_OFF)
    plan = plan_start(draft, Observed(), rendering, boot_limit=4)
    moved = draft_of(draft.section, subnet=IPv4Network("10.99.0.0/16"))  # every host is another

    def watch() -> None:
        seen = LiveNodes(
            "hpc", [one.name for one in state.nodes], awaiting={"ready"}, is_silent=True
        )
        times = StageTimes(seen)
        for step in plan.steps:
            times.begun(step)
            times.done(step, Applied.MADE, 1.0)
        times.remembered(state)

    def pass_the_gate() -> None:
        gate, waiting = StartLimiter(plan.limit), list(plan.steps)
        while waiting:
            waiting = gate.admit(waiting, is_idle=False)
            for step in waiting:
                gate.finished(step.key, has_failed=False)
            waiting = gate.admit([], is_idle=False) if waiting else []

    sinfo = "".join(f"{one.name}|idle|none\n" for one in state.nodes)
    return {
        "read": lambda: hpc_of(len(state.nodes)),
        "draft": lambda: draft_of(draft.section, state, subnet=state.network.subnet),
        "plan": lambda: plan_start(draft, Observed(), rendering, boot_limit=4),
        "plan of what is there": lambda: plan_start(draft, on, rendering, tell_all=True),
        "plan of what is off": lambda: plan_start(draft, off, rendering, boot_limit=4),
        "stop": lambda: plan_stop(state, on),
        "destroy": lambda: plan_destroy(state),
        "status": lambda: status_of(SLURM, state, replace(on, disks=frozenset()), {}, {}),
        "SLURM": lambda: read_sinfo(sinfo),
        "hosts that all differ": lambda: find_drift(define_network(moved.state), on.network),
        "identities": lambda: build_identities(draft, paths, has_host_clock=False),
        "digest": lambda: config_digest(draft),
        "journal": lambda: [encode_step(step) for step in plan.steps],
        "observers": watch,
        "gate": pass_the_gate,
    }


def test_no_thought_about_a_cluster_grows_faster_than_its_nodes(image):
    for work in works_of(draft_for(2), image).values():
        work()  # what is made once in a process is made now
    counts = {
        size: {name: calls_of(work) for name, work in works_of(draft_for(size), image).items()}
        for size in SIZES
    }
    grown = [
        f"{name}: {counts[small][name]} calls for {small} nodes, {counts[large][name]} for {large}"
        for small, large in pairwise(SIZES)
        for name in counts[small]
        if counts[large][name] > MOST * counts[small][name] * large / small
    ]
    assert not grown
