"""A real Kubernetes on real nodes: what runs on it, and what stop, suspend and start leave."""

import json

import pytest

from real_cluster import START_S
from real_kubernetes import PLANE, VERSION, WORKER, KubernetesCluster, are_ready, deployment, web

pytestmark = pytest.mark.slurm


def restarts(sky: KubernetesCluster) -> dict[str, int]:
    return {
        one["metadata"]["name"]: one["status"]["containerStatuses"][0]["restartCount"]
        for one in sky.objects("pods")
    }


def fetch(sky: KubernetesCluster, pod: str, address: str) -> str:
    """What a Pod gets from an address."""
    wget = ("timeout", "120", "/bin/busybox", "wget", "-qO-", f"http://{address}/")
    return sky.kubectl("exec", pod, "--", *wget).strip()


def test_a_start_ends_when_a_pod_has_run_on_each_node(sky: KubernetesCluster) -> None:
    # A busy host makes a node late, and for that minute the API calls it NotReady.
    sky.await_(lambda: sky.status()["is_ready"], "nodes that are Ready")
    told = sky.status()
    assert [(one["name"], one["role"]) for one in told["nodes"]] == [
        (PLANE, "controller"),
        (WORKER, "compute"),
    ]
    nodes = {one["metadata"]["name"]: one for one in sky.objects("nodes")}
    assert set(nodes) == {PLANE, WORKER}
    for one in nodes.values():
        [ready] = [each for each in one["status"]["conditions"] if each["type"] == "Ready"]
        assert ready["status"] == "True"
        assert one["status"]["nodeInfo"]["kubeletVersion"] == f"v{VERSION}"
    assert "node-role.kubernetes.io/worker" in nodes[WORKER]["metadata"]["labels"]
    assert [one["key"] for one in nodes[PLANE]["spec"]["taints"]] == [
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/master",
    ]
    sky.await_(
        lambda: "ai-how-check" not in [one["metadata"]["name"] for one in sky.objects("ns")],
        "the end of the check's namespace",
    )
    [of_bundle] = [one for one in sky.objects("cm") if one["metadata"]["name"] == "of-bundle"]
    assert of_bundle["data"] == {"a": "b"}
    assert sky.start() == [], "a cluster that is up needs nothing"


def test_pods_reach_services_of_other_nodes_and_are_looked_into(
    sky: KubernetesCluster, pods: dict[str, str]
) -> None:
    assert fetch(sky, "on-worker", pods["on-plane"]) == "on-plane"
    assert fetch(sky, "on-plane", pods["on-worker"]) == "on-worker"
    assert fetch(sky, "on-worker", pods["on-worker"]) == "on-worker", "by its own Service"
    for name in ("on-plane", "on-plane.default.svc.cluster.local"):
        assert fetch(sky, "on-worker", name) == "on-plane", "by its name"
    told = sky.execute(PLANE, "systemctl show -p User -p NRestarts kube-dns kube-names")
    assert told.count("User=dnsmasq") == 2
    node = sky.objects("nodes", "-l", "node-role.kubernetes.io/worker")[0]
    assert node["metadata"]["name"] == WORKER
    done = sky.try_kubectl("exec", "on-worker", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, "err" in done.stderr) == (3, "out\n", True)
    assert sky.kubectl("exec", "-i", "on-worker", "--", "cat", stdin="typed") == "typed"
    assert sky.kubectl("logs", "on-worker") == ""


def test_pods_go_on_after_a_suspend_as_if_nothing_had_been(
    sky: KubernetesCluster, pods: dict[str, str]
) -> None:
    before = restarts(sky)
    sky.call("cloud", "stop", "--suspend", timeout_s=300)
    assert {one["state"] for one in sky.status()["nodes"]} == {"shut_off"}
    keys = sky.start()
    assert "resume/sky-worker-01" in keys
    sky.await_(lambda: sky.status()["is_ready"], "nodes that are Ready")
    assert restarts(sky) == before
    assert fetch(sky, "on-worker", pods["on-plane"]) == "on-plane"


