"""`hardware` of a node: for those with devices of the host, and what contradicts itself there."""

from typing import Any

import pytest
from test_spec_checks import GPU, MDEV, NODE, check

from ai_how.spec.nodes import nodes_of
from cluster_bench import read_hpc

CARD = {"gpu": {"pci": "0000:65:00.0"}}
PASSED = {"pcie_passthrough": {"enabled": True, "devices": [GPU]}}
MADE = {"gpu": {"vgpu": {"profile": "nvidia-63"}}}
HERE = "hpc.compute_nodes[0].hardware"
HUGE = {"acceleration": {"performance": {"enable_hugepages": True, "hugepage_size": "1G"}}}


def of(more: dict[str, Any], asked: dict[str, Any], **hpc: Any) -> list[str]:
    found = check({"compute_nodes": [NODE | more | {"hardware": asked}, NODE], **hpc})
    return [one.replace("clusters.", "") for one in found]


@pytest.mark.parametrize("more", [CARD, PASSED, {"gpu": {"count": 2}}])
def test_any_way_to_a_device_may_have_all_of_it(more: dict[str, Any]) -> None:
    rest = {"numa": True, "hugepages": True, "mmio_gb": 64, "balloon": True}
    assert of(more, rest | {"rom": False}) == []
    assert of(more, rest | {"rom_file": "/srv/roms/card.rom"}) == []


@pytest.mark.parametrize("more", [MADE, {"vgpu": {"mdev_uuid": MDEV}}])
def test_a_vgpu_has_no_rom(more: dict[str, Any]) -> None:
    assert of(more, {"numa": True}) == []
    assert of(more, {"rom": False}) == [f"warning {HERE}.rom: has no effect: a vGPU has no ROM"]


@pytest.mark.parametrize("more", [{}, {"gpu": {"simulated": {"type": "a100", "count": 1}}}])
def test_a_node_without_devices_is_told(more: dict[str, Any]) -> None:
    text = "has no effect: the node has no device of the host"
    assert of(more, {"numa": False}) == [f"warning {HERE}: {text}"]


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        ({"rom": False, "rom_file": "/a"}, "rom_file: a ROM that the guest does not see needs no"),
        ({"rom_file": "card.rom"}, "rom_file: found 'card.rom'; allowed: an absolute path"),
        ({"mmio_gb": 0}, "mmio_gb: found '0'; the minimum is 1"),
        ({"numa": "far"}, "numa: found 'far'; expected true or false"),
        ({"hugepage": True}, "hugepage: unknown key; did you mean `hugepages`?"),
    ],
)
def test_what_is_wrong_is_named(hardware: dict[str, Any], said: str) -> None:
    [found] = of(CARD, hardware)
    assert found.startswith(f"{HERE}.{said}")


def test_huge_pages_are_whole() -> None:
    odd = CARD | {"memory_gb": 1.001}
    [found] = of(odd, {"hugepages": True})
    assert found.endswith("memory_gb: found 1025 MiB; huge pages need a multiple of 2 MiB")
    assert of(odd, {}) == []
    # A node that has none of the cluster's need not fit them.
    assert of(odd, {"hugepages": False}, hardware=HUGE) == []
    assert len(of(odd, {}, hardware=HUGE)) == 1


def test_nodes_get_it_and_others_the_defaults() -> None:
    hpc = read_hpc(
        nodes="compute_nodes: [{cpu_cores: 1, memory_gb: 1, disk_gb: 10, gpu: {count: 1}, "
        "hardware: {numa: false}}, {cpu_cores: 1, memory_gb: 1, disk_gb: 10}]"
    )
    controller, first, second = nodes_of(hpc)
    assert (first.hardware.numa, first.has_host_devices) == (False, True)
    for node in (controller, second):
        assert (node.hardware.numa, node.hardware.rom, node.has_host_devices) == (None, True, False)
