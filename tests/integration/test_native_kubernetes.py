"""A real control plane takes our commands, files and keys, and our manifests."""

import json
import re
import sys
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ai_how.cloud import guest
from ai_how.cloud.components import BIN, daemons
from ai_how.cloud.kubeconfig import render_user_config
from ai_how.cloud.manifests import (
    CHECK_NAMESPACE,
    base_manifests,
    check_name,
    ready_manifests,
)
from ai_how.cloud.pki import read_admin, read_keys, rotate
from ai_how.cloud.settings import PKI
from ai_how.cloud.volumes import PER_NODE, storage_manifests
from ai_how.cloud.workload import read_nodes
from ai_how.errors import ToolError
from ai_how.process import run, start_daemon
from ai_how.waiting import Deadline, wait_until
from kube_facts import ensure_pki, make_facts
from native_kubernetes import (
    BINARIES,
    NativeKubernetes,
    etcdctl,
    native_control_planes,
    native_kubernetes,
    skip_without_binaries,
)

FACTS = make_facts(has_audit=True)
SEEN_S = 60.0
WORD = "a-word-that-nobody-else-writes"


@pytest.fixture(scope="module")
def kube(tmp_path_factory):
    skip_without_binaries()
    with native_kubernetes(tmp_path_factory.mktemp("kube"), FACTS) as started:
        yield started


def soon(what, ask):
    return wait_until(ask, Deadline.after(SEEN_S), what, interval_s=0.5)


def apply(kube: NativeKubernetes, text: str, *words: str) -> str:
    return kube.kubectl("apply", "-f", "-", *words, stdin=text)


