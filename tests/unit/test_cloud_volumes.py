"""The storage class of a Kubernetes cluster and its volumes, as data."""

import json
import runpy

import pytest

from ai_how.cloud import guest
from ai_how.cloud.components import entries, services
from ai_how.cloud.identities import CloudObjects, config_digest, facts_of
from ai_how.cloud.pki import NodeKeys
from ai_how.cloud.volumes import PER_NODE, render_directories, storage_manifests
from cloud_bench import cloud_draft, read_cloud
from kube_facts import make_facts, make_node

FACTS = make_facts(storage_class="local")


def of_kind(facts, kind):
    return [one for one in storage_manifests(facts) if one["kind"] == kind]


def nodes_of(volumes):
    found = []
    for one in volumes:
        (term,) = one["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        (expression,) = term["matchExpressions"]
        assert expression["key"] == "kubernetes.io/hostname"
        found += expression["values"]
    return found


def test_each_worker_has_its_volumes_as_large_as_its_disk():
    nodes = (
        make_node("cp-1", 1, control=True),
        make_node("small", 2, disk_gib=10),
        make_node("large", 3, disk_gib=200),
    )
    volumes = of_kind(make_facts(nodes=nodes, storage_class="fast"), "PersistentVolume")
    assert nodes_of(volumes) == ["small"] * PER_NODE + ["large"] * PER_NODE
    sizes = {one["metadata"]["name"]: one["spec"]["capacity"]["storage"] for one in volumes}
    assert sizes["small-01"] == "10Gi"
    assert sizes["large-08"] == "200Gi"
    assert {one["spec"]["storageClassName"] for one in volumes} == {"fast"}
    assert len({one["metadata"]["name"] for one in volumes}) == len(volumes)


def test_the_class_is_the_default_and_waits_for_a_pod():
    (one,) = of_kind(FACTS, "StorageClass")
    assert one["metadata"]["name"] == "local"
    notes = one["metadata"]["annotations"]
    assert notes == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert one["volumeBindingMode"] == "WaitForFirstConsumer"
    assert one["provisioner"] == "kubernetes.io/no-provisioner"


def test_a_control_plane_has_volumes_only_if_it_takes_pods():
    alone = make_facts(workers=0, storage_class="local")
    assert set(nodes_of(of_kind(alone, "PersistentVolume"))) == {"cp-1"}
    assert render_directories(alone, alone.get_node("cp-1"))
    assert render_directories(FACTS, FACTS.get_node("cp-1")) == ""


def test_without_a_class_there_is_nothing():
    facts = make_facts()
    assert storage_manifests(facts) == []
    assert render_directories(facts, facts.get_node("worker-1")) == ""


def test_a_node_makes_its_directories_before_its_kubelet_starts():
    node = FACTS.get_node("worker-1")
    keys = NodeKeys(files={}, encryption_key="")
    texts = {one.path: one.content for one in entries(FACTS, node, keys)}
    (script,) = [text for text in texts.values() if "/var/lib/ai-how/volumes" in str(text)]
    assert texts["etc/ai-how/kubernetes-changes"] == script
    order = services(FACTS, node)
    assert order.index("ai-how-kubernetes.service") < order.index("kubelet.service")


def test_the_field_names_the_class_and_its_change_is_told():
    fields = ("", "storage_class: local", "storage_class: standard", "storage_class: none")
    drafts = [cloud_draft(read_cloud(f"kubernetes_config: {{{one}}}")) for one in fields]
    names = []
    for draft in drafts:
        objects = json.loads(CloudObjects(facts_of(draft)).manifests)
        found = [one for one in objects if one["kind"] == "StorageClass"]
        names.append([one["metadata"]["name"] for one in found])
    assert names == [["local"], ["local"], ["standard"], []]
    default, same, other, none = map(config_digest, drafts)
    assert default == same
    assert len({default, other, none}) == len(fields) - 1


class AwayOnce:
    """An API with a default class of somebody else, which is away at the first look at volumes."""

    def __init__(self):
        self.was_away = False
        self.put = []

    def ask(self, method, path, body=None, *_):
        if method != "GET":
            self.put.append(body)
            return body
        if path.endswith("/persistentvolumes") and not self.was_away:
            self.was_away = True
            raise OSError("connection refused")
        theirs = {
            "metadata": {
                "name": "theirs",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            }
        }
        return {"items": [theirs] if path.endswith("/storageclasses") else []}


def test_a_default_class_of_others_stays_also_where_the_api_is_away_meanwhile(tmp_path):
    path = tmp_path / "kube.py"
    path.write_bytes(guest.program())
    kube = runpy.run_path(str(path))
    api, things = AwayOnce(), storage_manifests(FACTS)
    with pytest.raises(OSError, match="refused"):
        kube["apply_storage"](api, things)
    assert kube["apply_storage"](api, things) is True
    classes = [one for one in api.put if one["kind"] == "StorageClass"]
    assert classes
    assert not any(kube["is_default"](one) for one in classes)
