"""by_kubernetes.py KUBECONFIG DEPLOYMENT: by the client of PyPI's `kubernetes`."""

import json
import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

kubeconfig, text = sys.argv[1:]
thing = json.loads(text)
name = thing["metadata"]["name"]
config.load_kube_config(kubeconfig)
core, apps = client.CoreV1Api(), client.AppsV1Api()
apps.create_namespaced_deployment("default", thing)
try:
    changes = watch.Watch().stream(apps.list_namespaced_deployment, "default", timeout_seconds=900)
    for change in changes:
        one = change["object"]
        if one.metadata.name == name and one.status.available_replicas:
            break
    [pod] = core.list_namespaced_pod("default", label_selector=f"app={name}").items
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
    apps.delete_namespaced_deployment(name, "default")
sys.stdout.write(json.dumps({"on": pod.spec.node_name, "log": log, "said": said}))