def node_object(name: str) -> dict:
    """A node as its kubelet would register it, with room for Pods."""
    room = {"cpu": "2", "memory": "2Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.fixture(scope="module")
def nodes(kube):
    """The nodes of the cluster, of which no kubelet runs."""
    items = [node_object(one.name) for one in FACTS.nodes]
    kube.kubectl(
        "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    return [one.name for one in FACTS.nodes]


def test_nothing_listens_without_tls(kube):
    """Of 10257 and 10259, the controller manager and the scheduler."""
    ports = {
        *("*:6443", "127.0.0.1:2379", "192.168.130.11:2379", "192.168.130.11:2380"),
        *("127.0.0.1:10257", "127.0.0.1:10259"),
    }
    soon("all components", lambda: kube.listening() >= ports)
    assert kube.listening() == ports


def test_whoever_has_no_certificate_is_refused(kube):
    pki = kube.path("/etc/kubernetes/pki")
    client = ("openssl", "s_client", "-quiet", "-CAfile", pki / "ca.crt")
    for path in ("/readyz", "/api/v1/nodes"):
        asked = f"GET {path} HTTP/1.0\r\n\r\n"
        refused = kube.ask(*client, "-connect", "127.0.0.1:6443", stdin=asked)
        assert refused.stdout.startswith("HTTP/1.0 401 Unauthorized")
    etcd = kube.ask(
        *("env", "ETCDCTL_API=3", etcdctl(), "--endpoints=https://127.0.0.1:2379"),
        *(f"--cacert={pki}/etcd/ca.crt", "--command-timeout=2s", "get", "/"),
        check=False,
    )
    assert etcd.returncode != 0
    assert etcd.stdout == ""


def test_components_use_the_api_by_their_own_kubeconfigs(kube):
    users = {
        "admin": "yes",
        "kubelet": "no",
        "kube-proxy": "no",
        "scheduler": "no",
    }
    found = {
        conf: kube.try_kubectl("auth", "can-i", "delete", "nodes", conf=conf) for conf in users
    }
    assert {conf: said.strip() for conf, said in found.items()} == users
    own = kube.kubectl("auth", "can-i", "watch", "services", conf="kube-proxy")
    assert own.strip() == "yes"


def test_controllers_run_and_sign_what_users_ask_for(kube, tmp_path):
    names = ("get", "serviceaccount", "default", "--namespace=default", "--output=name")
    soon("the default account", lambda: "default" in kube.try_kubectl(*names))
    root = ("get", "configmap", "kube-root-ca.crt", "--namespace=default", "--output=json")
    text = soon("the CA for Pods", lambda: _json(kube.try_kubectl(*root)))
    ca = kube.path("/etc/kubernetes/pki/ca.crt").read_text()
    assert text["data"]["ca.crt"].strip() == ca.strip()

    key, request = tmp_path / "key.pem", tmp_path / "request.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    kube.ask("openssl", "req", "-new", *curve, "-keyout", key, "-subj", "/CN=ann", "-out", request)
    kube.kubectl("create", "-f", "-", stdin=_signing_request(request.read_bytes()))
    kube.kubectl("certificate", "approve", "ann")
    ask = ("get", "csr", "ann", "--output=jsonpath={.status.certificate}")
    assert soon("the certificate", lambda: kube.kubectl(*ask) or None).startswith("LS0t")


def _json(text):
    with suppress(json.JSONDecodeError):
        return json.loads(text)
    return None


def _signing_request(pem: bytes) -> str:
    spec = {
        "request": b64encode(pem).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
    }
    kind = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    return json.dumps(kind | {"metadata": {"name": "ann"}, "spec": spec})


def test_secrets_are_encrypted_in_etcd_and_not_in_the_audit_log(kube):
    kube.kubectl("create", "secret", "generic", "word", f"--from-literal=word={WORD}")
    kube.kubectl("create", "configmap", "open", f"--from-literal=word=not-{WORD}")
    raw = kube.etcdctl("get", "/registry/secrets/default/word", "--print-value-only")
    assert raw.startswith("k8s:enc:secretbox:v1:key1:")
    assert WORD not in raw
    # So that it would be seen if it were there.
    plain = kube.etcdctl("get", "/registry/configmaps/default/open", "--print-value-only")
    assert f"not-{WORD}" in plain
    log = kube.path("/var/log/kubernetes/audit.log").read_text()
    assert f"not-{WORD}" in log
    assert not re.search(f"(?<!not-){WORD}", log)
    assert '"name":"word"' in log


def test_a_node_reads_only_the_secrets_of_its_own_pods(kube, nodes, tmp_path):
    """By the Node authorizer and NodeRestriction, which know a node by its certificate."""
    kube.kubectl("create", "secret", "generic", "for-worker-1", "--from-literal=word=x")
    volume = {"name": "s", "secret": {"secretName": "for-worker-1"}}
    container = {"name": "c", "image": "none", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reader"},
        "spec": {"nodeName": "worker-1", "volumes": [volume], "containers": [container]},
    }

    def create():
        with suppress(ToolError):  # until its ServiceAccount is there
            return kube.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    soon("a Pod", create)
    worker = FACTS.get_node("worker-1")
    files = read_keys(kube.pki, FACTS, worker).files
    for name in ("kubelet-client.crt", "kubelet-client.key"):
        (tmp_path / name).write_bytes(files[name])
    as_worker = (
        f"--client-certificate={tmp_path}/kubelet-client.crt",
        f"--client-key={tmp_path}/kubelet-client.key",
    )
    read = ("get", "secret", "for-worker-1", "--output=name")
    theirs = soon("the right to read", lambda: "secret/" in _as(kube, read, as_worker))
    assert theirs
    assert "forbidden" in kube.try_kubectl(*read, conf="kubelet")
    assert "forbidden" in kube.try_kubectl("get", "secrets", "-A", conf="kubelet")
    label = ("label", "node", "worker-1", "stolen=yes")
    assert "forbidden" in kube.try_kubectl(*label, conf="kubelet")
    role = ("label", "node", "cp-1", "node-role.kubernetes.io/db=")
    assert "forbidden" in kube.try_kubectl(*role, conf="kubelet")
    assert "labeled" in kube.kubectl("label", "node", "cp-1", "own=yes", conf="kubelet")


def _as(kube, words, identity):
    server = ("--server=https://127.0.0.1:6443", "--kubeconfig=/dev/null")
    ca = f"--certificate-authority={kube.path('/etc/kubernetes/pki/ca.crt')}"
    done = kube.ask(BINARIES / "kubectl", *server, ca, *identity, *words, check=False)
    return done.stdout + done.stderr


def test_base_manifests_let_the_api_server_call_kubelets(kube):
    may = ("auth", "can-i", "get", "nodes/proxy", "--as=kube-apiserver-kubelet-client")
    assert kube.try_kubectl(*may).strip() == "no"
    text = base_manifests(FACTS)
    assert "created" in apply(kube, text, "--dry-run=server")
    apply(kube, text)
    assert set(re.findall(r"(\w+)$", apply(kube, text), re.MULTILINE)) == {"unchanged"}
    assert kube.kubectl(*may).strip() == "yes"
    address = ("get", "service", "kube-dns", "-n", "kube-system", "-o=jsonpath={.spec.clusterIP}")
    assert kube.kubectl(*address) == str(FACTS.dns_ip)


def test_the_check_is_taken_as_it_is_and_scheduled_to_each_node(kube, nodes):
    text = ready_manifests(FACTS, nodes)
    apply(kube, text)
    again = apply(kube, text)
    assert set(re.findall(r"(\w+)$", again, re.MULTILINE)) == {"unchanged"}

    def placed():
        pods = json.loads(kube.kubectl("get", "pods", "-n", CHECK_NAMESPACE, "--output=json"))
        found = {one["metadata"]["name"]: one["spec"].get("nodeName") for one in pods["items"]}
        return found if all(found.values()) else None

    assert soon("the scheduler", placed) == {check_name(one): one for one in nodes}
    # Without a kubelet, each Pod still ends when its namespace does.
    kube.kubectl("delete", "namespace", CHECK_NAMESPACE, "--wait=false")


# Says of all nodes and Pods that they are ready, or have ended, as their kubelets would.
FAKE_KUBELETS = """
import runpy, sys, time
kube = runpy.run_path(sys.argv[1])
api = kube["Api"]()
ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "Fake"}]}
told = {
    "/api/v1/nodes": ready,
    "/api/v1/namespaces/ai-how-check/pods": ready,
    "/api/v1/namespaces/kube-system/pods": {"phase": "Succeeded"},
}
while True:
    for path, status in told.items():
        for one in api.ask("GET", path)["items"]:
            if path.endswith("nodes") or one["spec"].get("nodeName"):
                place, patch = f"{path}/{one['metadata']['name']}/status", {"status": status}
                try:
                    api.ask("PATCH", place, patch, "application/merge-patch+json")
                except kube["Refused"]:
                    pass
    time.sleep(0.3)
"""


@pytest.fixture
def kubelets(kube, program, nodes):
    helper = kube.root / "kubelets.py"
    helper.write_text(FAKE_KUBELETS)
    started = start_daemon(
        kube.enter(sys.executable, helper, program), log=kube.root / "kubelets.log"
    )
    yield
    kube.end(started)


@pytest.fixture(scope="module")
def program(kube):
    """The program on a control plane that asks the API for us, with the keys that are here."""
    path = kube.root / "kube.py"
    text = guest.program().decode().replace("/etc/kubernetes/pki", str(kube.path(PKI)))
    path.write_text(text.replace("/run/ai-how/kube.last", str(kube.root / "kube.last")))
    return path


def tell(kube, program, verb, *names, given=None):
    stdin = json.dumps(given) if given is not None else None
    return json.loads(kube.ask(sys.executable, program, verb, *names, stdin=stdin).stdout)


def test_the_state_of_a_hundred_nodes_is_one_question(kube, program, figures):
    items = [node_object(f"many-{number:03}") for number in range(100)]
    things = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    kube.kubectl("create", "-f", "-", stdin=things)
    try:
        begun = time.monotonic()
        answer = tell(kube, program, "nodes")
        figures["Kubernetes: ms to read 100 nodes"] = round((time.monotonic() - begun) * 1000)
        found = read_nodes(answer)
        assert {one for one in found if one.startswith("many-")} == {
            one["metadata"]["name"] for one in items
        }
        assert len(json.dumps(answer)) < 1 << 20, "an agent passes on a few MiB"
    finally:
        kube.kubectl("delete", "node", *(one["metadata"]["name"] for one in items))


def test_the_program_of_control_planes_speaks_with_a_real_api(kube, program, nodes):
    assert tell(kube, program, "healthy") == "ok"
    assert tell(kube, program, "granted") == "ok"
    objects = json.loads(base_manifests(FACTS))["items"]
    given = {"objects": objects, "former": []}
    for _ in range(2):
        assert tell(kube, program, "apply", given=given) == len(objects)
    seen = {one["name"]: one for one in tell(kube, program, "nodes")}
    assert set(seen) == set(nodes)
    assert tell(kube, program, "close", "worker-1", "worker-2") == ["worker-1", "worker-2"]
    assert tell(kube, program, "close", "worker-1") == []
    assert "SchedulingDisabled" in kube.kubectl("get", "node", "worker-1")
    tell(kube, program, "open", "worker-1", "worker-2")
    assert "SchedulingDisabled" not in kube.kubectl("get", "nodes")


@pytest.mark.usefixtures("kubelets")
def test_the_check_ends_when_all_of_it_is_ready_and_leaves_nothing(kube, program, nodes):
    given = {
        "objects": json.loads(ready_manifests(FACTS, nodes))["items"],
        "pods": [check_name(one) for one in nodes],
        "marks": {one.name: dict(FACTS.labels_of(one)) for one in FACTS.nodes},
    }
    assert tell(kube, program, "ready", *nodes, given=given) == nodes
    roles = kube.kubectl("get", "nodes", "--no-headers")
    assert re.search(r"cp-1 +Ready +control-plane,master ", roles)
    assert re.search(r"worker-2 +Ready +worker ", roles)
    gone = ("get", "namespace", CHECK_NAMESPACE, "--output=name")
    soon("the end of the namespace", lambda: "NotFound" in kube.try_kubectl(*gone))


def bring_storage(kube, program, facts):
    objects = [dict(one) for one in storage_manifests(facts)]
    tell(kube, program, "apply", given={"objects": objects, "former": []})


@pytest.fixture
def stored(kube, program, nodes):
    """Brings the storage of a class into the cluster; the returned function gives it another."""

    def bring(name):
        bring_storage(kube, program, replace(FACTS, storage_class=name))

    bring("local")
    yield bring
    kube.kubectl("delete", "pod,pvc", "--all", "--namespace=default", "--force", "--grace-period=0")
    soon("no claim", lambda: "Bound" not in phases(kube).values())
    bring(None)


def listed(kube, what):
    return json.loads(kube.kubectl("get", what, "--output=json"))["items"]


def phases(kube):
    return {
        one["metadata"]["name"]: one["status"]["phase"]
        for one in listed(kube, "pv")
        if "deletionTimestamp" not in one["metadata"]
    }


def classes(kube):
    """By name, whether it is the default."""
    default = "storageclass.kubernetes.io/is-default-class"
    found = (
        (one["metadata"], one["metadata"].get("annotations", {})) for one in listed(kube, "sc")
    )
    return {meta["name"]: notes.get(default) == "true" for meta, notes in found}


def claim_a_volume(kube, name):
    """A Pod with a claim that names no class; returns the volume, which is on the Pod's node."""
    meta = {"name": name}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {
            "containers": [{"name": "c", "image": "none"}],
            # Without kubelets, nodes are soon not Ready.
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}],
        },
    }
    for thing in (claim, pod):
        soon("its maker", lambda thing=thing: created(kube, thing))
    ask = ("get", "pvc", name, "--output=jsonpath={.spec.volumeName}")
    volume = soon("a volume", lambda: kube.kubectl(*ask) or None)
    on = ("get", "pod", name, "--output=jsonpath={.spec.nodeName}")
    node = soon("a node", lambda: kube.kubectl(*on) or None)
    assert volume.rpartition("-")[0] == node
    soon("its binding", lambda: phases(kube)[volume] == "Bound")
    return volume


