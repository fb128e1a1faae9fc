"""Names of Services: a real API, our program and a real dnsmasq, without a VM."""

import json
import sys
from pathlib import Path

import pytest

import dns_query
from ai_how.cloud import guest
from ai_how.cloud.dns import DNS_PORT
from ai_how.cloud.manifests import base_manifests, former_manifests
from ai_how.waiting import Deadline, wait_until
from kube_facts import make_facts
from native_kubernetes import native_kubernetes, skip_without_binaries

FACTS = make_facts()
SEEN_S = 60.0
ADDRESS = str(FACTS.control_planes[0].address)
UPSTREAM = "127.0.0.2"
DOMAIN = "svc.cluster.local"
NO_SUCH = ("NXDOMAIN", [])
# Its unit gives it a user without rights.
AS_NOBODY = ("unshare", "--user")
# As systemd does with `Restart=always`.
AGAIN = 'while :; do "$@"; sleep 0.1; done'


@pytest.fixture(scope="module")
def kube(tmp_path_factory):
    """A control plane with its DNS server, and a resolver that it asks for other names."""
    skip_without_binaries()
    with native_kubernetes(tmp_path_factory.mktemp("dns"), FACTS) as started:
        for place in ("run/kube-dns", "run/kube-names"):
            (started.root / place).mkdir(parents=True)
        started.path("/etc/resolv.conf").write_text(f"nameserver {UPSTREAM}\n")
        started.run_beside(
            *("upstream", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-hosts"),
            *("--no-resolv", "--bind-interfaces", f"--listen-address={UPSTREAM}"),
            *("--address=/example.org/203.0.113.7", "--log-queries"),
        )
        server = (*AS_NOBODY, *started.command_of("kube-dns"))
        started.run_beside("kube-dns", "sh", "-c", AGAIN, "sh", *server)
        start_names(started)
        started.kubectl("apply", "-f", "-", stdin=base_manifests(FACTS))
        yield started


def start_names(kube):
    program, *words = kube.command_of("kube-names")
    keys = f"CREDENTIALS_DIRECTORY={kube.path('/etc/kubernetes/pki')}"
    own = kube.path(program)
    kube.run_beside("kube-names", "env", keys, sys.executable, own, *words)


def soon(what, ask):
    return wait_until(ask, Deadline.after(SEEN_S), what, interval_s=0.3)


def look_up(kube, name, kind="A", transport="udp"):
    program = Path(dns_query.__file__)
    words = (transport, ADDRESS, str(DNS_PORT), kind, name)
    done = kube.ask(sys.executable, program, *words, check=False)
    if done.returncode:
        return done.stderr.splitlines()[-1], []
    told = json.loads(done.stdout)
    return told["code"], told["answers"]


def await_answer(kube, name, wanted, kind="A"):
    """Until the server says that; the error has what it said last."""
    said = []

    def is_there():
        said[:] = [look_up(kube, name, kind)]
        return said == [wanted]

    try:
        soon(f"{kind} of {name}", is_there)
    except BaseException as error:
        error.add_note(f"{said}, not {wanted}; {kube.log('kube-names')}; {kube.log('kube-dns')}")
        raise


def found(*answers):
    return "NOERROR", sorted(answers)


def create(kube, kind, name, **fields):
    thing = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}
    kube.kubectl("apply", "-f", "-", stdin=json.dumps(thing))


def service(kube, name, **spec):
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    create(kube, "Service", name, spec={"ports": ports, **spec})


def address_of(kube, name):
    return kube.kubectl("get", "service", name, "--output=jsonpath={.spec.clusterIP}")


def test_pods_find_a_service_until_it_is_removed(kube):
    service(kube, "web")
    address = address_of(kube, "web")
    name = f"web.default.{DOMAIN}"
    await_answer(kube, name, found(address))
    assert look_up(kube, name, transport="tcp") == found(address)
    assert look_up(kube, name.upper()) == found(address)
    assert look_up(kube, address, "PTR") == found(name)
    # There is such a name, without an address of this kind: resolvers go on with the other.
    assert look_up(kube, name, "AAAA") == found()
    await_answer(kube, f"_http._tcp.{name}", found(f"80 {name}"), "SRV")
    kube.kubectl("delete", "service", "web")
    await_answer(kube, name, NO_SUCH)
    await_answer(kube, f"_http._tcp.{name}", NO_SUCH, "SRV")
    await_answer(kube, address, NO_SUCH, "PTR")


