"""A device of the host that another VM has: the start is refused before it changes anything."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.clusters.preflight.device_users import check_device_users, find_device_users
from ai_how.errors import HostError
from ai_how.hpc.manager import HpcManager
from ai_how.images.manifest import DISK
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.host_devices import devices_in
from ai_how.plan.journal import Journal
from ai_how.spec.reader import read_spec
from ai_how.state.paths import ClusterPaths, Roots, default_roots, ensure_private_directory
from cluster_bench import make_image

CARD, OTHER = "0000:65:00.0", "0000:b3:00.0"
MDEV = "c2177883-f1bb-47f0-914d-32a22e3a8804"
THEIRS = UUID("33333333-3333-4333-8333-333333333333")
NODE = """\
<node>
  <cpu><mhz>2000</mhz><model>x86_64</model><active>4</active><nodes>1</nodes><sockets>1</sockets>
    <cores>4</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>{name}</name>
    <uuid>11111111-1111-4111-8111-111111111111</uuid>
    <metadata>{mark}</metadata>
    <memory unit='MiB'>512</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <devices>
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source><address domain='0x0000' bus='0x65' slot='0x00' function='0x0'/></source>
      </hostdev>
      <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>
        <source><address uuid='{mdev}'/></source>
      </hostdev>
      <hostdev mode='subsystem' type='usb'>
        <source><vendor id='0x1234'/><product id='0xbeef'/><address bus='101' device='4'/></source>
      </hostdev>
    </devices>
    <test:runstate>{state}</test:runstate>
  </domain>
</node>
"""
MARK = (
    "<ai-how:node xmlns:ai-how='urn:ai-how:cluster:1' cluster='{cluster}' id='{id}' "
    "node='compute-01'{more}/>"
)
RUNNING, OFF = 1, 5
FILE = """\
version: "1.0"
clusters:
  hpc:
    name: mine
    base_image_path: tiny
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 1}}
    compute_nodes:
      - cpu_cores: 1
        memory_gb: 1
        disk_gb: 1
        pcie_passthrough: {{enabled: true, devices: [{{pci_address: "{card}", device_type: gpu}}]}}
