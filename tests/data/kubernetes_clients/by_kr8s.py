"""by_kr8s.py KUBECONFIG DEPLOYMENT: by PyPI's `kr8s`, which speaks to the API by itself."""

import json
import sys

import kr8s
from kr8s.objects import Deployment, Pod

kubeconfig, text = sys.argv[1:]
thing = json.loads(text)
name = thing["metadata"]["name"]
api = kr8s.api(kubeconfig=kubeconfig)
made = Deployment(thing, api=api)
made.create()
try:
    made.wait("condition=Available", timeout=900)
    # By its class: an API that kr8s does not support any more lists objects without their kind.
    [pod] = [one for one in api.get(Pod, namespace="default") if one.name.startswith(name)]
    log = "".join(f"{line}\n" for line in pod.logs())
    said = pod.exec(["/bin/busybox", "echo", "hello"]).stdout.decode()
finally:
    made.delete()
sys.stdout.write(json.dumps({"on": pod.raw["spec"]["nodeName"], "log": log, "said": said}))
