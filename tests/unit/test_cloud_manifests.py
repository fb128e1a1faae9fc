"""The manifests of a Kubernetes cluster, as data."""

import json

import pytest

from ai_how.cloud.manifests import (
    CHECK_IMAGE,
    base_manifests,
    check_name,
    former_manifests,
    ready_manifests,
)
from ai_how.process import run
from kube_facts import make_facts


def items(text):
    return json.loads(text)["items"]


def of_kind(text, kind):
    return [one for one in items(text) if one["kind"] == kind]


def script_of(pod):
    return pod["spec"]["containers"][0]["command"][-1]


def test_each_node_asks_the_next_one_and_the_last_the_first():
    text = ready_manifests(make_facts(), ["cp-1", "worker-1", "worker-2"])
    asked = {
        pod["metadata"]["name"]: [
            name
            for name in ("CP_1", "WORKER_1", "WORKER_2")
            if f"http://$ON_{name}_SERVICE_HOST/" in script_of(pod)
        ]
        for pod in of_kind(text, "Pod")
    }
    assert asked == {
        "on-cp-1": ["WORKER_1"],
        "on-worker-1": ["WORKER_2"],
        "on-worker-2": ["CP_1"],
    }
    assert [one["metadata"]["name"] for one in of_kind(text, "Service")] == list(asked)


def test_a_node_alone_asks_itself():
    (pod,) = of_kind(ready_manifests(make_facts(workers=0), ["cp-1"]), "Pod")
    assert "http://$ON_CP_1_SERVICE_HOST/" in script_of(pod)
    assert "= cp-1 ]" in script_of(pod)


def test_what_a_pod_needs_comes_before_it():
    kinds = [one["kind"] for one in items(ready_manifests(make_facts(), ["a", "b"]))]
    assert kinds == ["Namespace", "ServiceAccount", "Service", "Service", "Pod", "Pod"]


def test_pods_are_allowed_where_only_restricted_ones_are():
    """The rules of the level "restricted": docs/concepts/security/pod-security-standards."""
    for pod in of_kind(ready_manifests(make_facts(), ["a", "b"]), "Pod"):
        spec = pod["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(spec["volumes"][0]) == {"name", "emptyDir"}
        assert spec["tolerations"] == [{"operator": "Exists"}]
        assert container["image"] == CHECK_IMAGE
        assert container["imagePullPolicy"] == "Never"


def test_a_name_is_checked_only_where_there_is_a_dns_server():
    for dns in ("own", "bundle", "none"):
        (pod, _) = of_kind(ready_manifests(make_facts(dns=dns), ["a", "b"]), "Pod")
        asked = (
            'nslookup on-b.ai-how-check.svc.cluster.local. 2>&1 | grep -qwF "$ON_B_SERVICE_HOST"'
        )
        assert (asked in script_of(pod)) == (dns != "none")
        assert ("nslookup" in script_of(pod)) == (dns != "none")
        assert pod["spec"]["dnsPolicy"] == ("ClusterFirst" if dns != "none" else "Default")


@pytest.mark.parametrize("dns", ["own", "none"])
def test_the_script_of_a_pod_is_one_for_a_shell(dns):
    for pod in of_kind(ready_manifests(make_facts(dns=dns), ["a", "b"]), "Pod"):
        run(["sh", "-n"], stdin=script_of(pod))


@pytest.mark.parametrize("dns", ["bundle", "none"])
def test_a_cluster_without_dns_of_ours_gets_only_the_right_to_call_kubelets(dns):
    (binding,) = items(base_manifests(make_facts(dns=dns)))
    assert binding["roleRef"]["name"] == "system:kubelet-api-admin"
    assert binding["subjects"][0]["name"] == "kube-apiserver-kubelet-client"


def test_the_dns_service_has_the_address_that_kubelets_tell_and_all_control_planes():
    facts = make_facts(control=3)
    text = base_manifests(facts)
    (service,) = of_kind(text, "Service")
    assert service["metadata"]["labels"]["k8s-app"] == "kube-dns"
    assert service["spec"]["clusterIP"] == "10.96.0.10"
    assert "selector" not in service["spec"]
    (endpoints,) = of_kind(text, "Endpoints")
    assert endpoints["metadata"] == service["metadata"]
    (subset,) = endpoints["subsets"]
    assert [one["ip"] for one in subset["addresses"]] == [
        "192.168.130.11",
        "192.168.130.12",
        "192.168.130.13",
    ]
    told, served = (
        {(one["name"], one["protocol"], one["port"]) for one in ports}
        for ports in (service["spec"]["ports"], subset["ports"])
    )
    assert told == {("dns", "UDP", 53), ("dns-tcp", "TCP", 53)}
    assert served == {("dns", "UDP", 10053), ("dns-tcp", "TCP", 10053)}


def test_what_an_earlier_start_made_goes_when_dns_is_no_longer_ours():
    assert items(former_manifests(make_facts())) == []
    former = items(former_manifests(make_facts(dns="bundle")))
    assert [one["kind"] for one in former] == ["Service", "Endpoints"]


def test_texts_are_the_same_each_time():
    facts = make_facts()
    assert base_manifests(facts) == base_manifests(facts)
    assert ready_manifests(facts, ["a", "b"]) == ready_manifests(facts, ["a", "b"])


def test_the_name_in_the_check_is_a_valid_name_of_a_service():
    """Such a name begins with a letter (RFC 1035), that of a node may begin with a digit."""
    assert check_name("1-node") == "on-1-node"