def test_the_api_and_the_server_itself_have_names(kube):
    await_answer(kube, f"kubernetes.default.{DOMAIN}", found(str(FACTS.service_ip)))
    await_answer(kube, f"kube-dns.kube-system.{DOMAIN}", found(str(FACTS.dns_ip)))


def test_a_headless_service_has_the_addresses_and_names_of_its_pods(kube):
    """With Endpoints as those of a StatefulSet; one more is not ready."""
    service(kube, "db", clusterIP="None")
    pods = [{"ip": f"10.244.1.{one}", "hostname": f"db-{one}"} for one in (1, 2)]
    subset = {
        "addresses": [*pods, {"ip": "10.244.1.3"}],
        "notReadyAddresses": [{"ip": "10.244.1.4", "hostname": "db-4"}],
        "ports": [{"name": "http", "port": 8080}],
    }
    create(kube, "Endpoints", "db", subsets=[subset])
    name = f"db.default.{DOMAIN}"
    await_answer(kube, name, found("10.244.1.1", "10.244.1.2", "10.244.1.3"))
    assert look_up(kube, f"db-2.{name}") == found("10.244.1.2")
    assert look_up(kube, "10.244.1.2", "PTR") == found(f"db-2.{name}")
    assert look_up(kube, f"10-244-1-3.{name}") == found("10.244.1.3")
    assert look_up(kube, f"db-4.{name}") == NO_SUCH
    targets = [f"8080 {pod}.{name}" for pod in ("db-1", "db-2", "10-244-1-3")]
    await_answer(kube, f"_http._tcp.{name}", found(*targets), "SRV")
    create(kube, "Endpoints", "db", subsets=[{**subset, "addresses": pods[1:]}])
    await_answer(kube, name, found("10.244.1.2"))


def test_an_external_name_is_found_if_it_is_one_of_the_cluster(kube):
    service(kube, "real")
    for name, to in {"alias": f"real.default.{DOMAIN}.", "outside": "example.org"}.items():
        spec = {"type": "ExternalName", "externalName": to}
        create(kube, "Service", name, spec=spec)
    address = address_of(kube, "real")
    await_answer(kube, f"alias.default.{DOMAIN}", found(address))
    assert look_up(kube, f"outside.default.{DOMAIN}") == NO_SUCH
    # Its address has the name of what has it.
    assert look_up(kube, address, "PTR") == found(f"real.default.{DOMAIN}")


def test_names_in_a_circle_end_nothing(kube):
    for name, to in (("a", "b"), ("b", "a")):
        spec = {"type": "ExternalName", "externalName": f"{to}.default.{DOMAIN}"}
        create(kube, "Service", name, spec=spec)
    service(kube, "after-a-circle")
    await_answer(
        kube, f"after-a-circle.default.{DOMAIN}", found(address_of(kube, "after-a-circle"))
    )
    assert look_up(kube, f"a.default.{DOMAIN}") == NO_SUCH


def test_only_other_names_are_asked_elsewhere(kube):
    assert look_up(kube, "example.org") == found("203.0.113.7")
    for name, kind in (
        (f"none.default.{DOMAIN}", "A"),
        ("10.96.200.7", "PTR"),
        ("10.244.200.7", "PTR"),
    ):
        assert look_up(kube, name, kind) == NO_SUCH
    # There are names below it.
    assert look_up(kube, "cluster.local") == found()
    asked = kube.log("upstream")
    assert "example.org" in asked
    assert "cluster.local" not in asked
    assert "in-addr.arpa" not in asked


@pytest.mark.fault("K01", "SIGKILL to the API server, the DNS server and who tells it")
def test_names_outlive_the_api_and_both_programs(kube):
    service(kube, "before")
    name, address = f"before.default.{DOMAIN}", address_of(kube, "before")
    await_answer(kube, name, found(address))
    kube.kill("kube-apiserver")
    assert look_up(kube, name) == found(address)
    kube.start("kube-apiserver")
    kube.await_ready()
    service(kube, "after")
    await_answer(kube, f"after.default.{DOMAIN}", found(address_of(kube, "after")))

    kube.kill("kube-names")
    kube.kubectl("delete", "service", "after")
    assert look_up(kube, name) == found(address)
    start_names(kube)
    await_answer(kube, f"after.default.{DOMAIN}", NO_SUCH)

    kube.ask("kill", "-9", kube.path("/run/kube-dns/pid").read_text().strip())
    await_answer(kube, name, found(address))
    service(kube, "last")
    await_answer(kube, f"last.default.{DOMAIN}", found(address_of(kube, "last")))


