"""The plans of a Kubernetes cluster: what a start, a stop and a suspend do, in which order."""

import json
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ai_how.cloud import steps as cloud_steps
from ai_how.cloud.identities import CloudObjects, facts_of, pod_subnet_of
from ai_how.cloud.kind import KUBERNETES
from ai_how.cloud.plan import STEP_TYPES, plan_start
from ai_how.cloud.stop_plan import plan_stop
from ai_how.cloud.version_checks import check_versions
from ai_how.cloud.workload import read_nodes
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.clusters.plans.suspend import plan_suspend
from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.records import decode_step, encode_step
from ai_how.vm_management.steps.guest import GiveIdentity
from cloud_bench import cloud_draft, cloud_seen, image_of, read_cloud

INPUTS = PlanInputs(
    network_xml=lambda: "<network/>",
    domain_xml=lambda node, _one: f"<domain>{node.name}</domain>",
    base_of=lambda digest: Path(f"/srv/ai-how/bases/{digest}.qcow2"),
)
DRAFT = cloud_draft(read_cloud())
THREE = cloud_draft(
    read_cloud(plane="control_plane: {count: 3, cpu_cores: 2, memory_gb: 2, disk_gb: 10}")
)


def planned(draft, seen, **how):
    return plan_start(draft, seen, INPUTS, CloudObjects(facts_of(draft)), **how)


def nothing_there(draft):
    return replace(cloud_seen(draft, VmState.ABSENT), domains={}, network=None, disks=frozenset())


def test_a_new_cluster_waits_for_the_api_then_for_nodes_and_a_pod_on_each():
    plan = planned(DRAFT, nothing_there(DRAFT))
    keys = [step.key for step in plan.steps]
    assert keys[-5:] == [
        "services/sky-worker-02",
        "clocks/sky",
        "api/sky-control-plane-01",
        "manifests/sky",
        "ready/sky",
    ]
    by_key = {step.key: step for step in plan.steps}
    assert by_key["api/sky-control-plane-01"].needs == {"services/sky-control-plane-01"}
    assert by_key["ready/sky"].needs == {"clocks/sky", "manifests/sky"}
    ready = by_key["ready/sky"]
    assert ready.nodes == ("control-plane-01", "worker-01", "worker-02")
    assert ready.pods == ("on-control-plane-01", "on-worker-01", "on-worker-02")
    kinds = [one["kind"] for one in json.loads(ready.objects)]
    assert kinds == ["Namespace", "ServiceAccount", *["Service"] * 3, *["Pod"] * 3]
    labels = json.loads(ready.labels)
    assert "node-role.kubernetes.io/worker" in labels["worker-01"]


def test_every_step_is_read_from_a_journal_as_it_was():
    seen = cloud_seen(DRAFT)
    plans = [
        planned(DRAFT, nothing_there(DRAFT)),
        planned(THREE, nothing_there(THREE)),
        plan_stop(DRAFT.state, seen, only=["worker-01"]),
        plan_suspend(DRAFT.state, seen),
    ]
    for step in (step for plan in plans for step in plan.steps):
        assert decode_step(encode_step(step), STEP_TYPES) == step
    assert {"clock", "api", "manifests", "ready", "drain"} <= set(STEP_TYPES)


def test_a_cluster_that_is_up_needs_nothing():
    assert planned(DRAFT, cloud_seen(DRAFT)).steps == ()


def test_a_node_that_is_not_ready_gets_its_identity_again_and_is_waited_for():
    plan = planned(DRAFT, cloud_seen(DRAFT, worker_01="KubeletNotReady"))
    identities = [step for step in plan.steps if isinstance(step, GiveIdentity)]
    assert [step.node for step in identities] == ["worker-01"]
    [ready] = [step for step in plan.steps if isinstance(step, cloud_steps.AwaitReady)]
    assert ready.nodes == ("worker-01",)


def test_each_of_three_control_planes_is_waited_for():
    plan = planned(THREE, nothing_there(THREE))
    apis = {step.node for step in plan.steps if isinstance(step, cloud_steps.AwaitApi)}
    assert apis == {f"control-plane-0{number}" for number in (1, 2, 3)}
    [manifests] = [one for one in plan.steps if isinstance(one, cloud_steps.ApplyManifests)]
    assert manifests.needs == {f"api/sky-{name}" for name in apis}


