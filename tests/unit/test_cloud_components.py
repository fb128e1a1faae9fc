"""The files and services of a Kubernetes node: as text, for each minor version."""

import json
import os
import re
import shutil
from base64 import b64encode
from dataclasses import replace

import pytest

from ai_how.cloud.components import daemons, digest, entries, own_labels, services
from ai_how.cloud.pki import NodeKeys, read_keys
from ai_how.cloud.versions import check_etcd
from ai_how.process import run
from ai_how.spec.kubernetes import DEFAULT_VERSION
from ai_how.spec.kubernetes_versions import NEWEST_MINOR, OLDEST_MINOR, Version, check_containerd
from kube_facts import ensure_pki, make_facts, make_node

MINORS = range(OLDEST_MINOR, NEWEST_MINOR + 1)
SECRET = b64encode(b"s" * 32).decode()
KEYS = NodeKeys({"ca.crt": b"CA", "kubelet.key": b"PRIVATE", "etcd/peer.key": b"PRIVATE"}, SECRET)
WORKER_KEYS = NodeKeys({"ca.crt": b"CA", "kubelet.key": b"PRIVATE"}, "")
# The flags that a minor version no longer has: siderolabs/go-kubernetes, kubernetes/upgrade/
# checks.go, from 1.25 on; before it the changelogs 1.21 to 1.24 of Kubernetes.
REMOVED = {
    "kube-apiserver": {
        24: ("insecure-port", "insecure-bind-address", "port", "address"),
        25: ("service-account-api-audiences",),
        26: ("master-service-namespace",),
        33: ("cloud-config", "cloud-provider"),
    },
    "kube-controller-manager": {
        24: ("port", "address", "experimental-cluster-signing-duration"),
        25: ("deleting-pods-qps", "deleting-pods-burst", "register-retry-count"),
        27: ("enable-taint-manager", "pod-eviction-timeout"),
        31: ("volume-host-cidr-denylist", "horizontal-pod-autoscaler-upscale-delay"),
    },
    "kube-scheduler": {24: ("port", "address"), 23: ("policy-config-file",)},
    "kubelet": {
        24: ("network-plugin", "cni-bin-dir", "cni-conf-dir", "docker-endpoint"),
        27: ("container-runtime", "master-service-namespace"),
        31: ("keep-terminated-pod-volumes", "iptables-masquerade-bit", "iptables-drop-bit"),
        34: ("cloud-config",),
        35: ("pod-infra-container-image",),
    },
}


def files(facts, node, keys=None):
    keys = keys or (KEYS if node.is_control_plane else WORKER_KEYS)
    return {one.path: one for one in entries(facts, node, keys)}


def command_of(facts, node, name):
    return next(one.command for one in daemons(facts, node) if one.name == name)


def flags_of(facts, node, name):
    return {word.lstrip("-").partition("=")[0] for word in command_of(facts, node, name)[1:]}


def test_components_start_in_the_order_that_spares_a_slow_host():
    facts = make_facts()
    control, worker, _ = facts.nodes
    assert services(facts, control) == (
        "ai-how-kubernetes.service",
        "ai-how-pod-routes.service",
        "containerd.service",
        "ai-how-etcd.service",
        "kube-apiserver.service",
        "kube-controller-manager.service",
        "kube-scheduler.service",
        "kube-dns.service",
        "kube-names.service",
        "kubelet.service",
        "kube-proxy.service",
    )
    assert services(facts, worker) == (
        "ai-how-kubernetes.service",
        "ai-how-pod-routes.service",
        "containerd.service",
        "kubelet.service",
        "kube-proxy.service",
    )


@pytest.mark.parametrize("control", [1, 3])
def test_each_service_is_a_unit_and_waits_for_those_before_it(control):
    facts = make_facts(control=control)
    for node in facts.nodes:
        found = files(facts, node)
        for unit in set(services(facts, node)) - {"containerd.service"}:
            text = found[f"etc/systemd/system/{unit}"].content
            assert "TimeoutStartSec=infinity" in text
            if unit not in {"ai-how-pod-routes.service", "ai-how-kubernetes.service"}:
                assert "StartLimitIntervalSec=0\n" in text
                assert "Restart=always\nRestartSec=2\n" in text
        wait = "ExecStartPre=/usr/lib/ai-how/wait-for-port"
        kubelet = found["etc/systemd/system/kubelet.service"].content
        if node.is_control_plane:
            apiserver = found["etc/systemd/system/kube-apiserver.service"].content
            assert f"{wait} 127.0.0.1 2379\n" in apiserver
            assert "After=ai-how-network.service ai-how-etcd.service\n" in apiserver
            for name in ("kube-scheduler", "kube-controller-manager"):
                text = found[f"etc/systemd/system/{name}.service"].content
                assert f"{wait} 127.0.0.1 6443\n" in text
                assert "After=ai-how-network.service kube-apiserver.service\n" in text
            assert "kube-scheduler.service\n" in kubelet
        elif control == 1:
            assert f"{wait} 192.168.130.11 6443\n" in kubelet
        else:
            assert f"{wait} 127.0.0.1 6444\n" in kubelet
            for address in ("192.168.130.11", "192.168.130.12", "192.168.130.13"):
                assert f"nc -w 2 {address} 6443" in kubelet


