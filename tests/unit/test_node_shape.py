"""What was asked for in the file, and the VM that a node becomes."""

import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.host_devices import PciAddress
from ai_how.spec.identity import mac_address, object_uuid
from ai_how.spec.models import HpcSpec
from ai_how.spec.nodes import nodes_of
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    CpuMode,
    CpuTopology,
    DomainDefinition,
    MemoryBacking,
    NumaCell,
)
from ai_how.vm_management.nodes.node_domain import (
    EMULATED_MODEL,
    HostFeatures,
    NodePlacement,
    define_domain,
    pin_cpus,
    pin_nodes,
)
from ai_how.vm_management.xml.render import render_domain

CLUSTER = UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f001")
PLACE = NodePlacement(
    network="demo",
    disk=Path("/srv/node.qcow2"),
    backing_chain=(Path("/srv/base.qcow2"),),
    console_log=Path("/srv/node.log"),
    boot=None,
)
INTEL = HostFeatures(Accel.KVM, "vmx")
AMD = HostFeatures(Accel.KVM, "svm")
EMULATED = HostFeatures(Accel.TCG, None)


def hpc_with(acceleration: dict | None = None, **node: object) -> HpcSpec:
    """A controller, and one compute node of 4 vCPUs and 4 GiB with the given keys."""
    return HpcSpec.model_validate(
        {
            "name": "demo",
            "hardware": {"acceleration": acceleration or {}},
            "controller": {"cpu_cores": 4, "memory_gb": 4, "disk_gb": 10},
            "compute_nodes": [{"cpu_cores": 4, "memory_gb": 4, "disk_gb": 10} | node],
        }
    )


def compute_shape(hpc: HpcSpec, host: HostFeatures = INTEL) -> DomainDefinition:
    return define_domain(
        nodes_of(hpc)[1], hpc.name, hpc.hardware, cluster_id=CLUSTER, placement=PLACE, host=host
    )


def test_who_a_node_is_follows_from_the_clusters_id():
    shape = compute_shape(hpc_with())
    assert shape.name == "demo-compute-01"
    assert shape.uuid == object_uuid(CLUSTER, "domain/compute-01")
    assert shape.mac == mac_address(CLUSTER, "compute-01")
    assert shape.genid != shape.uuid


@pytest.mark.parametrize(
    ("asked", "under_kvm", "emulated", "model"),
    [
        ("host", CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM, None),
        ("host-passthrough", CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM, None),
        ("host-model", CpuMode.HOST_MODEL, CpuMode.MAXIMUM, None),
        ("maximum", CpuMode.MAXIMUM, CpuMode.MAXIMUM, None),
        ("qemu64", CpuMode.CUSTOM, CpuMode.CUSTOM, "qemu64"),
    ],
)
def test_a_cpu_model_is_what_the_accelerator_can_make_of_it(asked, under_kvm, emulated, model):
    hpc = hpc_with({"cpu_model": asked})
    assert (compute_shape(hpc).cpu.mode, compute_shape(hpc).cpu.model) == (under_kvm, model)
    assert compute_shape(hpc, EMULATED).cpu.mode is emulated
    assert compute_shape(hpc, EMULATED).cpu.model == model


def test_an_emulated_cpu_that_nobody_chose_is_the_quickest_to_emulate():
    cpu = compute_shape(hpc_with({}), EMULATED).cpu
    assert (cpu.mode, cpu.model) == (CpuMode.CUSTOM, EMULATED_MODEL)
    assert compute_shape(hpc_with({})).cpu.mode is CpuMode.HOST_PASSTHROUGH


def test_kvm_that_is_not_wanted_is_not_used():
    shape = compute_shape(hpc_with({"enable_kvm": False}))
    assert shape.accel is Accel.TCG
    assert shape.cpu.mode is CpuMode.CUSTOM