def test_a_stop_ends_workers_first_and_moves_no_pods():
    plan = plan_stop(DRAFT.state, cloud_seen(DRAFT))
    *workers, plane = plan.steps
    assert [step.key for step in workers] == ["off/sky-worker-01", "off/sky-worker-02"]
    assert plane.key == "off/sky-control-plane-01"
    assert plane.needs == {step.key for step in workers}


def test_a_worker_that_stops_alone_is_drained_first():
    drain, stop = plan_stop(DRAFT.state, cloud_seen(DRAFT), only=["worker-02"]).steps
    assert isinstance(drain, cloud_steps.DrainNodes)
    assert (drain.node, drain.nodes) == ("control-plane-01", ("worker-02",))
    assert stop.needs == {drain.key}


def test_memory_is_saved_of_workers_first():
    *workers, plane = plan_suspend(DRAFT.state, cloud_seen(DRAFT)).steps
    assert plane.domain == "sky-control-plane-01"
    assert plane.needs == {step.key for step in workers}


def test_each_node_has_pod_addresses_of_its_own_that_follow_its_address():
    subnets = {one.name: one.pod_subnet for one in facts_of(DRAFT).nodes}
    assert subnets["control-plane-01"] == IPv4Network("10.244.10.0/24")
    assert subnets["worker-02"] == IPv4Network("10.244.12.0/24")
    small = IPv4Network("10.244.0.0/22")
    with pytest.raises(SpecError, match="has no /24 for worker-02"):
        pod_subnet_of(DRAFT.state.get_node("worker-02"), DRAFT.state.network.subnet, small)


def test_the_digest_follows_what_nodes_are_told():
    digest = KUBERNETES.config_digest(DRAFT)
    assert KUBERNETES.config_digest(DRAFT) == digest
    other = cloud_draft(read_cloud("kubernetes_config: {audit: true}"))
    more = cloud_draft(
        read_cloud(workers="worker_nodes: {count: 3, cpu_cores: 1, memory_gb: 1, disk_gb: 10}")
    )
    assert len({digest, KUBERNETES.config_digest(other), KUBERNETES.config_digest(more)}) == 3


def test_versions_that_no_test_ran_are_said_and_unknown_ones_refused():
    assert check_versions(DRAFT) == ()
    [said] = check_versions(cloud_draft(read_cloud(), version="1.34.2"))
    assert "Kubernetes 1.34.2 was not run in the tests of ai-how" in said
    with pytest.raises(HostError, match=r"1\.99\.0 is not known"):
        check_versions(cloud_draft(read_cloud(), version="1.99.0"))


def test_an_image_without_kubernetes_is_refused():
    image = image_of()
    with pytest.raises(HostError, match="cannot be used for the nodes of a Kubernetes cluster"):
        KUBERNETES.check_image(
            replace(image, manifest=image.manifest.model_copy(update={"kubernetes_version": None}))
        )
    KUBERNETES.check_image(image)


def test_what_a_guest_says_of_nodes_is_read_with_care():
    nodes = read_nodes(
        [
            {"name": "a", "ready": "True"},
            {"name": "b", "ready": "False", "reason": "KubeletNotReady", "message": "cni\x1b[31m"},
            {"name": "c", "ready": "True", "closed": True},
            {"name": "d", "ready": "True", "closed": True, "ours": True, "pressure": ["Disk"]},
            {"name": 7, "ready": "True"},
            "noise",
        ]
    )
    assert [one.state for one in nodes.values()] == [
        "Ready",
        "NotReady",
        "Ready,SchedulingDisabled",
        "Ready,Disk,SchedulingDisabled",
    ]
    assert nodes["b"].reason == "KubeletNotReady: cni[31m" or "cni" in (nodes["b"].reason or "")
    assert "\x1b" not in (nodes["b"].reason or "")
    assert [one.is_working for one in nodes.values()] == [True, False, False, False]
    assert (nodes["c"].is_drained, nodes["d"].is_closed_by_us) == (True, True)
    assert read_nodes("noise") == {}