@pytest.mark.parametrize("minor", MINORS)
def test_no_flag_is_used_that_its_version_no_longer_has(minor):
    facts = make_facts(version=f"1.{minor}.0", control=3)
    node = facts.control_planes[0]
    for name, removed in REMOVED.items():
        gone = {flag for since, flags in removed.items() if since <= minor for flag in flags}
        assert flags_of(facts, node, name) & gone == set(), name


@pytest.mark.parametrize("minor", MINORS)
def test_each_kubelet_is_told_its_runtime_and_its_taints_once(minor):
    facts = make_facts(version=f"1.{minor}.0")
    node = facts.control_planes[0]
    flags = flags_of(facts, node, "kubelet")
    config = json.loads(files(facts, node)["etc/kubernetes/kubelet.yaml"].content)
    assert ("container-runtime-endpoint" in flags) != ("containerRuntimeEndpoint" in config)
    assert ("register-with-taints" in flags) != ("registerWithTaints" in config)
    assert ("container-runtime" in flags) == (minor < 24)


@pytest.mark.parametrize("minor", MINORS)
def test_no_port_is_open_without_tls(minor):
    """Until 1.23, the controller manager and the scheduler had one."""
    facts = make_facts(version=f"1.{minor}.0")
    for name in ("kube-controller-manager", "kube-scheduler"):
        command = command_of(facts, facts.nodes[0], name)
        assert ("--port=0" in command) == (minor < 24)
        assert "--bind-address=127.0.0.1" in command


def test_no_secret_is_in_a_command_or_in_a_file_that_others_read():
    facts = make_facts(control=3, has_audit=True)
    for node in facts.nodes:
        for entry in files(facts, node).values():
            text = entry.content if isinstance(entry.content, str) else entry.content.decode()
            if "PRIVATE" in text or SECRET in text:
                assert entry.mode == 0o600, entry.path
            if entry.path.startswith("etc/kubernetes/pki/") or entry.path.endswith(".conf"):
                assert entry.mode == 0o600, entry.path
        assert not [one for one in daemons(facts, node) if SECRET in " ".join(one.command)]


def test_only_control_planes_have_what_belongs_to_the_cluster():
    facts = make_facts(has_audit=True)
    own = set(files(facts, facts.nodes[0])) - set(files(facts, facts.nodes[1]))
    assert {name for name in own if name.startswith("etc/kubernetes/")} == {
        "etc/kubernetes/admin.conf",
        "etc/kubernetes/audit.yaml",
        "etc/kubernetes/controller-manager.conf",
        "etc/kubernetes/encryption.yaml",
        "etc/kubernetes/scheduler.conf",
        "etc/kubernetes/pki/etcd/peer.key",
    }


def test_paths_are_relative_and_named_once():
    facts = make_facts(control=3, has_audit=True)
    for node in facts.nodes:
        paths = [one.path for one in entries(facts, node, KEYS)]
        assert len(paths) == len(set(paths))
        assert not [path for path in paths if path.startswith("/")]


def test_every_file_that_a_component_is_told_of_is_there(tmp_path):
    facts = make_facts(control=3, has_audit=True)
    ensure_pki(tmp_path, facts)
    for node in facts.nodes:
        found = files(facts, node, read_keys(tmp_path, facts, node))
        texts = [one.content for one in found.values() if isinstance(one.content, str)]
        told = set(re.findall(r"/etc/(?:kubernetes|ai-how)/[\w./-]+", "\n".join(texts)))
        assert told
        assert {one for one in told if one[1:] not in found} == set()