"""


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return default_roots(tmp_path / "state")


def make_directory(roots: Roots, name: str) -> ClusterPaths:
    ensure_private_directory(roots.state)
    ensure_private_directory(roots.cluster(name).root)
    return roots.cluster(name)


def node(tmp_path: Path, *, mark: str = "", state: int = RUNNING) -> str:
    """The URI of a libvirt with one VM that has the card and the share of another one."""
    name = "neighbour" if not mark else "theirs-compute-01"
    path = tmp_path / "node.xml"
    path.write_text(NODE.format(name=name, mark=mark, state=state, mdev=MDEV))
    return f"test://{path}"


def mark_of(cluster: str = "theirs", id_: UUID = THEIRS, more: str = "") -> str:
    return MARK.format(cluster=cluster, id=id_, more=more)


def found(
    uri: str, roots: Roots, *wanted: str, own: UUID | None = None
) -> Iterator[tuple[str, str | None]]:
    with LibvirtClient(uri) as client:
        users = find_device_users(client, roots, name="mine", own=own)
        for check in check_device_users(dict.fromkeys(wanted, "compute-01"), users):
            yield f"{check.name} {check.found}", check.advice


@pytest.mark.fault("F67", "another cluster runs with the card, and with a share of it")
def test_the_cluster_that_has_it_is_named_and_how_to_free_it(tmp_path: Path, roots: Roots) -> None:
    make_directory(roots, "theirs")
    uri = node(tmp_path, mark=mark_of())
    assert list(found(uri, roots, CARD, OTHER, MDEV)) == [
        (
            f"the device {one} of compute-01 is in use by compute-01 of the cluster theirs",
            "ai-how hpc stop --cluster theirs",
        )
        for one in (CARD, MDEV)
    ]


@pytest.mark.fault("F67", "a VM of nobody, of another user, or with a copied mark has the card")
@pytest.mark.parametrize(
    ("mark", "who", "hint"),
    [
        ("", "the VM neighbour", "virsh --connect {uri} shutdown neighbour"),
        # A name of a cluster that we do not have is no part of a command.
        (mark_of("x; reboot"), "compute-01 of the cluster x; reboot", None),
        (
            mark_of(more=" uid='4242' state='/home/she/state'"),
            "compute-01 of the cluster theirs, of uid 4242, state directory /home/she/state",
            None,
        ),
    ],
    ids=["no cluster", "a copied mark", "another user"],
)
def test_a_vm_of_others_is_named(
    tmp_path: Path, roots: Roots, mark: str, who: str, hint: str | None
) -> None:
    make_directory(roots, "theirs")
    uri = node(tmp_path, mark=mark)
    told = hint.format(uri=uri) if hint else None
    assert list(found(uri, roots, CARD)) == [
        (f"the device {CARD} of compute-01 is in use by {who}", told)
    ]


def test_a_vm_that_is_off_has_no_device(tmp_path: Path, roots: Roots) -> None:
    assert list(found(node(tmp_path, state=OFF), roots, CARD, MDEV)) == []


def test_a_node_may_have_its_own_and_not_that_of_another_one(tmp_path: Path, roots: Roots) -> None:
    make_directory(roots, "theirs")
    uri = node(tmp_path, mark=mark_of())
    assert list(found(uri, roots, CARD, own=THEIRS)) == []
    with LibvirtClient(uri) as client:
        users = find_device_users(client, roots, name="theirs", own=THEIRS)
        [check] = check_device_users({CARD: "compute-02"}, users)
        assert check.found == "is in use by compute-01 of the same cluster"
        assert check.advice == "ai-how hpc stop --cluster theirs compute-01"
        # A half-made cluster has no id yet.
        wanted = {CARD: "compute-01"}
        users = find_device_users(client, roots, name="theirs", own=None)
        assert check_device_users(wanted, users) == []


@pytest.mark.fault("F67", "two starts at once, each with the same card")
def test_a_start_that_is_under_way_has_its_devices(tmp_path: Path, roots: Roots) -> None:
    paths = make_directory(roots, "soon")
    note = {"kind": "hpc", "devices": [OTHER]}
    Journal.create(
        paths.journal, verb="start", op_id=THEIRS, cluster="soon", note=note
    ).close_file()
    uri = node(tmp_path)
    asked = f"the device {OTHER} of compute-01 is in use by"
    hint = "ai-how hpc stop --cluster soon"
    assert list(found(uri, roots, OTHER)) == [
        (f"{asked} a start of the cluster soon that has not ended, or was cut short", hint)
    ]
    paths.journal.write_bytes(b"damaged")
    assert list(found(uri, roots, OTHER)) == []


@pytest.mark.fault("F67", "a start of a cluster whose card is in use")
def test_a_start_is_refused_before_it_changes_anything(tmp_path: Path, roots: Roots) -> None:
    image, store = make_image(tmp_path / "image"), ImageStore(roots.images)
    with store.draft() as draft:
        (draft / DISK).write_bytes(image.disk.read_bytes())
        store.add(draft, image.manifest)
    file = tmp_path / "mine.yaml"
    file.write_text(FILE.format(card=CARD))
    spec = read_spec(file, {})
    uri = node(tmp_path)
    manager = HpcManager(roots=roots, name="mine", connect=uri)
    with pytest.raises(HostError) as caught:
        manager.start(spec)
    assert caught.value.brief == (f"the device {CARD} of compute-01 is in use by the VM neighbour")
    assert not roots.cluster("mine").journal.exists()


@pytest.mark.parametrize(
    "xml",
    [
        "<x><devices><hostdev><source><address bus='z'/></source></hostdev></devices></x>",
        "<!DOCTYPE x><domain/>",
        "no xml",
    ],
)
def test_what_a_vm_of_others_has_may_be_anything(xml: str) -> None:
    assert list(devices_in(xml)) == []


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("<interface type='hostdev'><source>{pci}</source></interface>", [CARD]),
        ("<disk type='nvme'><source type='pci'>{pci}</source></disk>", [CARD]),
        ("<hostdev type='pci'><source>{pci}</source></hostdev>", [CARD]),
        # Of USB: bus 101 is no bus of PCI.
        ("<hostdev type='usb'><source><address bus='101' device='4'/></source></hostdev>", []),
        ("<interface type='network'><source network='x'/>{pci}</interface>", []),
    ],
)
def test_devices_of_the_host_are_those_with_a_pci_address_there(
    device: str, expected: list[str]
) -> None:
    pci = "<address type='pci' domain='0x0000' bus='0x65' slot='0x00' function='0x0'/>"
    xml = f"<domain><devices>{device.format(pci=pci)}</devices></domain>"
    assert list(devices_in(xml)) == expected