def created(kube, thing):
    with suppress(ToolError):
        return kube.kubectl("create", "-f", "-", stdin=json.dumps(thing))
    return None


def drop_claim(kube, name):
    kube.kubectl("delete", "pod", name, "--force", "--grace-period=0")
    kube.kubectl("delete", "pvc", name)


@pytest.mark.usefixtures("kubelets")
def test_a_claim_binds_and_its_volume_is_freed_when_that_is_asked_for(kube, program, stored):
    assert classes(kube) == {"local": True}
    workers = {one.name for one in FACTS.workers}
    soon("free volumes", lambda: set(phases(kube).values()) == {"Available"})
    assert {name.rpartition("-")[0] for name in phases(kube)} == workers
    assert len(phases(kube)) == PER_NODE * len(workers)
    volume = claim_a_volume(kube, "data")
    assert tell(kube, program, "free") == []
    drop_claim(kube, "data")
    soon("the end of the claim", lambda: phases(kube)[volume] == "Released")
    stored("local")
    assert phases(kube)[volume] == "Released"
    assert tell(kube, program, "free", "another") == []
    assert tell(kube, program, "free") == [volume]
    soon("the volume", lambda: phases(kube)[volume] == "Available")
    assert "empties" not in kube.kubectl("get", "pods", "--namespace=kube-system")


