"""Nodes written out of a spec, their addresses, and the identities that are derived for them."""

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import SpecError
from ai_how.spec.identity import bridge_name, mac_address, new_cluster_id, object_uuid
from ai_how.spec.models import CpuTopologySpec, HpcSpec, NumaTopologySpec
from ai_how.spec.nodes import (
    Node,
    Role,
    assign_addresses,
    compute_name,
    cost_of,
    cpu_topology_for,
    nodes_of,
    numa_topology_for,
)
from ai_how.spec.reader import default_spec, read_spec_text

DATA = Path(__file__).parent.parent / "data" / "spec"
CLUSTER = UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f001")


def default_hpc() -> HpcSpec:
    hpc = default_spec().clusters.hpc
    assert hpc is not None
    return hpc


def every_field_hpc(*changes: tuple[str, str]) -> HpcSpec:
    text = (DATA / "every-field.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    spec, _ = read_spec_text(text, "f", {})
    assert spec is not None
    assert spec.clusters.hpc is not None
    return spec.clusters.hpc


def cluster_of(size: int, **asked: str) -> tuple[Node, ...]:
    """A controller and compute nodes; `asked` maps names (with _ for -) to addresses."""
    controller, compute, _ = nodes_of(default_hpc())
    computes = [replace(compute, name=compute_name(number)) for number in range(1, size)]
    addresses = {name.replace("_", "-"): IPv4Address(text) for name, text in asked.items()}
    return tuple(replace(node, ip=addresses.get(node.name)) for node in (controller, *computes))


def test_groups_are_written_out_and_named_in_the_order_of_the_file() -> None:
    nodes = nodes_of(every_field_hpc())
    assert [node.name for node in nodes] == [
        "controller",
        *("compute-01", "compute-02", "compute-03", "compute-04", "compute-05"),
    ]
    assert [node.role for node in nodes] == [Role.CONTROLLER, *[Role.COMPUTE] * 5]
    assert [node.auto_start for node in nodes] == [True, False, True, True, True, True]
    assert [node.base_image for node in nodes] == [
        "/srv/images/controller.qcow2",
        "special",
        *["default"] * 4,
    ]
    first = nodes[1]
    assert first.domain_name("every-hpc") == "every-hpc-compute-01"
    assert first.pcie_devices[0].pci_address == "0000:65:00.0"
    assert first.vgpu_mdev_uuid == UUID("c2177883-f1bb-47f0-914d-32a22e3a8804")
    assert first.virtio_fs_mounts == nodes[0].virtio_fs_mounts
    assert nodes[2].ip is None


def test_what_is_switched_off_is_not_on_the_node() -> None:
    hpc = every_field_hpc(
        ("virtio_fs: {enabled: true}", "virtio_fs: {enabled: false}"),
        ("enabled: true\n          devices", "enabled: false\n          devices"),
    )
    nodes = nodes_of(hpc)
    assert not any(node.virtio_fs_mounts or node.pcie_devices for node in nodes)


def test_names_do_not_change_when_nodes_are_added_after_them() -> None:
    assert [compute_name(n) for n in (1, 99, 100, 1000)] == [
        "compute-01",
        "compute-99",
        "compute-100",
        "compute-1000",
    ]


def test_the_cost_is_the_sum_of_all_nodes() -> None:
    cost = cost_of(nodes_of(every_field_hpc()))
    assert (cost.vcpus, cost.memory_mib, cost.disk_gib_worst_case) == (24, 6 * 2048, 120)


def test_a_topology_is_used_only_where_it_fits() -> None:
    cpu = CpuTopologySpec(sockets=1, cores=2, threads=2)
    assert cpu_topology_for(cpu, 4) is cpu
    assert cpu_topology_for(cpu, 2) is None
    assert cpu_topology_for(None, 2) is None
    numa = NumaTopologySpec(nodes=2)
    assert numa_topology_for(numa, 2, 1024) is numa
    assert numa_topology_for(numa, 1, 1024) is None
    assert numa_topology_for(NumaTopologySpec(nodes=2, memory_per_node=512), 2, 1024) is not None
    assert numa_topology_for(NumaTopologySpec(nodes=2, memory_per_node=512), 2, 2048) is None


def test_the_controller_has_ten_and_the_compute_nodes_follow() -> None:
    addresses = assign_addresses(IPv4Network("192.168.5.0/24"), cluster_of(3))
    assert {name: str(address) for name, address in addresses.items()} == {
        "controller": "192.168.5.10",
        "compute-01": "192.168.5.11",
        "compute-02": "192.168.5.12",
    }


def test_asked_addresses_are_kept_and_the_others_go_round_them() -> None:
    nodes = cluster_of(4, compute_01="192.168.5.10", compute_03="192.168.5.12")
    addresses = assign_addresses(IPv4Network("192.168.5.0/24"), nodes)
    assert {name: str(address) for name, address in addresses.items()} == {
        "controller": "192.168.5.11",
        "compute-01": "192.168.5.10",
        "compute-02": "192.168.5.13",
        "compute-03": "192.168.5.12",
    }


def test_small_subnets_are_filled_from_the_second_host() -> None:
    addresses = assign_addresses(IPv4Network("10.0.0.16/28"), cluster_of(13))
    assert str(addresses["controller"]) == "10.0.0.18"
    assert str(addresses["compute-12"]) == "10.0.0.30"


def test_a_subnet_that_is_too_small_says_so() -> None:
    with pytest.raises(SpecError, match=r"10\.0\.0\.0/28 is too small for 14 nodes") as caught:
        assign_addresses(IPv4Network("10.0.0.0/28"), cluster_of(14))
    assert "network.subnet" in (caught.value.hint or "")


prefixes = st.integers(min_value=22, max_value=28)


@given(prefix=prefixes, data=st.data())
def test_addresses_are_usable_distinct_and_stable_under_growth(
    prefix: int, data: st.DataObject
) -> None:
    subnet = IPv4Network(f"10.9.0.0/{prefix}")
    room = min(subnet.num_addresses - 3, 300)
    size = data.draw(st.integers(min_value=1, max_value=room))
    last = subnet.num_addresses - 2
    offsets = data.draw(
        st.lists(st.integers(min_value=2, max_value=last), unique=True, max_size=min(size, 5))
    )
    nodes = tuple(
        replace(node, ip=subnet[offset]) if offset else node
        for node, offset in zip(
            cluster_of(size), [*offsets, *[0] * (size - len(offsets))], strict=True
        )
    )
    addresses = assign_addresses(subnet, nodes)
    values = list(addresses.values())
    assert len(set(values)) == size
    assert set(values) <= {subnet[n] for n in range(2, subnet.num_addresses - 1)}
    assert all(addresses[node.name] == node.ip for node in nodes if node.ip)
    if size > len(offsets):
        assert addresses | assign_addresses(subnet, nodes[:-1]) == addresses


@given(cluster_id=st.uuids())
def test_identities_are_well_formed_distinct_and_always_the_same(cluster_id: UUID) -> None:
    names = ["controller", *map(compute_name, range(1, 256))]
    macs = [mac_address(cluster_id, name) for name in names]
    assert len(set(macs)) == 256
    assert macs == [mac_address(UUID(str(cluster_id)), name) for name in names]
    first = int(macs[0][:2], 16)
    assert first & 1 == 0
    assert first & 2 == 2
    assert all(re.fullmatch(r"52:54(:[0-9a-f]{2}){4}", mac) for mac in macs)
    assert re.fullmatch(r"ah[0-9a-f]{10}", bridge_name(cluster_id))
    assert bridge_name(cluster_id) == bridge_name(UUID(str(cluster_id)))
    roles = ["network", *(f"domain/{name}" for name in names)]
    assert len({object_uuid(cluster_id, role) for role in roles}) == 257


@given(one=st.uuids(), other=st.uuids())
def test_clusters_share_no_identity(one: UUID, other: UUID) -> None:
    if one != other:
        assert mac_address(one, "controller") != mac_address(other, "controller")
        assert bridge_name(one) != bridge_name(other)
        assert object_uuid(one, "network") != object_uuid(other, "network")


def test_the_way_identities_are_derived_never_changes() -> None:
    assert mac_address(CLUSTER, "compute-01") == "52:54:c0:44:06:ff"
    assert bridge_name(CLUSTER) == "ahf6d2b1574a"
    assert str(object_uuid(CLUSTER, "domain/compute-01")) == "df7952c6-b339-5489-a9b2-150e9166437d"


def test_a_new_cluster_has_an_id_of_its_own() -> None:
    assert new_cluster_id() != new_cluster_id()
