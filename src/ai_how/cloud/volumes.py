"""Storage of a cluster that has no provisioner: directories of its nodes (pure).

Each is a PersistentVolume of one class, which is the default. What a claim left in one stays there
until somebody frees it (`free` of guest_files/kube): nothing is removed that was not asked for.
"""

from ai_how.cloud.facts import KubeFacts, KubeNode
from ai_how.cloud.texts import Manifest

PER_NODE = 8
LABEL = "ai-how/storage"
"""It marks the class and the volumes of ours; any other is never changed."""
_ROOT = "/var/lib/ai-how/volumes"
_NUMBERS = [f"{number:02}" for number in range(1, PER_NODE + 1)]


def storage_manifests(facts: KubeFacts) -> list[Manifest]:
    """The class, and a volume for each directory; none if the cluster is to have no class."""
    if not facts.storage_class:
        return []
    volumes = (
        _volume(facts.storage_class, node, number)
        for node in facts.nodes
        if facts.takes_pods(node)
        for number in _NUMBERS
    )
    return [_class(facts.storage_class), *volumes]


def render_directories(facts: KubeFacts, node: KubeNode) -> str:
    """A script for busybox that makes a node's directories, and leaves alone those that are there.

    Any user of a container may write: most Pods ask for no group (fsGroup). Users of the node do
    not get there, by the mode of the directory above.
    """
    if not facts.storage_class or not facts.takes_pods(node):
        return ""
    return f"""\
mkdir -p -m 0700 {_ROOT}
for number in {" ".join(_NUMBERS)}; do
  [ -d {_ROOT}/$number ] || mkdir -m 0777 {_ROOT}/$number
done
"""


def _class(name: str) -> Manifest:
    """A claim gets a volume when its Pod gets a node, which is then one with a free volume."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": name,
            "labels": {LABEL: "local"},
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "reclaimPolicy": "Retain",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(storage_class: str, node: KubeNode, number: str) -> Manifest:
    """As large as the node's disk, which all of them share: there is no quota."""
    term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{node.name}-{number}", "labels": {LABEL: "local"}},
        "spec": {
            "storageClassName": storage_class,
            "capacity": {"storage": f"{node.disk_gib}Gi"},
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": f"{_ROOT}/{number}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
        },
    }
