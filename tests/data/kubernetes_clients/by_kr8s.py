"""by_kr8s.py KUBECONFIG: a Deployment by PyPI's `kr8s`, which speaks to the API by itself."""

import json
import sys

import kr8s
from kr8s.objects import Deployment, Pod

NAME = "by-kr8s"
BOX = {
    "name": "box",
    "image": "localhost/ai-how/busybox:1",
    "command": ["/bin/busybox", "sh", "-c", "echo begun; sleep 100000"],
}
THING = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": NAME, "namespace": "default"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": NAME}},
        "template": {
            "metadata": {"labels": {"app": NAME}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [BOX]},
        },
    },
}

api = kr8s.api(kubeconfig=sys.argv[1])
made = Deployment(THING, api=api)
made.create()
try:
    made.wait("condition=Available", timeout=900)
    # By its class: an API that kr8s does not support any more lists objects without their kind.
    [pod] = [one for one in api.get(Pod, namespace="default") if one.name.startswith(NAME)]
    log = "".join(f"{line}\n" for line in pod.logs())
    said = pod.exec(["/bin/busybox", "echo", "hello"]).stdout.decode()
finally:
    made.delete()
sys.stdout.write(json.dumps({"on": pod.raw["spec"]["nodeName"], "log": log, "said": said}))