def test_workers_reach_three_control_planes_by_a_proxy_of_their_own():
    facts = make_facts(control=3, workers=1)
    worker = facts.workers[0]
    assert facts.api_endpoint == "https://127.0.0.1:6444"
    conf = json.loads(files(facts, worker)["etc/kubernetes/kubelet.conf"].content)
    assert conf["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6444"
    text = files(facts, worker)["etc/ai-how/haproxy.cfg"].content
    assert "bind 127.0.0.1:6444" in text
    assert "server cp-3 192.168.130.13:6443 check" in text
    assert services(facts, worker)[3] == "ai-how-api-proxy.service"
    own = json.loads(files(facts, facts.nodes[0])["etc/kubernetes/kubelet.conf"].content)
    assert own["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"


def test_three_members_of_etcd_know_each_other_and_elect_leaders():
    facts = make_facts(control=3)
    etcd = " ".join(command_of(facts, facts.nodes[1], "ai-how-etcd"))
    assert (
        "--initial-cluster=cp-1=https://192.168.130.11:2380,cp-2=https://192.168.130.12:2380,"
        "cp-3=https://192.168.130.13:2380"
    ) in etcd
    assert "--name=cp-2" in etcd
    apiserver = " ".join(command_of(facts, facts.nodes[1], "kube-apiserver"))
    assert (
        "--etcd-servers=https://127.0.0.1:2379,https://192.168.130.11:2379,"
        "https://192.168.130.13:2379"
    ) in apiserver
    assert "--leader-elect=true" in command_of(facts, facts.nodes[0], "kube-scheduler")
    alone = make_facts()
    assert "--leader-elect=false" in command_of(alone, alone.nodes[0], "kube-scheduler")


def test_a_kubelet_sets_the_labels_that_it_may_set():
    labels = {
        "disk": "fast",
        "example.org/rack": "2",
        "node.kubernetes.io/type": "big",
        "node-role.kubernetes.io/db": "",
        "feature.k8s.io/x": "y",
        "notkubernetes.io/x": "y",
    }
    node = make_node("w", 2, labels=labels)
    assert own_labels(node) == (
        "disk=fast,example.org/rack=2,node.kubernetes.io/type=big,notkubernetes.io/x=y"
    )
    facts = make_facts(nodes=(make_node("cp", 1, control=True), node))
    assert facts.labels_of(node) == {"node-role.kubernetes.io/worker": "", **labels}


def test_a_control_plane_takes_pods_only_where_there_is_no_worker():
    alone, with_worker = make_facts(workers=0), make_facts()
    newer = make_facts(version="1.24.0")
    name = "node-role.kubernetes.io"
    assert alone.taints_of(alone.nodes[0]) == ()
    assert with_worker.taints_of(with_worker.nodes[0]) == (
        f"{name}/control-plane:NoSchedule",
        f"{name}/master:NoSchedule",
    )
    assert newer.taints_of(newer.nodes[0]) == (f"{name}/control-plane:NoSchedule",)
    assert newer.labels_of(newer.nodes[0]) == {f"{name}/control-plane": ""}


def test_taints_are_written_as_the_version_wants_them():
    nodes = (
        make_node("cp", 1, control=True),
        make_node("gpu", 2, taints=("nvidia.com/gpu=yes:NoSchedule", "slow:NoExecute")),
    )
    old, new = (make_facts(nodes=nodes, version=one) for one in ("1.22.0", "1.23.0"))
    assert "--register-with-taints=nvidia.com/gpu=yes:NoSchedule,slow=:NoExecute" in command_of(
        old, nodes[1], "kubelet"
    )
    config = json.loads(files(new, nodes[1])["etc/kubernetes/kubelet.yaml"].content)
    assert config["registerWithTaints"] == [
        {"key": "nvidia.com/gpu", "value": "yes", "effect": "NoSchedule"},
        {"key": "slow", "effect": "NoExecute"},
    ]


def test_pods_are_told_a_dns_server_only_where_there_is_one():
    for dns in ("own", "bundle", "none"):
        facts = make_facts(dns=dns)
        config = json.loads(files(facts, facts.nodes[1])["etc/kubernetes/kubelet.yaml"].content)
        assert config.get("clusterDNS") == (["10.96.0.10"] if dns != "none" else None)


def test_the_script_of_routes_is_one_for_every_shell():
    facts = make_facts()
    script = files(facts, facts.nodes[0])["etc/ai-how/pod-routes"].content
    assert "ip route replace 10.244.2.0/24 via 192.168.130.12" in script
    assert "10.244.1.0/24 via" not in script
    assert script.index("-d 192.168.130.1 -j MASQUERADE") < script.index("-d 192.168.130.0/24")
    for shell in ("dash", "bash"):
        if shutil.which(shell):
            run([shell, "-n"], stdin=script)


def test_a_component_with_new_settings_is_restarted_once(tmp_path):
    """By the script itself, with its paths below a directory and a systemctl that only writes."""
    facts = make_facts(has_audit=True)
    node = facts.nodes[0]
    ensure_pki(tmp_path / "pki", facts)
    for entry in entries(facts, node, read_keys(tmp_path / "pki", facts, node)):
        path = tmp_path / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = entry.content
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    calls, program = tmp_path / "calls", tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n')
    program.chmod(0o755)
    script = (tmp_path / "etc/ai-how/kubernetes-changes").read_text()
    for place in ("/run/", "/etc/"):
        script = script.replace(f" {place}", f" {tmp_path}{place}")
    script = script.replace("$(cat /run", f"$(cat {tmp_path}/run")

    def look():
        calls.unlink(missing_ok=True)
        run(["sh"], stdin=script, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        return calls.read_text().splitlines() if calls.exists() else []

    assert look() == []
    assert look() == []
    for changed in ("kubelet.yaml", "audit.yaml", "pki/scheduler.crt"):
        with (tmp_path / "etc/kubernetes" / changed).open("a") as file:
            file.write(" ")
    assert look() == [
        "daemon-reload",
        "try-restart --no-block kube-apiserver.service kubelet.service",
    ]
    assert look() == []


def test_the_digest_changes_with_what_nodes_are_told_and_with_nothing_else():
    facts = make_facts()
    assert digest(facts) == digest(make_facts())
    others = (
        make_facts(workers=3),
        make_facts(version="1.24.0"),
        make_facts(has_audit=True),
        make_facts(dns="bundle"),
        make_facts(dns="none"),
        replace(facts, gateway=facts.node_subnet[2]),
        make_facts(nodes=(*facts.nodes[:2], make_node("worker-2", 3, labels={"a": "b"}))),
    )
    assert len({digest(facts), *(digest(one) for one in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("version", "containerd", "reason"),
    [
        ("1.20.2", "1.6.20~ds1-1+deb12u1", None),
        ("1.20.2", "1.7.24", None),
        ("1.22.17", "2.0.0", "1.4.0 or later, below 2.0.0, not 2.0.0: it speaks CRI v1alpha2"),
        ("1.23.0", "2.1.0", None),
        ("1.26.0", "1.5.9", "1.6.15 or later, not 1.5.9: it speaks CRI v1 alone"),
        ("1.34.2", "1.7.24", None),
        ("1.35.0", "1.7.24", None),
        ("1.36.0", "1.7.24", "2.0.0 or later, not 1.7.24: 1.35 was the last version"),
        ("1.36.0", "2.1.9", None),
    ],
)
def test_containerd_fits_or_it_is_said_why_not(version, containerd, reason):
    found = check_containerd(Version.parse(version), containerd)
    assert (found is None) == (reason is None)
    assert reason is None or reason in found


def test_an_etcd_that_is_too_old_is_named():
    assert check_etcd(Version(1, 20, 2), "3.4.23-4+b4") is None
    assert check_etcd(Version(1, 34, 2), "3.5.16") is None
    assert check_etcd(Version(1, 34, 2), "3.4.23") == (
        "Kubernetes 1.34.2 needs etcd 3.5.0 or later, not 3.4.23"
    )


def test_versions_are_read_as_people_write_them_and_are_ordered():
    assert Version.parse("v1.20.2") == Version(1, 20, 2)
    assert Version.parse("1.34") == Version(1, 34)
    assert Version.parse("1.20.5+really1.20.2-1.1") == Version(1, 20, 5)
    assert Version(1, 9, 9) < Version(1, 20, 0) < Version(1, 20, 2)
    assert str(Version(1, 34, 2)) == "1.34.2"
    for text in ("", "newest", "1", "1.x.2", "1.20.2.3"):
        with pytest.raises(ValueError, match="is not a version"):
            Version.parse(text)


def test_only_what_ran_is_called_proven():
    assert [minor for minor in MINORS if Version(1, minor).is_proven] == [20]
    assert not Version(1, 19).is_known
    assert not Version(1, NEWEST_MINOR + 1).is_known
    assert not Version(2, 20).is_known
    assert Version.parse(DEFAULT_VERSION).is_known