def test_another_class_takes_the_free_volumes_and_none_takes_them_away(kube, stored):
    soon("free volumes", lambda: set(phases(kube).values()) == {"Available"})
    used = claim_a_volume(kube, "data")
    stored("standard")
    assert classes(kube) == {"standard": True}
    of_class = {
        one["metadata"]["name"]: one["spec"]["storageClassName"] for one in listed(kube, "pv")
    }
    assert of_class.pop(used) == "local"
    assert set(of_class.values()) == {"standard"}
    stored(None)
    assert classes(kube) == {}
    soon("the end of free volumes", lambda: phases(kube) == {used: "Bound"})
    stored("standard")
    soon("free volumes", lambda: len(phases(kube)) == PER_NODE * len(FACTS.workers))


def test_the_class_of_a_provisioner_stays_as_it_is(kube, stored):
    theirs = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "rancher.io/local-path",
    }
    kube.kubectl("create", "-f", "-", stdin=json.dumps(theirs))
    stored("local")
    assert classes(kube) == {"local": False, "local-path": True}
    stored("local-path")
    assert classes(kube) == {"local-path": True}
    soon("no volume", lambda: phases(kube) == {})
    (kept,) = listed(kube, "sc")
    assert kept["provisioner"] == "rancher.io/local-path"
    kube.kubectl("delete", "sc", "local-path")
    stored("local-path")
    assert classes(kube) == {"local-path": True}


