"""What a look at the host and into the cluster's directory shows, with the ids of causes."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ai_how.clusters.observation import Observed, Wiring
from ai_how.host.ports import Port, ServedPorts
from ai_how.monitoring.faults import find_ending, find_faults, find_left, read_ends
from ai_how.process import find_tool, run
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths
from cluster_bench import draft_of, everything_seen, read_hpc

DAY = 86400.0


@pytest.fixture(scope="module")
def draft():
    return draft_of(read_hpc())


def found(state: ClusterState, seen: Observed, problems=None) -> dict[tuple[str, str], str]:
    every = find_faults(state, seen, problems or {})
    return {(str(one.id), one.subject): one.text for one in every}


def test_a_cluster_that_is_as_it_should_be_has_no_fault(draft):
    assert found(draft.state, everything_seen(draft)) == {}


def test_a_network_that_is_gone_under_vms(draft):
    seen = everything_seen(draft)
    assert ("network-missing", "network") in found(draft.state, replace(seen, network=None))
    off = replace(seen, network=None, domains={})
    assert found(draft.state, off) == {}, "of a cluster that is off it is no fault"


WIRINGS = [
    (Wiring(bridge_trouble="its bridge virbr1 is gone"), "bridge-gone", "network"),
    (Wiring(dhcp_is_gone=True), "dhcp-gone", "network"),
    (Wiring(uplink_trouble="IPv4 forwarding is off"), "uplink-gone", "network"),
    (Wiring(outside_trouble="pasta is not installed"), "uplink-gone", "network"),
    (Wiring(dead_taps={"compute-01": "vnet3"}), "interface-gone", "compute-01"),
    (Wiring(down_taps={"compute-01": "vnet3"}), "interface-down", "compute-01"),
    (Wiring(unplugged=frozenset({"compute-01"})), "interface-unplugged", "compute-01"),
]


@pytest.mark.parametrize(("wiring", "name", "subject"), WIRINGS, ids=[w[1] for w in WIRINGS])
def test_a_fault_of_the_wiring(draft, wiring, name, subject):
    seen = replace(everything_seen(draft), wiring=wiring)
    assert list(found(draft.state, seen)) == [(name, subject)]


def test_disks_and_ports_and_vms_that_only_look_like_ours(draft):
    port = Port("compute-01", 80, "127.0.0.1", 8080, "10.0.0.2")
    seen = replace(
        everything_seen(draft),
        ports=ServedPorts((port,), 1, None, is_current=False),
        impostors=("copy-of-compute-01",),
    )
    problems = {"compute-01": ("disk missing",), "controller": ("image missing (/x)",)}
    every = found(draft.state, seen, problems)
    assert set(every) == {
        ("disk-missing", "compute-01"),
        ("disk-broken", "controller"),
        ("port-closed", "host"),
        ("foreign-vm", "host"),
    }
    assert every["port-closed", "host"] == "port 127.0.0.1:8080 -> compute-01:80 is not open"


def test_a_killed_run_is_told_of_but_not_one_that_goes_on(tmp_path, draft):
    paths = ClusterPaths(tmp_path / "demo")
    paths.root.mkdir(mode=0o700)
    assert list(find_left(draft.state, paths)) == []
    paths.journal.write_text("{}\n")
    assert [one.id for one in find_left(draft.state, paths)] == ["run-cut-short"]
    with held_lock(paths.lock, doing="hpc start"):
        assert list(find_left(draft.state, paths)) == []


def test_keys_that_are_gone_are_named(tmp_path, draft):
    paths = ClusterPaths(tmp_path / "demo")
    nodes = tuple(one.model_copy(update={"stages_s": {"boot": 1.0}}) for one in draft.state.nodes)
    state = draft.state.model_copy(update={"nodes": nodes})
    keys = [paths.ssh_key, paths.munge_key, *(paths.host_key(one.name) for one in nodes)]
    for key in keys:
        key.parent.mkdir(parents=True, exist_ok=True)
        key.touch()
    assert list(find_left(state, paths)) == []
    paths.munge_key.unlink()
    [fault] = find_left(state, paths)
    assert (fault.id, fault.text) == ("keys-lost", f"gone from {paths.root}: the munge key")


@pytest.mark.parametrize(("days", "text"), [(40, None), (3, "ends in 3 d"), (-1, "has ended")])
def test_a_certificate_authority_is_told_of_before_it_ends(tmp_path, days, text):
    now = time.time()
    [(name, at)] = read_ends([make_authority(tmp_path, now + days * DAY)])
    assert name == "Example Root"
    assert abs(at - now - days * DAY) < 2 * DAY
    every = list(find_ending([(name, now + days * DAY)], now))
    assert [one.text.partition("host, ")[2] for one in every] == ([text] if text else [])


def test_what_is_no_certificate_is_left_out():
    assert list(read_ends(["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])) == []


def make_authority(directory, ends: float) -> str:
    """A certificate authority in PEM that ends then."""
    tool = find_tool("openssl")
    assert tool, "Debian's openssl is among the packages of the tests"
    key, pem = directory / "ca.key", directory / "ca.pem"
    begins = datetime.fromtimestamp(ends - 400 * DAY, UTC).strftime("%Y%m%d%H%M%SZ")
    until = datetime.fromtimestamp(ends, UTC).strftime("%Y%m%d%H%M%SZ")
    subject = ["-subj", "/O=Example/CN=Example Root"]
    base = directory / "demo.srl"
    run([tool, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", directory / "ca.csr", *subject])  # fmt: skip
    (directory / "ca.cnf").write_text(CONFIG.format(base=directory))
    (directory / "index.txt").touch()
    base.write_text("01\n")
    run([tool, "ca", "-batch", "-selfsign", "-config", directory / "ca.cnf", "-keyfile", key,
         "-startdate", begins, "-enddate", until, "-in", directory / "ca.csr", "-out", pem,
         "-notext"])  # fmt: skip
    return pem.read_text()


CONFIG = """\
[ca]
default_ca = demo
[demo]
database = {base}/index.txt
serial = {base}/demo.srl
new_certs_dir = {base}
default_md = sha256
policy = any
x509_extensions = authority
[any]
organizationName = optional
commonName = supplied
[authority]
basicConstraints = critical,CA:true
"""
