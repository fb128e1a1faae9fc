"""The keys and certificates of a Kubernetes cluster: what openssl and TLS say of them."""

import shutil
import socket
import ssl
import stat
import sys
import threading
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest

from ai_how.cloud.leaves import ADMIN, leaves_of
from ai_how.cloud.pki import (
    find_ending,
    find_lost,
    read_admin,
    read_keys,
    rotate,
)
from ai_how.errors import StateError
from ai_how.process import run
from kube_facts import ensure_pki, make_facts, make_node

FACTS = make_facts()
CONTROL, WORKER = FACTS.nodes[:2]
PERMANENT = {
    "ca.pem",
    "front-proxy-ca.pem",
    "etcd-ca.pem",
    "service-accounts.pem",
    "encryption.key",
}


@pytest.fixture
def directory(tmp_path):
    place = tmp_path / "secrets" / "pki"
    ensure_pki(place, FACTS)
    return place


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def find_stale(directory, facts, now=None):
    """The nodes that would get other keys than they have."""
    place = directory.with_name(f"{directory.name}-as-it-would-be")
    shutil.copytree(directory, place)
    ensure_pki(place, facts, now)
    before, after = contents(directory), contents(place)
    shutil.rmtree(place)
    return tuple(
        node.name
        for node in facts.nodes
        if any(
            before.get(name) != pem
            for name, pem in after.items()
            if name.startswith(f"nodes/{node.name}/")
        )
    )


def end_of(path):
    """When a certificate ends, as openssl says it."""
    return shown(path, "-enddate").strip().removeprefix("notAfter=")


def unpack(directory, facts, node, place):
    """The files of a node, as the node has them."""
    for path, content in read_keys(directory, facts, node).files.items():
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return place


def openssl(*arguments):
    return run(["openssl", *map(str, arguments)], check=False)


def shown(path, *what):
    return openssl("x509", "-in", path, "-noout", *what).stdout


def test_all_files_are_private(directory):
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_second_call_changes_nothing(directory):
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    ensure_pki(directory, FACTS)
    read_keys(directory, FACTS, CONTROL)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


@pytest.mark.parametrize("facts", [make_facts(), make_facts(control=3, workers=1)])
def test_openssl_verifies_each_certificate_for_its_purpose(tmp_path, facts):
    ensure_pki(tmp_path / "pki", facts)
    for node in facts.nodes:
        place = unpack(tmp_path / "pki", facts, node, tmp_path / node.name)
        for leaf in leaves_of(facts, node):
            ca = {"ca": "ca", "front-proxy-ca": "front-proxy-ca", "etcd-ca": "etcd/ca"}[leaf.ca]
            purposes = [
                *(["sslserver"] if leaf.is_server else []),
                *(["sslclient"] if leaf.is_client else []),
            ]
            assert purposes
            for purpose in purposes:
                checked = openssl(
                    *("verify", "-x509_strict", "-purpose", purpose),
                    *("-CAfile", place / f"{ca}.crt", place / f"{leaf.name}.crt"),
                )
                assert checked.returncode == 0, (leaf.name, checked.stderr)


def test_names_of_the_api_server_cover_every_way_to_it(tmp_path):
    facts = make_facts(control=3, workers=1)
    ensure_pki(tmp_path / "pki", facts)
    for node in facts.control_planes:
        place = unpack(tmp_path / "pki", facts, node, tmp_path / node.name)
        text = shown(place / "apiserver.crt", "-ext", "subjectAltName")
        found = set(text.replace("\n", ",").replace(" ", "").split(","))
        assert found >= {
            *("DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc"),
            *("DNS:kubernetes.default.svc.cluster.local", "DNS:localhost", "IPAddress:127.0.0.1"),
            *("IPAddress:10.96.0.1", "DNS:cp-1", "DNS:cp-2.demo", "DNS:cp-3"),
            *(f"IPAddress:{one.address}" for one in facts.control_planes),
        }


def test_users_of_the_api_are_those_that_kubernetes_gives_rights_to(directory, tmp_path):
    place = unpack(directory, FACTS, CONTROL, tmp_path / "node")
    subjects = {
        "kubelet-client": "O = system:nodes, CN = system:node:cp-1",
        "kube-proxy": "CN = system:kube-proxy",
        "controller-manager": "CN = system:kube-controller-manager",
        "scheduler": "CN = system:kube-scheduler",
        "front-proxy-client": "CN = front-proxy-client",
        "apiserver-kubelet-client": "CN = kube-apiserver-kubelet-client",
        "admin": "O = system:masters, CN = ai-how-admin",
    }
    found = {
        name: shown(place / f"{name}.crt", "-subject").removeprefix("subject=").strip()
        for name in subjects
    }
    assert found == subjects