def test_the_volumes_of_a_node_that_is_gone_go(kube, program, stored):
    fewer = replace(FACTS, nodes=FACTS.nodes[:-1], storage_class="local")
    bring_storage(kube, program, fewer)
    gone = FACTS.nodes[-1].name
    soon("their end", lambda: gone not in {name.rpartition("-")[0] for name in phases(kube)})
    assert phases(kube)


def test_the_kubeconfig_of_the_user_works_also_after_a_rotation(kube, tmp_path):
    directory, server = kube.pki, "https://127.0.0.1:6443"
    before = read_admin(directory)
    rotate(directory)
    ensure_pki(directory, FACTS, datetime.now(UTC))
    after = read_admin(directory)
    assert before.certificate != after.certificate
    assert before.ca == after.ca
    for admin in (before, after):
        config = tmp_path / "config"
        config.write_text(render_user_config("demo", server, admin))
        asked = (BINARIES / "kubectl", f"--kubeconfig={config}", "config", "current-context")
        assert kube.ask(*asked).stdout == "ai-how-demo\n"
        ready = kube.ask(BINARIES / "kubectl", f"--kubeconfig={config}", "get", "--raw=/readyz")
        assert ready.stdout == "ok"


def test_the_certificate_of_the_api_server_is_taken_under_each_of_its_names(kube):
    ca = kube.path("/etc/kubernetes/pki/ca.crt")
    for name in ("cp-1", "cp-1.demo", "kubernetes.default.svc.cluster.local", "localhost"):
        text = kube.ask(
            *("openssl", "s_client", "-connect", "127.0.0.1:6443", "-CAfile", ca),
            *("-verify_return_error", "-verify_hostname", name),
            stdin="",
            check=False,
        )
        assert "Verification: OK" in text.stdout, name


