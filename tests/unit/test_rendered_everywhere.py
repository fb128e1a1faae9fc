"""What every VM and network of ours is made of: nothing listens, nothing is a template twice."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ai_how.guest.ssh import render_known_hosts, render_ssh_config
from ai_how.libvirt_client.xml import read_xml
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.networks.definition import ForwardMode, render_network
from ai_how.vm_management.nodes.domain_definition import Accel, DiskCache
from ai_how.vm_management.xml.render import render_domain
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of
from shapes import DOMAINS, NETWORK, NETWORKS

CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "smartcard", "redirdev")
# Elements by which libvirt would have QEMU listen, or run something of ours outside of its rules.
NEVER = (
    "graphics",
    "listen",
    "seclabel",
    "redirdev",
    "sound",
    "vsock",
    "shmem",
    "watchdog",
    "tpm",
    "sysinfo",
    "iothreads",
)
FILES = {
    "plain": (),
    "every option": (
        (
            "hardware: {acceleration: {enable_kvm: true, cpu_model: host,"
            " cpu_features: [+avx2, -svm], cpu_topology: {sockets: 1, cores: 1, threads: 1},"
            " performance: {enable_hugepages: true, hugepage_size: 2M}}}"
        ),
        "storage: {virtio_fs: {enabled: true}}",
    ),
}


def documents() -> Iterator[tuple[str, ET.Element]]:
    """Each golden document, and each shape with all that can be varied."""
    data = Path(__file__).resolve().parents[1] / "golden" / "data"
    for path in sorted(data.glob("*.xml")):
        yield path.name, read_xml(path.read_text())
    for name, shape in DOMAINS.items():
        for accel, cache, is_direct in product(Accel, DiskCache, (True, False)):
            boot = shape.boot if is_direct else None
            varied = replace(shape, accel=accel, disk_cache=cache, boot=boot)
            yield f"{name} {accel} {cache}", read_xml(render_domain(varied))
    for name, shape in NETWORKS.items():
        for mode in ForwardMode:
            yield f"{name} {mode}", read_xml(render_network(replace(shape, mode=mode)))


@pytest.mark.fault("S09", "every golden file and every shape of a VM")
@pytest.mark.fault("S20", "every golden file and every shape of a VM")
def test_no_vm_listens_to_anything_but_its_own_files(points):
    seen = 0
    for name, root in documents():
        seen += 1
        for tag in CHARACTER_DEVICES:
            for device in root.iter(tag):
                assert device.get("type") in {"pty", "unix", "file"}, name
                assert device.find("source") is None, f"{name}: {tag} has an address of its own"
        for tag in NEVER:
            assert root.find(f".//{tag}") is None, f"{name}: {tag}"
        # A boot loader needs a screen, which leads nowhere.
        assert root.find(".//video") is None or root.find("./os/kernel") is None, name
        assert not [one.tag for one in root.iter() if one.tag.startswith("{http")], name
    points(seen)
    assert seen > 50


@pytest.mark.fault("S09", "the VMs that a cluster file leads to")
@pytest.mark.parametrize("name", FILES)
def test_no_node_has_a_display_at_all(tmp_path, name):
    draft = draft_of(read_hpc(*FILES[name]), storage=tmp_path)
    images = {DIGEST: make_image(tmp_path / "image")}
    paths = ClusterPaths(tmp_path / "hpc")
    rendering = rendering_of(draft, StoragePaths(tmp_path), paths, images)
    for node, one in draft.nodes:
        root = read_xml(rendering.domain_xml(node, one))
        assert root.find(".//graphics") is None
        assert root.find(".//video") is None
        assert [e.get("type") for e in root.find("devices").iter("interface")] == ["network"]


def test_a_node_of_a_prepared_image_has_a_screen_for_its_boot_loader_alone(tmp_path):
    draft = draft_of(read_hpc(), storage=tmp_path)
    image = make_image(tmp_path / "image")
    recipe = {"prepared_from": "0" * 64}
    theirs = replace(
        image, manifest=image.manifest.model_copy(update={"recipe": recipe, "firmware": "uefi"})
    )
    paths = ClusterPaths(tmp_path / "hpc")
    rendering = rendering_of(draft, StoragePaths(tmp_path), paths, {DIGEST: theirs})
    for node, one in draft.nodes:
        root = read_xml(rendering.domain_xml(node, one))
        assert root.find("devices/video") is not None
        assert root.find(".//graphics") is None
        assert root.find("os").get("firmware") == "efi"


@pytest.mark.fault("S33", "the network that a cluster file leads to")
def test_a_clusters_network_is_behind_nat_and_serves_its_own_nodes_only(tmp_path):
    """The model: a cluster sees itself and, by NAT, the outside; nobody outside sees it.

    Names of the cluster are never asked of other servers, nobody else gets an address, no port is
    forwarded, and the bridge has no address but the gateway's, in a private subnet.
    """
    draft = draft_of(read_hpc(), storage=tmp_path)
    images = {DIGEST: make_image(tmp_path / "image")}
    paths = ClusterPaths(tmp_path / "hpc")
    root = read_xml(rendering_of(draft, StoragePaths(tmp_path), paths, images).network_xml())
    assert root.find("forward").attrib == {"mode": "nat"}
    assert len(root.find("forward")) == 0
    assert root.find("domain").get("localOnly") == "yes"
    assert len(root.findall("ip")) == 1
    assert root.find("ip/dhcp/range") is None
    assert len(root.findall("ip/dhcp/host")) == len(draft.state.nodes)
    assert IPv4Network(str(draft.state.network.subnet)).is_private
    for tag in ("route", "virtualport", "portgroup", "vlan", "dns/forwarder"):
        assert root.find(tag) is None, tag


@pytest.mark.fault("S33", "every mode of a network")
@pytest.mark.parametrize("mode", ForwardMode)
def test_no_network_is_a_bridge_into_the_hosts_own(mode):
    root = read_xml(render_network(replace(NETWORK, mode=mode)))
    forward = root.find("forward")
    assert forward is None or forward.get("mode") in {"nat", "open"}
    assert forward is None or forward.get("dev") is None


PAYLOADS = (
    "{{ 7*7 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch canary') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}",
    "{# hidden #}",
    "{{ ''|attr('__class__') }}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
)


@pytest.mark.fault("S26", "payloads through a cluster file into everything that is rendered")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_value_is_never_a_template(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    source = f"/srv/{payload}"
    quoted = "'" + source.replace("'", "''").replace("${", "$${") + "'"
    hpc = read_hpc(
        "storage: {virtio_fs: {enabled: true}}",
        nodes=(
            "compute_nodes: [{cpu_cores: 1, memory_gb: 1, disk_gb: 10, virtio_fs_mounts:"
            f" [{{tag: data, host_path: {quoted}, mount_point: /data}}]}}]"
        ),
    )
    draft = draft_of(hpc, storage=tmp_path / payload)
    images = {DIGEST: make_image(tmp_path / "image")}
    paths = ClusterPaths(tmp_path / payload.replace("/", "_") / "hpc")
    rendering = rendering_of(draft, StoragePaths(tmp_path / payload), paths, images)
    node, one = draft.nodes[-1]
    root = read_xml(rendering.domain_xml(node, one))
    texts = [value for element in root.iter() for value in element.attrib.values()]
    assert source in texts
    assert str(one.disk) in texts
    config = render_ssh_config(draft.state, paths, [payload])
    assert payload.replace("%", "%%").replace("'", "'\\''") in config
    assert render_known_hosts({payload: "ssh-ed25519 AAAA"}).startswith(payload)
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault("S26", "payloads in texts that only people read")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_description_stays_as_it_was(payload):
    quoted = "'" + payload.replace("'", "''").replace("${", "$${") + "'"
    text = (
        f'version: "1.0"\nmetadata: {{description: {quoted}}}\nclusters:\n  hpc:\n'
        "    name: demo\n    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}\n"
        "    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}\n"
    )
    spec, problems = read_spec_text(text, "f", {})
    assert not problems
    assert spec.metadata.description == payload
