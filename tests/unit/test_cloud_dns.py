"""The DNS server of a cluster: what it is told, how it runs, and how its end is seen."""

import json
import runpy
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ai_how.cloud import guest
from ai_how.cloud.causes import KubernetesDiagnosis
from ai_how.cloud.components import entries, services
from ai_how.cloud.facts import API_PORT, CLUSTER_DOMAIN
from ai_how.cloud.identities import CloudObjects, facts_of
from ai_how.cloud.leaves import leaves_of
from ai_how.cloud.pki import NodeKeys
from ai_how.cloud.version_checks import check_versions
from ai_how.clusters.diagnosis.kind import NodeAnswer
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.images.manifest import PACKAGES
from ai_how.process import run
from cloud_bench import cloud_draft, image_of, read_cloud
from cluster_bench import DIGEST
from kube_facts import make_facts

DNS_UNITS = ("kube-dns.service", "kube-names.service")
NODES = json.dumps([{"name": "cp", "ready": "True"}])


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The program that writes what dnsmasq reads, as a module."""
    path = tmp_path_factory.mktemp("names") / "names.py"
    path.write_bytes(guest.names_program())
    return runpy.run_path(str(path))


def service(**spec):
    return {"spec": {"ports": [{"name": "http", "port": 80}], **spec}}


def test_the_program_asks_the_api_of_the_cluster_and_its_domain(names):
    assert names["DOMAIN"] == CLUSTER_DOMAIN
    assert f'"127.0.0.1", {API_PORT}' in guest.names_program().decode()


def test_names_and_addresses_reach_a_file_only_if_they_are_such(names):
    evil = "x\n10.0.0.1 bank.example"
    found = {
        ("default", evil): service(clusterIP="10.96.0.7"),
        (evil, "web"): service(clusterIP="10.96.0.7"),
        ("default", "UPPER"): service(clusterIP="10.96.0.7"),
        ("default", "a.b"): service(clusterIP="10.96.0.7"),
        ("default", "-a"): service(clusterIP="10.96.0.7"),
        ("default", "a" * 64): service(clusterIP="10.96.0.7"),
        ("default", "bad-ip"): service(clusterIP="10.96.0.7 bank.example"),
        ("default", "no-ip"): service(clusterIP=""),
        ("default", "no-spec"): {},
        ("default", "number"): service(clusterIP=7),
        ("default", "alias"): {"spec": {"type": "ExternalName", "externalName": evil}},
        ("default", "headless"): service(clusterIP="None"),
    }
    subset = {
        "addresses": [{"ip": "10.244.1.1", "hostname": evil}, {"ip": evil}, {}],
        "ports": [
            {"name": evil, "port": 80},
            {"name": "http", "port": evil},
            {"name": "http", "port": 0},
            {"name": "http", "port": 80, "protocol": evil},
            {"name": "good", "port": 80, "protocol": "UDP"},
        ],
    }
    hosts, records = names["render"](found, {("default", "headless"): {"subsets": [subset]}})
    host = "headless.default.svc.cluster.local"
    assert hosts.splitlines() == [f"10.244.1.1 10-244-1-1.{host}", f"10.244.1.1 {host}"]
    assert records == f"srv-host=_good._udp.{host},10-244-1-1.{host},80,0,100\n"


def test_a_service_without_an_address_has_no_records(names):
    found = {
        ("default", "none"): service(clusterIP=""),
        ("default", "v6"): service(clusterIP="::1"),
    }
    hosts, records = names["render"](found, {})
    assert hosts == "::1 v6.default.svc.cluster.local\n"
    assert "none" not in records


def test_dnsmasq_is_told_until_it_is_there(names, tmp_path):
    files = names["Files"](tmp_path, tmp_path / "pid")
    files.write("10.0.0.1 a\n", "")
    files.tell()
    assert files.due is not None
    assert (tmp_path / "hosts").read_text() == "10.0.0.1 a\n"
    (tmp_path / "pid").write_text("not a number")
    files.tell()
    assert files.due is not None


@pytest.mark.parametrize("dns", ["own", "bundle", "none"])
def test_only_control_planes_run_a_server_and_only_if_it_is_ours(dns):
    facts = make_facts(control=3, dns=dns)
    for node in facts.nodes:
        is_there = dns == "own" and node.is_control_plane
        assert (set(DNS_UNITS) <= set(services(facts, node))) == is_there
        assert ("names" in {leaf.name for leaf in leaves_of(facts, node)}) == is_there
        paths = {one.path for one in entries(facts, node, NodeKeys({}, ""))}
        assert (guest.NAMES_PROGRAM[1:] in paths) == is_there


def units_of(facts):
    found = {one.path: one.content for one in entries(facts, facts.nodes[0], NodeKeys({}, ""))}
    return [str(found[f"etc/systemd/system/{name}"]) for name in DNS_UNITS]


def test_both_run_without_rights_and_without_keys_that_are_not_theirs():
    server, told = units_of(make_facts())
    for unit in (server, told):
        assert "User=dnsmasq\n" in unit
        assert "NoNewPrivileges=yes\nCapabilityBoundingSet=\n" in unit
        assert "IPAddressDeny=any\n" in unit
    assert "IPAddressAllow=localhost 192.168.130.0/24 10.244.0.0/16\n" in server
    assert "IPAddressAllow=localhost\n" in told
    assert "LoadCredential=names.key:/etc/kubernetes/pki/names.key\n" in told
    assert "pki" not in server


def test_a_name_leads_to_a_new_start_only_where_it_must_and_then_at_once():
    server, _ = units_of(make_facts())
    assert server.index("RestartSec=2\n") < server.index("RestartSec=100ms\n")


def test_nothing_of_the_cluster_is_asked_elsewhere():
    facts = replace(
        make_facts(),
        service_subnet=IPv4Network("10.96.0.0/15"),
        pod_subnet=IPv4Network("172.16.4.0/23"),
    )
    server, _ = units_of(facts)
    zones = ("cluster.local", "96.10.in-addr.arpa", "97.10.in-addr.arpa")
    for zone in (*zones, "4.16.172.in-addr.arpa", "5.16.172.in-addr.arpa"):
        assert f"--local=/{zone}/" in server
    assert server.count("--local=") == 5


def answer_of(**sections):
    return NodeAnswer("cp", is_controller=True, sections={"api": NODES, **sections})


def causes_of(**sections):
    evidence = KubernetesDiagnosis().read([answer_of(**sections)])
    node = NodeEvidence(name="cp", domain="sky-cp", is_controller=True)
    return {cause.id: cause for cause in evidence.find_causes(node)}


def shown(**states):
    return "\n\n".join(
        f"Id={name.replace('_', '-')}.service\nActiveState={state}\nSubState=x\nResult=exit-code"
        for name, state in states.items()
    )


def test_a_cluster_with_another_dns_or_none_has_no_cause_of_ours():
    assert causes_of() == {}


def test_a_server_that_answers_is_no_cause():
    units = shown(kube_dns="active", kube_names="active")
    assert causes_of(dns_units=units, dns="ok\n") == {}


@pytest.mark.parametrize(
    ("server", "told", "cause"),
    [("failed", "active", "dns-down"), ("active", "failed", "dns-names-down")],
)
def test_a_unit_that_does_not_run_is_the_cause(server, told, cause):
    said = "dnsmasq on 1.2.3.4:10053 does not answer: timed out"
    units = shown(kube_dns=server, kube_names=told)
    (found,) = causes_of(dns_units=units, dns=said).values()
    assert found.id == cause
    assert "does not run" in found.text


def test_a_server_that_does_not_answer_is_the_cause_with_what_was_heard():
    units = shown(kube_dns="active", kube_names="active")
    said = "dnsmasq on 1.2.3.4:10053 does not know kubernetes.default.svc.cluster.local\x1b[31m"
    journal = "begins\nservices of the API: 403 forbidden"
    (found,) = causes_of(dns_units=units, dns=said, said_names=journal).values()
    assert found.id == "dns-no-answer"
    assert "does not know kubernetes.default.svc.cluster.local" in found.text
    assert "\x1b" not in found.text
    assert "kube-names: services of the API: 403 forbidden" in found.evidence


def test_the_look_at_a_control_plane_asks_the_server_only_where_it_was_told_to_have_one(tmp_path):
    script = KubernetesDiagnosis().script(is_controller=True, has_input=False)
    identity = tmp_path / "identity"
    text = script.replace("/etc/ai-how/identity", str(identity))
    for units, is_asked in (("a.service kube-dns.service", True), ("kubelet.service", False)):
        identity.write_text(f'SERVICES="{units}"\nADDRESS="192.168.130.11/24"\n')
        lines = run(
            ["/bin/sh"], stdin=text, env={"PATH": "/nowhere"}, check=False
        ).stdout.splitlines()
        assert ("== dns" in lines) == is_asked
        assert "== certificates" in lines
    identity.unlink()
    lines = run(["/bin/sh"], stdin=text, env={"PATH": "/nowhere"}, check=False).stdout.splitlines()
    assert "== certificates" in lines


def draft_with(tmp_path: Path, *packages: str, dns: str = "own"):
    """A cluster whose nodes were made from an image with these packages."""
    draft = cloud_draft(read_cloud(f"kubernetes_config: {{dns: {dns}}}"))
    lines = [f"{name}\t1\tamd64\t{name}\t1\n" for name in packages]
    (tmp_path / PACKAGES).write_text("".join(lines))
    image = image_of()
    manifest = image.manifest.model_copy(update={"packages_sha256": str(hash(packages))})
    return replace(draft, images={DIGEST: replace(image, directory=tmp_path, manifest=manifest)})


def test_an_image_of_an_earlier_version_has_no_dns_and_that_is_said(tmp_path):
    draft = draft_with(tmp_path, "jq")
    assert facts_of(draft).dns == "none"
    (said,) = check_versions(draft)
    assert said.startswith("Pods find no Services by name: the image of control-plane-01 is of an")
    objects = CloudObjects(facts_of(draft))
    assert "kube-dns" not in objects.manifests
    assert "kube-dns" in objects.former


@pytest.mark.parametrize(
    ("packages", "dns"), [(("jq", "dnsmasq-base"), "own"), (("jq",), "bundle"), (("jq",), "none")]
)
def test_dns_is_what_the_file_says_where_the_image_can(packages, dns, tmp_path):
    draft = draft_with(tmp_path, *packages, dns=dns)
    assert facts_of(draft).dns == dns
    assert check_versions(draft) == ()