@pytest.mark.parametrize(("host", "flag"), [(INTEL, "vmx"), (AMD, "svm")])
def test_nested_guests_need_the_flag_of_the_hosts_vendor(host, flag):
    features = compute_shape(hpc_with({"enable_nested": True}), host).cpu.features
    assert [(f.name, f.policy) for f in features] == [(flag, "require")]


@pytest.mark.parametrize("host", [EMULATED, HostFeatures(Accel.KVM, None)])
def test_nested_guests_are_refused_where_the_host_cannot(host):
    with pytest.raises(HostError, match="this host does not support nested virtualization"):
        compute_shape(hpc_with({"enable_nested": True}), host)


def test_cpu_features_are_required_or_taken_away():
    features = compute_shape(hpc_with({"cpu_features": ["+aes", "-avx2", "ssse3"]})).cpu.features
    assert [(f.name, f.policy) for f in features] == [
        ("aes", "require"),
        ("avx2", "disable"),
        ("ssse3", "require"),
    ]


@pytest.mark.parametrize(
    "acceleration",
    [{"cpu_features": ["+aes", "-aes"]}, {"cpu_features": ["-vmx"], "enable_nested": True}],
)
def test_a_contradiction_among_cpu_features_is_refused(acceleration):
    with pytest.raises(SpecError, match="is both required and disabled"):
        compute_shape(hpc_with(acceleration))


def test_slurm_sees_cores_of_one_socket_unless_asked_otherwise():
    assert compute_shape(hpc_with()).cpu.topology == CpuTopology(1, 4, 1)
    asked = {"cpu_topology": {"sockets": 2, "cores": 1, "threads": 2}}
    assert compute_shape(hpc_with(asked)).cpu.topology == CpuTopology(2, 1, 2)


def test_numa_nodes_share_memory_and_cpus():
    hpc = hpc_with({"numa_topology": {"nodes": 2}}, cpu_cores=3)
    assert compute_shape(hpc).cpu.numa == (NumaCell("0-1", 2048), NumaCell("2", 2048))


@pytest.mark.parametrize(
    ("performance", "has_share", "backing"),
    [
        ({}, False, MemoryBacking()),
        ({}, True, MemoryBacking(is_memfd=True, is_shared=True)),
        ({"memory_backing": "memfd"}, False, MemoryBacking(is_memfd=True)),
        ({"memory_backing": "hugepages"}, False, MemoryBacking(hugepage_kib=2048)),
        (
            {"enable_hugepages": True, "hugepage_size": "1G"},
            True,
            MemoryBacking(hugepage_kib=1048576, is_memfd=True, is_shared=True),
        ),
    ],
)
def test_memory_is_shared_whenever_a_directory_is(performance, has_share, backing):
    mounts = [{"tag": "data", "host_path": "/srv/data", "mount_point": "/data"}]
    hpc = hpc_with({"performance": performance}, virtio_fs_mounts=mounts if has_share else [])
    shape = compute_shape(hpc)
    assert shape.memory_backing == backing
    assert [(str(s.source), s.tag) for s in shape.shares] == [("/srv/data", "data")] * has_share


@pytest.mark.parametrize(
    ("keys", "server"),
    [
        ({}, "login-rw"),
        ({"readonly": True}, "login-ro"),
        ({"options": "ro,noatime"}, "login-ro"),
        ({"owner": "me"}, "login-rw"),
        ({"owner": "1000"}, "login-rw"),
        ({"owner": "admin"}, "login-rw"),  # as in files for another system: no guest has it
        ({"owner": "root"}, "root-rw"),
        ({"owner": "0", "readonly": True}, "root-ro"),
        ({"owner": "slurm"}, "other-rw"),
        ({"owner": "1234"}, "other-rw"),
    ],
)
def test_the_program_that_serves_a_share_depends_on_its_owner(keys, server):
    mount = {"tag": "data", "host_path": "/srv/data", "mount_point": "/data"} | keys
    hpc = hpc_with(virtio_fs_mounts=[mount])
    place, host = replace(PLACE, login="me"), replace(INTEL, maps_shares=True)
    shape = define_domain(
        nodes_of(hpc)[1], "demo", hpc.hardware, cluster_id=CLUSTER, placement=place, host=host
    )
    assert [one.server for one in shape.shares] == [
        Path(f"/etc/libvirt/hooks/ai-how-share-{server}")
    ]