@pytest.mark.long
def test_a_worker_that_stops_is_drained_and_takes_pods_again(sky: KubernetesCluster) -> None:
    sky.apply(deployment("moves", ["/bin/busybox", "sleep", "100000"]))

    def running_on() -> list[str | None]:
        found = sky.objects("pods", "-l", "app=moves")
        return [one["spec"].get("nodeName") for one in found if one["status"]["phase"] == "Running"]

    try:
        sky.await_(lambda: running_on() == [WORKER], "the Pod")
        told = json.loads(sky.call("cloud", "stop", WORKER, "--json", timeout_s=600))
        assert told["stopped"] == ["drain/sky", "off/sky-worker-01"]
        assert running_on() == []
        assert sky.call("cloud", "start", WORKER, timeout_s=START_S)
        sky.await_(lambda: running_on() == [WORKER], "the Pod where it was")
        assert sky.status()["is_ready"] is True
    finally:
        sky.kubectl("delete", "deployment", "moves", "--ignore-not-found")


@pytest.mark.long
def test_a_cluster_that_was_off_has_what_it_had(
    sky: KubernetesCluster, pods: dict[str, str]
) -> None:
    sky.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    sky.call("cloud", "stop", timeout_s=600)
    sky.start()
    [kept] = [one for one in sky.objects("cm") if one["metadata"]["name"] == "kept"]
    assert kept["data"] == {"a": "b"}
    sky.kubectl("delete", "configmap", "kept")
    sky.await_(lambda: are_ready(sky, "on-plane", "on-worker"), "the Pods where they were")
    assert fetch(sky, "on-worker", pods["on-plane"]) == "on-plane"


@pytest.mark.long
def test_new_certificates_reach_all_nodes(sky: KubernetesCluster) -> None:

    def serials() -> set[str]:
        words = "openssl x509 -noout -serial -in /etc/kubernetes/pki"
        of_api = sky.execute(PLANE, f"{words}/apiserver.crt")
        return {of_api, sky.execute(WORKER, f"{words}/kubelet-client.crt")}

    before = serials()
    sky.call("cloud", "start", "--rotate-certs", timeout_s=START_S)
    assert not before & serials()
    assert sky.status()["is_ready"] is True
    assert sky.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.long
def test_a_claim_has_a_volume_that_any_user_writes_to_and_that_is_freed(
    sky: KubernetesCluster,
) -> None:
    writer = web("writer", WORKER)
    del writer["spec"]["nodeName"]
    writer["spec"]["securityContext"] = {"runAsUser": 1234, "fsGroup": 4321}
    writer["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    writer["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }

    def not_available() -> list[tuple[str, str]]:
        seen = [(one["metadata"]["name"], one["status"]["phase"]) for one in sky.objects("pv")]
        return [one for one in seen if one[1] != "Available"]

    try:
        sky.apply(claim, writer)
        sky.await_(lambda: are_ready(sky, "writer"), "the Pod")
        sky.kubectl("exec", "writer", "--", "sh", "-c", "id > /data/id")
        [(volume, phase)] = not_available()
        assert phase == "Bound"
        place = f"/var/lib/ai-how/volumes/{volume.rpartition('-')[2]}"
        assert "uid=1234" in sky.execute(WORKER, f"cat {place}/id")
    finally:
        sky.kubectl("delete", "--ignore-not-found", "pod/writer", "pvc/data")
    sky.await_(lambda: not_available() == [(volume, "Released")], "the end of the claim")
    assert sky.execute(WORKER, f"ls {place}") == "id\n", "files stay until they are freed"
    freed = sky.call(
        "cloud", "exec", PLANE, "--", "/usr/lib/ai-how/kube", "free", timeout_s=START_S
    )
    assert json.loads(freed) == [volume]
    assert not_available() == []
    assert sky.execute(WORKER, f"ls {place}") == ""
