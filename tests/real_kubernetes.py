"""A real Kubernetes cluster by the program that users run, from what build-kubernetes.sh made."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ai_how.process import Completed, run
from ai_how.state.paths import ClusterPaths
from real_cluster import START_S, Cluster

BUILT = Path("~/.cache/ai-how-tests/kubernetes/current/kubernetes/server/bin").expanduser()
BUNDLE = BUILT.parents[2]
VERSION = "1.20.2"
IMAGE = "localhost/ai-how/busybox:1"
PLANE, WORKER = "control-plane-01", "worker-01"
# Two emulated processors beside two other parts of the suite: five minutes were not enough.
SETTLED_S = 900.0
# Of kubectl, where an API server, its etcd or a kubelet has no processor for a minute.
BUSY = re.compile(
    r"\(Timeout\)|Client\.Timeout|request timed out|handshake timeout|deadline exceeded|timed out$",
    re.MULTILINE,
)


def require_bundle() -> None:
    """Leave a test out, with one line that says why, where Kubernetes was not built."""
    if not (BUILT / "kubelet").is_file():
        pytest.skip("Kubernetes is not built here: tests/data/build-kubernetes.sh builds it")


def bundle_with_manifest(directory: Path) -> Path:
    """The same bundle with a manifest of its own, which makes a ConfigMap."""
    bundle = directory / "bundle"
    run(["cp", "-al", BUNDLE.resolve(), bundle])
    manifests = bundle / "kubernetes" / "manifests"
    manifests.mkdir()
    # What begins with a brace is JSON for kubectl.
    thing = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: of-bundle}\ndata: {a: b}\n"
    (manifests / "of-bundle.yaml").write_text(thing)
    return bundle


def file_of(bundle: Path = BUNDLE, *, planes: int = 1, workers: int = 1, more: str = "") -> str:
    """A cluster file with a Kubernetes cluster whose nodes are as small as they can be."""
    return f"""\
version: "1.0"
host: {{uri: embedded}}
clusters:
  cloud:
    name: sky
    control_plane: {{count: {planes}, cpu_cores: 2, memory_gb: 1.5, disk_gb: 10}}
    worker_nodes: {{count: {workers}, cpu_cores: 2, memory_gb: 1, disk_gb: 10}}
    kubernetes_config: {{bundle: {bundle}}}
{more}"""


class KubernetesCluster(Cluster):
    """The program with a Kubernetes cluster."""

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster("sky")

    def start(self, *words: str) -> list[str]:
        """Start, and give the keys of the steps that it took."""
        done = json.loads(self.call("cloud", "start", "--json", *words, timeout_s=START_S))
        return [step["key"] for step in done["steps"]]

    def status(self) -> dict[str, Any]:
        return json.loads(self.call("cloud", "status", "--json"))

    def ssh(self, node: str, command: str, stdin: str = "") -> str:
        return self.call("cloud", "ssh", node, "--", command, stdin=stdin)

    def execute(self, node: str, command: str) -> str:
        return self.call("cloud", "exec", node, "--", "sh", "-c", command)

    def try_kubectl(self, *words: str, stdin: str = "", timeout_s: float = 300) -> Completed:
        return self.try_call("cloud", "kubectl", "--", *words, stdin=stdin, timeout_s=timeout_s)

    def kubectl(self, *words: str, stdin: str = "", timeout_s: float = 300) -> str:
        """What kubectl prints; asked again while the API is too busy to answer."""
        end = time.monotonic() + SETTLED_S
        while True:
            done = self.try_kubectl(*words, stdin=stdin, timeout_s=timeout_s)
            if not BUSY.search(done.stderr) or time.monotonic() > end:
                break
            time.sleep(2)
        assert done.returncode == 0, f"kubectl {words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def objects(self, *words: str) -> list[dict[str, Any]]:
        """What `kubectl get` finds."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))["items"]

    def apply(self, *things: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(things)})
        self.kubectl("apply", "-f", "-", stdin=text)

    def await_(self, holds: Any, what: str, within_s: float = SETTLED_S) -> Any:
        """The first answer that is true; raises AssertionError after that."""
        end = time.monotonic() + within_s
        while not (found := holds()):
            assert time.monotonic() < end, f"waited for {what}"
            time.sleep(2)
        return found


def are_ready(sky: KubernetesCluster, *names: str) -> bool:
    """Whether these Pods are."""
    seen = {one["metadata"]["name"]: one for one in sky.objects("pods")}
    return all(
        any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in seen.get(name, {}).get("status", {}).get("conditions", [])
        )
        for name in names
    )


def web(name: str, node: str, **labels: str) -> dict[str, Any]:
    """A Pod on a node that serves its own name."""
    script = f"mkdir -p /tmp/www; echo {name} > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, **labels}},
        "spec": {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "web",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/busybox", "sh", "-c", script],
                }
            ],
        },
    }


def deployment(name: str, command: list[str]) -> dict[str, Any]:
    """One Pod that runs a command, wherever it is put."""
    labels = {"app": name}
    box = {
        "name": "box",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
    }
    spec = {"terminationGracePeriodSeconds": 1, "containers": [box]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service(name: str, **more: Any) -> dict[str, Any]:
    """The Service of the Pods of that name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}], **more},
    }