def test_a_worker_gets_no_key_of_the_cluster(directory):
    keys = read_keys(directory, FACTS, WORKER)
    assert set(keys.files) == {
        "ca.crt",
        *("kubelet.crt", "kubelet.key", "kubelet-client.crt", "kubelet-client.key"),
        *("kube-proxy.crt", "kube-proxy.key"),
    }
    assert keys.encryption_key == ""


def test_control_planes_share_the_keys_of_the_cluster_and_no_others(tmp_path):
    facts = make_facts(control=3)
    ensure_pki(tmp_path, facts)
    first, second, _ = (read_keys(tmp_path, facts, one) for one in facts.control_planes)
    shared = {name for name in first.files if first.files[name] == second.files[name]}
    assert shared == {
        *("ca.crt", "ca.key", "front-proxy-ca.crt", "etcd/ca.crt", "sa.key", "sa.pub"),
        *("admin.crt", "admin.key"),
    }
    assert first.encryption_key == second.encryption_key
    assert len(b64decode(first.encryption_key)) == 32
    assert not [name for name in first.files if name in {"etcd/ca.key", "front-proxy-ca.key"}]


def test_secrets_are_not_in_the_text_of_an_error(directory):
    keys, admin = read_keys(directory, FACTS, CONTROL), read_admin(directory)
    assert keys.encryption_key not in repr(keys)
    assert "PRIVATE" not in repr(keys) + repr(admin)


def test_a_handshake_succeeds_between_two_nodes_and_with_no_other_ca(directory, tmp_path):
    place = unpack(directory, FACTS, CONTROL, tmp_path / "one")
    ensure_pki(tmp_path / "foreign", FACTS)
    foreign = unpack(tmp_path / "foreign", FACTS, CONTROL, tmp_path / "two")
    assert handshake(place, place, "kubernetes.default.svc") == "ok"
    assert handshake(place, place, "127.0.0.1") == "ok"
    assert "not valid for" in handshake(place, place, "example.org")
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(place, foreign, "127.0.0.1")