@pytest.mark.parametrize("control", [1, 3])
def test_each_program_knows_all_flags_of_its_command(control):
    skip_without_binaries()
    facts = make_facts(control=control, has_audit=True)
    for node in facts.nodes:
        for daemon in daemons(facts, node):
            program, *words = daemon.command
            if not program.startswith(BIN):
                continue
            known = run([BINARIES / daemon.name, "--help"]).stdout
            flags = {word.partition("=")[0] for word in words}
            assert {flag for flag in flags if f"{flag} " not in known} == set(), daemon.name


@pytest.mark.long
def test_the_api_server_takes_a_renewed_certificate_while_it_runs(kube):
    """As a node gets it after `rotate`: the file changes, and nothing is restarted."""
    show = ("openssl", "s_client", "-connect", "127.0.0.1:6443")

    def shown():
        text = kube.ask(*show, stdin="", check=False).stdout
        return text.partition("-----BEGIN")[2].partition("-----END")[0]

    before = shown()
    rotate(kube.pki)
    kube.write_files()
    after = soon("the new certificate", lambda: shown() if shown() != before else None)
    assert after
    assert kube.is_ready()
    # The clients read theirs again, too.
    names = ("get", "lease,endpoints", "--all-namespaces", "--output=name")
    assert kube.kubectl(*names)


@pytest.mark.fault("K04", "SIGKILL to the etcd of one of three")
def test_three_control_planes_go_on_without_one_database(tmp_path):
    skip_without_binaries()
    with native_control_planes(tmp_path, make_facts(control=3, workers=1)) as kubes:
        for kube in kubes:
            kube.start("ai-how-etcd")
        for kube in kubes:
            soon("etcd", lambda kube=kube: "127.0.0.1:2379" in kube.listening())
            kube.start("kube-apiserver")
        for kube in kubes:
            kube.await_ready()
            kube.start("kube-controller-manager")
        first, second, third = kubes
        members = first.etcdctl("member", "list")
        assert [name for name in ("cp-1", "cp-2", "cp-3") if name in members]
        first.kubectl("create", "configmap", "one", "--from-literal=a=b")
        assert second.kubectl("get", "configmap", "one", "--output=name") == "configmap/one\n"
        lease = ("get", "lease", "kube-controller-manager", "-n=kube-system", "-o=yaml")
        assert "holderIdentity" in soon("a leader", lambda: _found(third.try_kubectl(*lease)))
        first.kill("ai-how-etcd")
        for number, kube in enumerate(kubes):
            soon("an answer", kube.is_ready)
            assert "created" in kube.kubectl("create", "configmap", f"after-{number}")
        first.start("ai-how-etcd")
        soon("the member", lambda: "127.0.0.1:2379" in first.listening())
        endpoints = ("get", "endpoints", "kubernetes", "--output=jsonpath={..ip}")

        def servers():
            return len(set(third.kubectl(*endpoints).split())) == len(kubes)

        soon("the addresses of all API servers", servers)


def _found(text):
    return text if "holderIdentity" in text else None