def test_the_systems_libvirt_starts_virtiofsd_itself():
    mount = {"tag": "data", "host_path": "/srv/data", "mount_point": "/data"}
    shape = compute_shape(hpc_with(virtio_fs_mounts=[mount]))
    assert [one.server for one in shape.shares] == [None]


def test_devices_of_the_host_reach_the_vm():
    devices = [{"pci_address": "0000:65:00.1", "device_type": "audio"}]
    mdev = UUID("c2177883-f1bb-47f0-914d-32a22e3a8804")
    hpc = hpc_with(
        pcie_passthrough={"enabled": True, "devices": devices}, vgpu={"mdev_uuid": str(mdev)}
    )
    shape = compute_shape(hpc)
    assert shape.pci_devices == (PciAddress(0, 0x65, 0, 1),)
    assert shape.mdevs == (mdev,)
    assert not shape.wants_free_page_reporting


def test_memory_that_is_no_whole_number_of_huge_pages_is_refused():
    hpc = hpc_with({"performance": {"enable_hugepages": True, "hugepage_size": "1G"}})
    odd = hpc.model_copy(
        update={"controller": hpc.controller.model_copy(update={"memory_gb": 1.5})}
    )
    with pytest.raises(SpecError, match="1536 MiB is not a whole number of huge pages"):
        define_domain(
            nodes_of(odd)[0],
            odd.name,
            odd.hardware,
            cluster_id=CLUSTER,
            placement=PLACE,
            host=INTEL,
        )


def test_a_node_of_the_file_becomes_xml():
    assert "<name>demo-compute-01</name>" in render_domain(compute_shape(hpc_with()))


@given(
    st.sets(st.integers(0, 255), max_size=64),
    st.dictionaries(st.sampled_from([f"n{i}" for i in range(8)]), st.integers(1, 8)),
)
def test_no_host_cpu_is_given_twice(host_cpus, demands):
    if sum(demands.values()) > len(host_cpus):
        with pytest.raises(HostError, match=re.escape(f"this host has {len(host_cpus)} for it")):
            pin_cpus(sorted(host_cpus), demands)
        return
    pins = pin_cpus(sorted(host_cpus), demands)
    used = [int(pin.cpuset) for each in pins.values() for pin in each]
    assert len(set(used)) == len(used)
    assert set(used) <= host_cpus
    assert {name: [p.vcpu for p in each] for name, each in pins.items()} == {
        name: list(range(vcpus)) for name, vcpus in demands.items()
    }
    assert set(used) == set(sorted(host_cpus)[len(host_cpus) - len(used) :])


def test_nothing_is_pinned_that_was_not_asked_for():
    hpc = hpc_with()
    assert pin_nodes(hpc.hardware, nodes_of(hpc), [0]) == {"controller": (), "compute-01": ()}
    pinned = hpc_with({"performance": {"cpu_pinning": True}})
    pins = pin_nodes(pinned.hardware, nodes_of(pinned), range(10))
    assert [pin.cpuset for pin in pins["compute-01"]] == ["6", "7", "8", "9"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:65:00.0", "0000:65:00.0"),
        ("65:1f.7", "0000:65:1f.7"),
        ("ABCD:eF:00.3", "abcd:ef:00.3"),
    ],
)
def test_a_pci_address_is_read(text, address):
    assert str(PciAddress.parse(text)) == address


@pytest.mark.parametrize("text", ["", "65", "0000:65:20.0", "0000:65:00.8", "0000:65:00.0\n", "x"])
def test_what_is_no_pci_address_is_refused(text):
    with pytest.raises(SpecError, match=r"is not a PCI address such as 0000:65:00\.0"):
        PciAddress.parse(text)