def handshake(server, client, name):
    """A client of the API connects to the API server by this name; both show a certificate."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server / "ca.crt")
    serving.load_cert_chain(server / "apiserver.crt", server / "apiserver.key")
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=client / "ca.crt")
    asking.load_cert_chain(client / "kubelet-client.crt", client / "kubelet-client.key")
    ours, theirs = socket.socketpair()

    def serve():
        try:
            with serving.wrap_socket(theirs, server_side=True) as line:
                line.sendall(b"ok")
        except (OSError, ssl.SSLError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(ours, server_hostname=name) as line:
            return line.recv(2).decode()
    except ssl.SSLError as error:
        ours.close()
        return str(error)
    finally:
        thread.join()


def test_lives_are_ten_years_and_one_and_begin_a_little_earlier(tmp_path):
    now = datetime(2031, 3, 1, 12, tzinfo=UTC)
    ensure_pki(tmp_path, FACTS, now)
    assert end_of(tmp_path / "etcd-ca.pem") == "Feb 28 12:00:00 2041 GMT"
    for name in ("admin", "nodes/cp-1/apiserver", "nodes/cp-1/etcd/peer"):
        assert end_of(tmp_path / f"{name}.pem") == "Feb 29 12:00:00 2032 GMT"
    start = shown(tmp_path / "ca.pem", "-startdate")
    assert start.strip() == "notBefore=Mar  1 11:55:00 2031 GMT"


@pytest.mark.fault("K05", "within a month of the end of a certificate")
def test_a_leaf_is_renewed_within_a_month_of_its_end(tmp_path):
    now = datetime.now(UTC)
    ensure_pki(tmp_path, FACTS, now)
    before = contents(tmp_path)
    early, late = now + timedelta(days=334), now + timedelta(days=336)
    assert find_stale(tmp_path, FACTS, early) == ()
    assert find_ending(tmp_path, early) is None
    assert " ends on " in (find_ending(tmp_path, late) or "")
    assert find_ending(tmp_path / "nowhere", late) is None
    ensure_pki(tmp_path, FACTS, early)
    assert contents(tmp_path) == before
    assert find_stale(tmp_path, FACTS, late) == tuple(one.name for one in FACTS.nodes)
    ensure_pki(tmp_path, FACTS, late)
    after = contents(tmp_path)
    assert {name for name in before if before[name] == after[name]} == PERMANENT


@pytest.mark.fault("K08", "an end is looked for while another run replaces all leaves")
def test_an_end_is_looked_for_while_another_run_replaces_the_leaves(directory):
    is_over = threading.Event()

    def replace_all():
        while not is_over.is_set():
            rotate(directory)
            ensure_pki(directory, FACTS)

    other = threading.Thread(target=replace_all)
    other.start()
    try:
        assert {find_ending(directory) for _ in range(100)} == {None}
    finally:
        is_over.set()
        other.join()


def test_a_leaf_ends_with_its_ca_and_is_then_not_renewed_for_ever(tmp_path):
    now = datetime.now(UTC)
    ensure_pki(tmp_path, FACTS, now)
    late = now + timedelta(days=3640)
    ensure_pki(tmp_path, FACTS, late)
    assert find_ending(tmp_path, late) is None
    before = contents(tmp_path)
    assert end_of(tmp_path / "nodes/cp-1/kubelet.pem") == end_of(tmp_path / "ca.pem")
    ensure_pki(tmp_path, FACTS, late + timedelta(days=1))
    assert contents(tmp_path) == before


def test_a_changed_address_renews_what_names_it(directory):
    moved = replace(WORKER, address=IPv4Address("192.168.130.77"))
    facts = make_facts(nodes=(CONTROL, moved, FACTS.nodes[2]))
    before = contents(directory)
    assert find_stale(directory, facts) == (moved.name,)
    assert contents(directory) == before
    ensure_pki(directory, facts)
    after = contents(directory)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"nodes/worker-1/kubelet.pem"}
    assert find_stale(directory, facts) == ()


def test_a_second_control_plane_changes_the_names_of_the_first(directory):
    facts = make_facts(nodes=(*FACTS.nodes, make_node("cp-9", 9, control=True)))
    assert find_stale(directory, facts) == ("cp-1", "cp-9")


@pytest.mark.parametrize("content", [b"", b"half of -----BEGIN EC PRIVATE KEY-----\nMHcCA"])
def test_a_damaged_leaf_is_made_anew(directory, content):
    path = directory / "nodes" / "cp-1" / "apiserver.pem"
    path.write_bytes(content)
    assert find_stale(directory, FACTS) == ("cp-1",)
    ensure_pki(directory, FACTS)
    assert find_stale(directory, FACTS) == ()


def test_a_leaf_with_the_key_of_another_is_made_anew(directory):
    node = directory / "nodes" / "cp-1"
    mine, other = ((node / f"{one}.pem").read_text() for one in ("scheduler", "kubelet"))
    begin = "-----BEGIN CERTIFICATE-----"
    mixed = other.partition(begin)[0] + begin + mine.partition(begin)[2]
    (node / "scheduler.pem").write_text(mixed)
    assert find_stale(directory, FACTS) == ("cp-1",)


@pytest.mark.parametrize("name", sorted(PERMANENT))
def test_a_damaged_key_of_the_cluster_is_never_replaced(directory, name):
    (directory / name).write_bytes(b"torn")
    before = contents(directory)
    with pytest.raises(StateError, match=f"{name} is damaged"):
        ensure_pki(directory, FACTS)
    assert contents(directory) == before


def test_drafts_of_a_killed_run_are_no_keys(directory):
    draft = directory / ".ca.pem.0123abcd.draft"
    draft.write_bytes(b"-----BEGIN EC PRI")
    rotate(directory)
    ensure_pki(directory, FACTS)
    assert find_stale(directory, FACTS) == ()


def test_rotation_replaces_the_leaves_and_keeps_the_keys_of_the_cluster(directory):
    before = contents(directory)
    rotate(directory)
    assert set(contents(directory)) == PERMANENT
    assert find_stale(directory, FACTS) == tuple(one.name for one in FACTS.nodes)
    assert find_lost(directory) == ()
    ensure_pki(directory, FACTS)
    after = contents(directory)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] == after[name]} == PERMANENT


@pytest.mark.fault("K05", "keys without which a cluster cannot go on")
def test_lost_keys_are_named(directory, tmp_path):
    assert find_lost(directory) == ()
    (directory / "etcd-ca.pem").unlink()
    (directory / "encryption.key").unlink()
    assert find_lost(directory) == ("the CA of etcd", "the key for Secrets at rest")
    assert len(find_lost(tmp_path / "nothing")) == len(PERMANENT)
    with pytest.raises(StateError, match="not in"):
        read_admin(tmp_path / "nothing")


def test_many_threads_read_the_keys_of_their_nodes_at_once(tmp_path):
    facts, found = make_facts(workers=12), {}
    ensure_pki(tmp_path, facts)
    for one in facts.nodes:
        for path in (tmp_path / "nodes" / one.name).glob("*.pem"):
            path.unlink()

    def read(node):
        found[node.name] = read_keys(tmp_path, facts, node)

    threads = [threading.Thread(target=read, args=(one,)) for one in facts.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {one.name for one in facts.nodes}
    assert find_stale(tmp_path, facts) == ()


def test_the_library_is_loaded_only_where_certificates_are_made():
    code = (
        "import sys; import ai_how.cloud.pki, ai_how.cloud.components\n"
        "from ai_how.cloud.pki import find_lost; from pathlib import Path\n"
        "find_lost(Path('/nonexistent')); sys.exit('cryptography' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_administrator_is_in_the_group_that_may_do_everything():
    assert ADMIN.organisation == "system:masters"
