"""by_kubernetes.py KUBECONFIG: a Deployment by the client of PyPI's `kubernetes`."""

import json
import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

NAME = "by-kubernetes"
BOX = {
    "name": "box",
    "image": "localhost/ai-how/busybox:1",
    "command": ["/bin/busybox", "sh", "-c", "echo begun; sleep 100000"],
}
SPEC = {
    "replicas": 1,
    "selector": {"matchLabels": {"app": NAME}},
    "template": {
        "metadata": {"labels": {"app": NAME}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [BOX]},
    },
}

config.load_kube_config(sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()
apps.create_namespaced_deployment("default", {"metadata": {"name": NAME}, "spec": SPEC})
try:
    changes = watch.Watch().stream(apps.list_namespaced_deployment, "default", timeout_seconds=900)
    for change in changes:
        one = change["object"]
        if one.metadata.name == NAME and one.status.available_replicas:
            break
    [pod] = core.list_namespaced_pod("default", label_selector=f"app={NAME}").items
    log = core.read_namespaced_pod_log(pod.metadata.name, "default")
    said = stream(
        core.connect_get_namespaced_pod_exec,
        pod.metadata.name,
        "default",
        command=["/bin/busybox", "echo", "hello"],
        stdout=True,
        stderr=True,
        stdin=False,
        tty=False,
    )
finally:
    apps.delete_namespaced_deployment(NAME, "default")
sys.stdout.write(json.dumps({"on": pod.spec.node_name, "log": log, "said": said}))
