"""What must hold between fields, and what is said of fields that are not acted on."""

from collections.abc import Mapping
from typing import Any

import pytest

from ai_how.spec.cloud_nodes import is_control_plane, nodes_of_cloud, pool_of
from ai_how.spec.document import render_scalar
from ai_how.spec.problems import Severity
from ai_how.spec.reader import read_spec_text

NODE = {"cpu_cores": 4, "memory_gb": 4, "disk_gb": 10}
GPU = {"pci_address": "0000:65:00.0", "device_type": "gpu"}
ACCELERATION = "hpc.hardware.acceleration"
MDEV = "c2177883-f1bb-47f0-914d-32a22e3a8804"
SUBNET = {"subnet": "10.0.0.0/24"}


def flow(value: object) -> str:
    """YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return render_scalar(value)


def check(hpc: dict[str, Any] | None = None, **clusters: Any) -> list[str]:
    """`severity path: text` for a file with this cluster, on top of a good one."""
    base = {"name": "demo", "controller": NODE, "compute_nodes": {"count": 2, **NODE}}
    file = {"version": "1.0", "clusters": {"hpc": base | (hpc or {}), **clusters}}
    _, problems = read_spec_text(flow(file), "f", {})
    return [
        f"{'' if p.severity is Severity.ERROR else 'warning '}{p.path.removeprefix('clusters.')}: "
        f"{p.text}"
        for p in problems
    ]


def accelerated(**acceleration: Any) -> dict[str, Any]:
    return {"hardware": {"acceleration": acceleration}}


def test_the_base_of_these_tests_is_good() -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("ip", "said"),
    [
        ("10.0.0.1", "10.0.0.1 is the gateway of 10.0.0.0/24"),
        ("10.0.0.0", "10.0.0.0 is the network or broadcast address of 10.0.0.0/24"),
        ("10.0.0.255", "10.0.0.255 is the network or broadcast address of 10.0.0.0/24"),
        ("10.0.1.5", "10.0.1.5 is not in the subnet 10.0.0.0/24"),
    ],
)
def test_addresses_are_inside_and_free(ip: str, said: str) -> None:
    assert check({"network": SUBNET, "controller": NODE | {"ip_address": ip}}) == [
        f"hpc.controller.ip_address: {said}"
    ]


def test_addresses_are_unique() -> None:
    computes = [NODE | {"ip": "10.0.0.10"}, NODE | {"ip": "10.0.0.11"}, NODE | {"ip": "10.0.0.11"}]
    hpc = {
        "network": SUBNET,
        "controller": NODE | {"ip_address": "10.0.0.10"},
        "compute_nodes": computes,
    }
    assert check(hpc) == [
        "hpc.compute_nodes[0].ip: 10.0.0.10 is also clusters.hpc.controller.ip_address",
        "hpc.compute_nodes[2].ip: 10.0.0.11 is also clusters.hpc.compute_nodes[1].ip",
    ]


def test_a_group_has_no_address_of_its_own() -> None:
    hpc = {"network": SUBNET, "compute_nodes": {"count": 2, "ip": "10.0.0.9", **NODE}}
    assert check(hpc) == ["hpc.compute_nodes.ip: 2 nodes cannot all have 10.0.0.9; use DHCP"]
    hpc = {"network": SUBNET, "compute_nodes": {"count": 1, "ip": "10.0.0.9", **NODE}}
    assert check(hpc) == []


def test_an_address_needs_a_subnet_that_is_known() -> None:
    assert check({"controller": NODE | {"ip_address": "10.0.0.10"}}) == [
        "hpc.controller.ip_address: 10.0.0.10 needs a fixed network.subnet, not auto"
    ]


def test_a_subnet_has_room_for_the_nodes() -> None:
    hpc = {"network": {"subnet": "10.0.0.0/28"}, "compute_nodes": {"count": 13, **NODE}}
    assert check(hpc) == [
        "hpc.network.subnet: 10.0.0.0/28 has room for 13 nodes, not for 14; use 10.0.0.0/27"
    ]


def test_the_subnet_that_is_named_for_many_nodes_has_room_for_them() -> None:
    hpc = {"network": {"subnet": "172.16.9.0/24"}, "compute_nodes": {"count": 256, **NODE}}
    told = "172.16.9.0/24 has room for 253 nodes, not for 257; use 172.16.8.0/23"
    assert check(hpc) == [f"hpc.network.subnet: {told}"]
    assert check({**hpc, "network": {"subnet": "172.16.8.0/23"}}) == []
    assert check({**hpc, "network": {"subnet": "auto"}}) == []
    hpc["compute_nodes"] = {"count": 12, **NODE}
    assert check(hpc) == []


def test_there_is_a_compute_node_and_not_too_many() -> None:
    assert check({"compute_nodes": []}) == [
        "hpc.compute_nodes: at least one compute node is required"
    ]
    assert check({"compute_nodes": {"count": 1025, **NODE}}) == [
        "hpc.compute_nodes.count: found '1025'; the maximum is 1024"
    ]
    many = [{"count": 1000, **NODE}] * 20
    slurm = {"partitions": [{"name": "a", "nodes": "compute-1024"}]}
    assert check({"compute_nodes": many, "slurm_config": slurm}) == [
        "hpc.compute_nodes: found 20000 nodes; the maximum is 1024"
    ]


def test_a_topology_multiplies_out_to_the_cores() -> None:
    fits = {"sockets": 1, "cores": 2, "threads": 2}
    assert check(accelerated(cpu_topology=fits)) == []
    assert check(accelerated(cpu_topology=fits | {"cores": 3})) == [
        f"{ACCELERATION}.cpu_topology: 1 x 3 x 2 is 6 vCPUs, not the cpu_cores of any node"
    ]
    smaller = accelerated(cpu_topology=fits) | {"controller": NODE | {"cpu_cores": 2}}
    assert check(smaller) == [
        (
            f"warning {ACCELERATION}.cpu_topology: 1 x 2 x 2 is 4 vCPUs, not the cpu_cores "
            "of controller; the default is used there"
        )
    ]


def test_numa_nodes_divide_processors_and_memory() -> None:
    assert check(accelerated(numa_topology={"nodes": 2})) == []
    assert check(accelerated(numa_topology={"nodes": 2, "memory_per_node": 2048})) == []
    assert check(accelerated(numa_topology={"nodes": 2, "memory_per_node": 1024})) == [
        (
            f"{ACCELERATION}.numa_topology: 2 NUMA nodes do not divide the cpu_cores and "
            "memory_gb of any node"
        )
    ]
    assert "at any" not in check(accelerated(numa_topology={"nodes": 5}))[0]


def test_memory_is_made_of_whole_huge_pages() -> None:
    performance = {"enable_hugepages": True, "hugepage_size": "1G"}
    hpc = accelerated(performance=performance) | {"controller": NODE | {"memory_gb": 1.5}}
    assert check(hpc) == [
        "hpc.controller.memory_gb: found 1536 MiB; huge pages of 1G need a multiple of 1024 MiB"
    ]
    hpc["controller"] = NODE | {"memory_gb": 1}
    assert check(hpc) == []


def test_huge_pages_are_not_asked_for_and_refused_at_once() -> None:
    performance = {"enable_hugepages": False, "memory_backing": "hugepages"}
    assert check(accelerated(performance=performance)) == [
        (
            f"{ACCELERATION}.performance.memory_backing: found hugepages, "
            "but enable_hugepages is false"
        )
    ]
    assert check(accelerated(performance={"memory_backing": "hugepages"})) == []
    assert check(accelerated(performance={"hugepage_size": "1G"})) == [
        (
            f"warning {ACCELERATION}.performance.hugepage_size: "
            "has no effect unless enable_hugepages is true"
        )
    ]


def test_what_needs_kvm_is_not_asked_for_without_it() -> None:
    assert check(accelerated(enable_kvm=False, enable_nested=True, cpu_model="host")) == [
        (
            f"{ACCELERATION}.cpu_model: 'host' needs KVM, which `enable_kvm: false` forbids; "
            "use maximum"
        ),
        f"{ACCELERATION}.enable_nested: needs KVM, which `enable_kvm: false` forbids",
    ]
    assert check(accelerated(enable_kvm=False, cpu_model="qemu64")) == []


def test_a_cpu_feature_is_given_once() -> None:
    assert check(accelerated(cpu_features=["+avx", "-avx"])) == [
        (
            f"{ACCELERATION}.cpu_features[1]: 'avx' is also "
            "clusters.hpc.hardware.acceleration.cpu_features[0]"
        )
    ]


def test_a_pci_device_belongs_to_one_node() -> None:
    node = NODE | {"pcie_passthrough": {"enabled": True, "devices": [GPU]}}
    assert check({"compute_nodes": [node, node]}) == [
        (
            "hpc.compute_nodes[1].pcie_passthrough.devices[0].pci_address: the PCI device "
            "0000:65:00.0 is also "
            "clusters.hpc.compute_nodes[0].pcie_passthrough.devices[0].pci_address"
        )
    ]
    assert check({"compute_nodes": {"count": 2, **node}}) == [
        (
            "hpc.compute_nodes.pcie_passthrough.devices[0].pci_address: "
            "2 nodes cannot all have the PCI device 0000:65:00.0"
        )
    ]
    assert check({"compute_nodes": [node]}) == []


def test_a_vgpu_belongs_to_one_node() -> None:
    node = NODE | {"vgpu": {"mdev_uuid": MDEV}}
    assert check({"compute_nodes": [node, node]}) == [
        (
            f"hpc.compute_nodes[1].vgpu.mdev_uuid: the vGPU {MDEV} is also "
            "clusters.hpc.compute_nodes[0].vgpu.mdev_uuid"
        )
    ]


@pytest.mark.parametrize("address", ["65:00", "0000:65:00.8", "0000:65:20.0", "0000:6g:00.0", "x"])
def test_pci_addresses_have_the_form_of_lspci(address: str) -> None:
    devices = [GPU | {"pci_address": address}]
    node = NODE | {"pcie_passthrough": {"enabled": True, "devices": devices}}
    assert check({"compute_nodes": [node]}) == [
        (
            f"hpc.compute_nodes[0].pcie_passthrough.devices[0].pci_address: found '{address}'; "
            "allowed: an address such as 0000:65:00.0 (lspci -D)"
        )
    ]


def test_passthrough_that_does_nothing_is_named() -> None:
    assert check({"compute_nodes": [NODE | {"pcie_passthrough": {"devices": [GPU]}}]}) == [
        (
            "warning hpc.compute_nodes[0].pcie_passthrough.devices: "
            "are not passed through: `enabled` is not true"
        )
    ]
    assert check({"compute_nodes": [NODE | {"pcie_passthrough": {"enabled": True}}]}) == [
        "hpc.compute_nodes[0].pcie_passthrough.enabled: is true, but `devices` lists none"
    ]


def test_tags_and_mount_points_are_unique_per_node() -> None:
    mounts = [
        {"tag": "a", "host_path": "/a", "mount_point": "/a"},
        {"tag": "a", "host_path": "/b", "mount_point": "/a"},
    ]
    assert check({"controller": NODE | {"virtio_fs_mounts": mounts}}) == [
        (
            "hpc.controller.virtio_fs_mounts[1].mount_point: '/a' is also "
            "clusters.hpc.controller.virtio_fs_mounts[0].mount_point"
        ),
        (
            "hpc.controller.virtio_fs_mounts[1].tag: 'a' is also "
            "clusters.hpc.controller.virtio_fs_mounts[0].tag"
        ),
    ]
    one = NODE | {"virtio_fs_mounts": mounts[:1]}
    assert check({"controller": one, "compute_nodes": {"count": 2, **one}}) == []


def test_the_switch_of_shared_directories_says_what_it_does() -> None:
    mounts = {"virtio_fs_mounts": [{"tag": "a", "host_path": "/a", "mount_point": "/a"}]}
    off = {"storage": {"virtio_fs": {"enabled": False}}}
    assert check(off | {"controller": NODE | mounts}) == [
        (
            "warning hpc.storage.virtio_fs.enabled: "
            "is false: the virtio_fs_mounts of controller are ignored"
        )
    ]
    assert check({"storage": {"virtio_fs": {"enabled": True}}}) == [
        "warning hpc.storage.virtio_fs.enabled: is true, but no node has virtio_fs_mounts"
    ]
    assert check(off) == []


def test_a_share_does_not_hide_the_shared_home() -> None:
    mounts = {"virtio_fs_mounts": [{"tag": "a", "host_path": "/a", "mount_point": "/home"}]}
    assert check({"controller": NODE | mounts}) == [
        (
            "hpc.controller.virtio_fs_mounts[0].mount_point: /home is the shared home; "
            "use another mount point, or `home: none`"
        )
    ]
    assert check({"controller": NODE | mounts, "storage": {"home": "none"}}) == []


@pytest.mark.parametrize("how", [{"readonly": True}, {"options": "ro,relatime"}])
def test_a_read_only_share_is_given_no_owner_and_that_is_said(
    how: dict[str, object],
) -> None:
    mount = {"tag": "a", "host_path": "/a", "mount_point": "/data", **how}
    assert check({"controller": NODE | {"virtio_fs_mounts": [mount]}}) == []
    for key, value in (("owner", "hpc"), ("group", "hpc"), ("mode", "0755")):
        owned = {"virtio_fs_mounts": [mount | {key: value}]}
        said = "has no effect, because the share is read-only; set it on the host"
        assert check({"controller": NODE | owned}) == [
            f"warning hpc.controller.virtio_fs_mounts[0].{key}: {said}"
        ]


def test_beegfs_is_a_warning_where_nfs_does_its_work_and_else_an_error() -> None:
    assert check({"storage": {"beegfs": {"enabled": True, "any": {"thing": 1}}}}) == [
        (
            "warning hpc.storage.beegfs.enabled: "
            "BeeGFS is not available; the shared /home is NFS instead"
        )
    ]
    assert check({"storage": {"beegfs": {"enabled": True}, "home": "none"}}) == [
        (
            "hpc.storage.beegfs.enabled: BeeGFS is not available, and with `home: none` "
            "nothing would be shared; use `home: nfs`"
        )
    ]


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ({"partitions": []}, "partitions: found an empty list; at least one partition is required"),
        (
            {"partitions": ["a"], "default_partition": "b"},
            "default_partition: found 'b'; the partitions are: a",
        ),
        (
            {"default_partition": "b"},
            "default_partition: found 'b'; the partitions are: compute",
        ),
        (
            {"partitions": ["a", {"name": "a"}]},
            "partitions[1].name: 'a' is also clusters.hpc.slurm_config.partitions[0]",
        ),
        (
            {"partitions": [{"name": "a", "nodes": ["compute-01", "compute-03"]}]},
            "partitions[0].nodes: found 'compute-03'; allowed: ALL, or compute-01 to compute-02",
        ),
        (
            {"partitions": [{"name": "a", "nodes": []}]},
            "partitions[0].nodes: found an empty list; name nodes, or write ALL",
        ),
        (
            {"partitions": ["a", {"name": "b", "default": True}], "default_partition": "a"},
            "partitions[1].default: 'b' and 'a' cannot both be the default",
        ),
        (
            {"partitions": ["DEFAULT"]},
            (
                "partitions[0].name: found 'DEFAULT'; allowed: 1 to 40 letters, digits, "
                "`_` and `-`, with a letter first; not DEFAULT or ALL"
            ),
        ),
    ],
)
def test_partitions_are_consistent(slurm: dict[str, Any], said: str) -> None:
    assert check({"slurm_config": slurm}) == [f"hpc.slurm_config.{said}"]


def test_a_cloud_cluster_is_checked_like_the_other() -> None:
    cloud = {
        "name": "sky",
        "network": SUBNET,
        "control_plane": NODE | {"ip_address": "10.0.0.10"},
        "worker_nodes": {"cpu": [NODE | {"worker_type": "cpu", "ip": "10.0.0.10"}], "gpu": []},
    }
    assert check(cloud=cloud) == [
        "cloud.worker_nodes.cpu[0].ip: 10.0.0.10 is also clusters.cloud.control_plane.ip_address",
    ]
    cloud["worker_nodes"] = {"cpu": [NODE | {"worker_tipe": "cpu"}, 7]}
    assert check(cloud=cloud) == [
        "cloud.worker_nodes.cpu[0].worker_tipe: unknown key; did you mean `worker_type`?",
        "cloud.worker_nodes.cpu[1]: found '7'; expected a section of keys",
    ]


def test_clusters_of_one_file_do_not_share_names_subnets_or_bridges() -> None:
    network = {"subnet": "10.0.0.0/24", "bridge": "br7"}
    cloud = {"name": "demo", "network": network, "control_plane": NODE, "worker_nodes": []}
    assert check({"network": {"subnet": "10.0.0.0/16", "bridge": "br7"}}, cloud=cloud) == [
        "cloud.name: 'demo' is also clusters.hpc.name",
        "cloud.network.bridge: 'br7' is also clusters.hpc.network.bridge",
        "cloud.network.subnet: overlaps clusters.hpc.network.subnet 10.0.0.0/16",
    ]


CLOUD = {"name": "sky", "control_plane": NODE | {"memory_gb": 2}, "worker_nodes": [NODE]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"control_plane": NODE | {"memory_gb": 2, "count": 2}},
            [
                (
                    "cloud.control_plane.count: found 2: if one of two fails, etcd has no majority "
                    "and stops; use 1 or 3"
                )
            ],
        ),
        (
            {"control_plane": NODE | {"memory_gb": 2, "count": 3, "ip_address": "10.0.0.10"}}
            | {"network": SUBNET},
            ["cloud.control_plane.ip_address: 3 nodes cannot all have 10.0.0.10; use DHCP"],
        ),
        (
            {"kubernetes_config": {"pod_subnet": "10.96.4.0/24"}},
            [
                (
                    "cloud.kubernetes_config.service_subnet: 10.96.0.0/16 overlaps 10.96.4.0/24, "
                    "which is `pod_subnet`"
                )
            ],
        ),
        (
            {"kubernetes_config": {"pod_subnet": "10.1.0.0/28"}},
            [
                (
                    "cloud.kubernetes_config.pod_subnet: 10.1.0.0/28 is smaller than the /24 that "
                    "each node has"
                )
            ],
        ),
        (
            {"worker_nodes": {"GPU nodes": [NODE]}},
            [
                (
                    "cloud.worker_nodes.'GPU nodes': found 'GPU nodes'; the name of a pool is at "
                    "most 32 of a-z, 0-9, -"
                )
            ],
        ),
        (
            {"expose": [{"node": "worker-02", "port": 80}]},
            [
                "cloud.expose[0].node: found 'worker-02'; allowed: control-plane-01, or worker-01",
            ],
        ),
        (
            {"kubernetes_config": {"cni": "calico", "storage_class": "Fast disks"}},
            [
                (
                    "warning cloud.kubernetes_config.cni: calico is not used: Pods are reached by "
                    "routes between the nodes (CNI's bridge plugin), and a NetworkPolicy has no "
                    "effect"
                ),
                (
                    "cloud.kubernetes_config.storage_class: found 'Fast disks'; the name of a "
                    "storage class is at most 63 of a-z, 0-9, -, and . between them"
                ),
            ],
        ),
        ({"kubernetes_config": {"storage_class": "local-path"}}, []),
        ({"kubernetes_config": {"storage_class": ""}}, []),
        ({"kubernetes_config": {"storage_class": "None"}}, []),
    ],
)
def test_what_a_kubernetes_cluster_cannot_have_is_said(
    change: dict[str, Any], said: list[str]
) -> None:
    assert check(cloud=CLOUD | change) == said


def test_the_nodes_of_a_kubernetes_cluster_have_names_by_pool() -> None:
    cloud = CLOUD | {
        "control_plane": NODE | {"count": 3},
        "worker_nodes": {"cpu": [NODE | {"count": 2}, NODE], "gpu": [NODE]},
    }
    spec, _ = read_spec_text(flow({"version": "1.0", "clusters": {"cloud": cloud}}), "x", {})
    assert spec
    assert spec.clusters.cloud
    nodes = nodes_of_cloud(spec.clusters.cloud)
    planes = ["control-plane-01", "control-plane-02", "control-plane-03"]
    workers = ["cpu-worker-01", "cpu-worker-02", "cpu-worker-03", "gpu-worker-01"]
    assert [node.name for node in nodes] == planes + workers
    assert [is_control_plane(node.name) for node in nodes] == [True] * 3 + [False] * 4
    assert [pool_of(name) for name in (*workers, "worker-01")] == ["cpu"] * 3 + ["gpu", ""]
    assert {node.base_image for node in nodes} == {"kubernetes"}