def test_a_version_that_is_too_old_is_refused_and_all_is_listed_anew(kube):
    """Of the program itself, in which a real API says 410 to a watch."""
    helper = kube.root / "gone.py"
    helper.write_text(
        "import runpy, sys, time\n"
        "names = runpy.run_path(sys.argv[1])\n"
        "book = names['Book']()\n"
        "try:\n"
        "    names['watch'](names['connect'](), 'services', '1', book)\n"
        "except names['Refused'] as error:\n"
        "    print(error)\n"
    )
    service(kube, "old")
    program = kube.path(guest.NAMES_PROGRAM)
    keys = f"CREDENTIALS_DIRECTORY={kube.path('/etc/kubernetes/pki')}"
    assert kube.ask("env", keys, sys.executable, helper, program).stdout.startswith("410 ")


def test_the_program_may_read_services_and_endpoints_and_nothing_else(kube):
    as_names = "--as=ai-how:names"
    for what, answer in {
        "list services": "yes",
        "watch endpoints": "yes",
        "list secrets": "no",
        "list pods": "no",
        "create services": "no",
        "patch endpoints": "no",
    }.items():
        asked = ("auth", "can-i", *what.split(), as_names, "--all-namespaces")
        assert kube.try_kubectl(*asked).splitlines()[-1] == answer, what


def test_the_service_leads_to_the_control_plane_for_every_proxy(kube):
    """kube-proxy reads EndpointSlices, which controllers make of our Endpoints."""
    asked = ("get", "endpointslices", "-n=kube-system", "-l=kubernetes.io/service-name=kube-dns")
    words = (*asked, "--output=json")
    slices = soon("a slice", lambda: json.loads(kube.kubectl(*words))["items"])
    assert [each["addresses"] for one in slices for each in one["endpoints"]] == [[ADDRESS]]
    ports = sorted((port["protocol"], port["port"]) for one in slices for port in one["ports"])
    assert ports == [("TCP", DNS_PORT), ("UDP", DNS_PORT)]


def ask_as_why_does(kube, port=DNS_PORT):
    program = kube.path(guest.NAMES_PROGRAM)
    done = kube.ask(sys.executable, program, "ask", ADDRESS, str(port), check=False)
    return done.stdout.strip() or done.stderr.strip()


def test_why_learns_whether_the_server_answers(kube):
    soon("an answer", lambda: ask_as_why_does(kube) == "ok")
    place = f"dnsmasq on {ADDRESS}:{DNS_PORT}"
    assert ask_as_why_does(kube, 1).startswith(f"dnsmasq on {ADDRESS}:1 does not answer: ")
    hosts = kube.path("/run/kube-names/hosts")
    kube.kill("kube-names")
    hosts.write_text("")
    kube.ask("kill", "-HUP", kube.path("/run/kube-dns/pid").read_text().strip())
    name = f"kubernetes.default.{DOMAIN}"
    soon("no names", lambda: ask_as_why_does(kube) == f"{place} does not know {name}")
    start_names(kube)
    soon("an answer", lambda: ask_as_why_does(kube) == "ok")


def test_another_dns_takes_the_place_of_ours_and_none_of_others(kube):
    """By the program of control planes, as a start with `dns: bundle` or `none` has it."""
    path = kube.root / "kube.py"
    text = (
        guest.program().decode().replace("/etc/kubernetes/pki", f"{kube.root}/etc/kubernetes/pki")
    )
    path.write_text(text.replace("/run/ai-how/kube.last", str(kube.root / "kube.last")))
    former = json.loads(former_manifests(make_facts(dns="bundle")))["items"]
    given = json.dumps({"objects": [], "former": former})
    kube.ask(sys.executable, path, "apply", stdin=given)
    names = ("get", "service,endpoints", "kube-dns", "-n=kube-system", "--output=name")
    assert soon("no Service", lambda: "service/" not in kube.try_kubectl(*names))
    kube.kubectl("create", "service", "clusterip", "kube-dns", "-n=kube-system", "--tcp=53")
    kube.ask(sys.executable, path, "apply", stdin=given)
    assert "service/kube-dns" in kube.try_kubectl(*names)
