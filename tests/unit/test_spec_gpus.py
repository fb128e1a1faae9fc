"""Simulated GPUs in the cluster file: what fits on a card, and what is said of what does not."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
from test_spec_checks import MDEV, NODE, check

from ai_how.spec.document import json_schema, render_default_file
from ai_how.spec.gpus import GpuSpec
from ai_how.spec.mig import CARDS, find_card, fits, sorted_slices
from ai_how.spec.models import SimulatedGpusSpec
from ai_how.spec.nodes import nodes_of
from cluster_bench import read_hpc

A100 = {"type": "a100", "count": 2}
HERE = "hpc.compute_nodes[0].gpu"
PLACE = f"{HERE}.simulated"
CARD = "0000:65:00.0"
PROFILE = {"profile": "nvidia-63"}


def with_gpus(**simulated: Any) -> dict[str, Any]:
    return NODE | {"gpu": {"simulated": simulated}}


def problems(**simulated: Any) -> list[str]:
    return [
        one.removeprefix(f"{PLACE}.")
        for one in check({"compute_nodes": [with_gpus(**(A100 | simulated))]})
    ]


@pytest.mark.parametrize(
    "simulated",
    [
        {},
        {"memory_gb": 80},
        {"mig": {"1g.5gb": 7}},
        {"mig": {"3g.20gb": 1, "1g.5gb": 4}},
        {"memory_gb": 80, "mig": {"7g.80gb": 1}},
        {"type": "h200", "mig": {"1g.35gb": 4}},
        {"type": "rtx4090", "memory_gb": 24},
        {"links": 12},
        {"links": [[-1, 4], [4, -1]]},
        {"links": "${LINKS:-4}"},
        {"links": 18, "nvml": True},
        {"links": 19},
    ],
)
def test_what_cards_have_is_accepted(simulated: dict[str, Any]) -> None:
    assert problems(**simulated) == []


@pytest.mark.parametrize(
    ("simulated", "said"),
    [
        ({"type": "A100"}, "type: found 'A100'; allowed: a lower-case letter, then at most 39 of "),
        ({"count": 0}, "count: found '0'; the minimum is 1"),
        ({"count": 17}, "count: found '17'; the maximum is 16"),
        ({"memory_gb": 48}, "memory_gb: found 48; a card of type a100 has 40 or 80 GB"),
        (
            {"type": "rtx4090"},
            "memory_gb: is required: the memory of a 'rtx4090' is not known",
        ),
        (
            {"type": "rtx4090", "memory_gb": 24, "mig": {"1g.5gb": 1}},
            "mig: 'rtx4090' has no known MIG profiles; types with MIG: a30, a100, h100, h200",
        ),
        (
            {"memory_gb": 80, "mig": {"1g.5gb": 7}},
            (
                "mig.'1g.5gb': a card of type a100 with 80 GB has no such profile; it has: "
                "1g.10gb, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb"
            ),
        ),
        (
            {"mig": {"1g.5gb": 5, "2g.10gb": 2}},
            (
                "mig: 5 x 1g.5gb, 2 x 2g.10gb do not fit on one card of type a100 with 40 GB; "
                "`mig` is the layout of each card"
            ),
        ),
        ({"mig": {"1g.5gb": "many"}}, "mig.'1g.5gb': found 'many'; expected a whole number"),
        (
            {"mig": {"1g.5gb": 1}, "links": 4},
            "links: MIG slices have no links to each other; remove it",
        ),
        ({"links": "all"}, "links: found 'all'; allowed: a number of links between any two cards"),
        ({"links": [[-1, True], [4, -1]]}, "links: found a list; allowed: a number of links"),
        (
            {"links": [[-1, 4, 4], [4, -1, 4]]},
            "links: found rows of 3, 3 numbers; 2 cards need 2 rows of 2",
        ),
        (
            {"links": [[-1, 4], [3, -1]]},
            "links[0]: found 4 from card 0 to card 1, but 3 back; a link has two ends",
        ),
        (
            {"links": [[0, 4], [4, -1]]},
            "links[0]: found 0 from card 0 to card 0; -1 is a card itself, and nothing else",
        ),
        (
            {"model": "x"},
            "model: unknown key; known here: count, links, memory_gb, mig, nvml, type",
        ),
        (
            {"links": 19, "nvml": True},
            "links: card 0 has 19 links; NVML knows at most 18 of a card",
        ),
        (
            {"links": [[-1, 4]], "nvml": True},
            "links: found rows of 2 numbers; 2 cards need 2 rows of 2",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    simulated: dict[str, Any], said: str
) -> None:
    [found] = problems(**simulated)
    assert found.startswith(said)


def test_the_controller_has_no_gpus() -> None:
    assert check({"controller": with_gpus(**A100)}) == [
        "hpc.controller.gpu: is for nodes that run jobs; move it to one of them"
    ]


def test_a_node_has_either_real_gpus_or_simulated_ones() -> None:
    device = {"pci_address": "0000:65:00.0", "device_type": "gpu"}
    real = {"pcie_passthrough": {"enabled": True, "devices": [device]}}
    other = {"pcie_passthrough": {"enabled": True, "devices": [device | {"device_type": "other"}]}}
    node = with_gpus(**A100)
    assert check({"compute_nodes": [node | real]}) == [
        f"{PLACE}: the node has a real GPU, 0000:65:00.0; give the simulated ones to another node"
    ]
    assert check({"compute_nodes": [node | {"vgpu": {"mdev_uuid": MDEV}}]}) == [
        f"{PLACE}: the node has a vGPU; give the simulated ones to another node"
    ]
    assert check({"compute_nodes": [node | other]}) == []


def test_a_section_without_any_gpu_is_reported() -> None:
    assert check({"compute_nodes": [NODE | {"gpu": {}}]}) == [
        (
            f"warning {HERE}: is empty, and has no effect; it may have `pci`, `count`, `vgpu` "
            "or `simulated`"
        )
    ]


def test_kubernetes_has_no_simulated_gpus() -> None:
    cloud = {"name": "cloud", "control_plane": NODE, "worker_nodes": [with_gpus(**A100)]}
    assert check(cloud=cloud)[-1] == (
        "cloud.worker_nodes[0].gpu: simulated GPUs are for SLURM; remove it"
    )


@pytest.mark.parametrize("kind", sorted(CARDS))
def test_a_card_holds_as_many_equal_slices_as_nvidia_says(kind: str) -> None:
    """The numbers of the MIG user guide's tables: instances available, by profile."""
    most = {"1g": 7, "roomy": 4, "2g": 3, "3g": 2, "4g": 1, "7g": 1}
    if kind == "a30":
        most = {"1g": 4, "2g": 2, "4g": 1}
    for card in CARDS[kind]:
        seen = [
            max(n for n in range(1, 9) if fits(card, {profile: n})) for profile in card.profiles
        ]
        assert seen == list(most.values())


def test_no_layout_takes_more_than_the_card_has() -> None:
    card = find_card("a100", 40)
    assert card is not None
    names = list(card.profiles)
    for counts in product(range(3), repeat=len(names)):
        layout = dict(zip(names, counts, strict=True))
        if fits(card, layout):
            slices = sorted_slices(card, layout)
            assert sum(one.width for one in slices) <= 8
            assert sum(int(one.name[0]) for one in slices) <= 7
            assert Counter(one.name for one in slices) == Counter(layout)


def test_a_group_has_that_many_cards_on_each_of_its_nodes() -> None:
    nodes = "compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10, gpu: {simulated: "
    hpc = read_hpc(nodes=nodes + "{type: a100, count: 4, mig: {3g.20gb: 1, 1g.5gb: 4}}}}")
    [group] = hpc.compute_nodes
    assert group.gpu is not None
    assert group.gpu.simulated is not None
    assert group.gpu.simulated.gres_counts == {"1g.5gb": 16, "3g.20gb": 4}


def test_links_are_those_of_each_card_to_each() -> None:
    same = SimulatedGpusSpec.model_validate({"type": "a100", "count": 3, "links": 4})
    assert [same.links_of(card) for card in range(3)] == [(-1, 4, 4), (4, -1, 4), (4, 4, -1)]
    own = SimulatedGpusSpec.model_validate(A100 | {"links": [[-1, 2], [2, -1]]})
    assert own.links_of(1) == (2, -1)
    assert SimulatedGpusSpec.model_validate(A100).links_of(0) is None


def test_the_field_is_explained() -> None:
    assert "#simulated:" in render_default_file()
    model = json_schema()["$defs"]["SimulatedGpusSpec"]["properties"]
    assert set(model) == {"type", "count", "memory_gb", "mig", "links", "nvml"}


def of_nodes(*gpus: dict[str, Any], **more: Any) -> list[str]:
    return check({"compute_nodes": [NODE | {"gpu": gpu} | more for gpu in gpus]})


@pytest.mark.parametrize(
    "gpu",
    [
        {"pci": CARD},
        {"pci": [CARD, "0000:B3:00.0"]},
        {"count": 1},
        {"count": 16, "model": "RTX 4090"},
        {"count": 1, "model": 4090},
        {"count": 1, "model": "Navi 31 [Radeon RX 7900 XT/7900 XTX]"},
        {"vgpu": {"profile": "GRID T4-1Q"}},
        {"vgpu": {"profile": 1148, "parent": "0000:65:00.4"}},
    ],
)
def test_cards_of_the_host_are_asked_for_in_these_ways(gpu: dict[str, Any]) -> None:
    assert of_nodes(gpu) == []


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ({"pci": CARD, "count": 1}, "count: a node has `pci` or `count`, not both; give one to "),
        ({"count": 1, "simulated": A100}, "simulated: a node has `count` or `simulated`, not both"),
        ({"pci": CARD, "simulated": A100}, "simulated: a node has `pci` or `simulated`, not both"),
        ({"pci": CARD, "model": "x"}, "model: needs `count`; `pci` names the card itself"),
        ({"model": "x"}, "model: needs `count`; `pci` names the card itself"),
        ({"pci": "65:00"}, "pci[0]: found '65:00'; allowed: an address such as 0000:65:00.0"),
        ({"pci": CARD, "vgpu": PROFILE}, "vgpu: a node has `pci` or `vgpu`, not both; give one to"),
        ({"vgpu": PROFILE, "simulated": A100}, "simulated: a node has `vgpu` or `simulated`, not "),
        ({"vgpu": PROFILE, "model": "x"}, "model: needs `count`; `pci` names the card itself"),
        ({"vgpu": PROFILE, "mig": {}}, "mig: needs `pci` or `count`"),
        ({"vgpu": {"parent": CARD}}, "vgpu.profile: is required"),
        ({"vgpu": {"profile": "$(x)"}}, "vgpu.profile: found '$(x)'; allowed: a type of vGPU by"),
        ({"vgpu": PROFILE | {"parent": "65:00"}}, "vgpu.parent: found '65:00'; allowed: an add"),
        ({"count": 0}, "count: found '0'; the minimum is 1"),
        ({"count": 17}, "count: found '17'; the maximum is 16"),
        ({"count": 1, "model": ""}, "model: found ''; allowed: a letter or digit, then at most 63"),
        ({"count": 1, "model": "x`y"}, "model: found 'x`y'; allowed: a letter or digit, then at "),
        (
            {"pci": [CARD, "0000:65:00.1"]},
            f"pci[1]: the card at 0000:65:00.1 is also {HERE}.pci[0]",
        ),
    ],
)
def test_a_wrong_way_to_a_card_is_named(gpu: dict[str, Any], said: str) -> None:
    [found] = of_nodes(gpu)
    assert found.replace("clusters.", "").startswith(f"{HERE}.{said}")


def test_a_node_has_one_vgpu_and_its_card_is_not_given_whole() -> None:
    made = {"vgpu": PROFILE | {"parent": "0000:65:00.4"}}
    assert of_nodes(made, vgpu={"mdev_uuid": MDEV}) == [
        f"{HERE}.vgpu: the node also has a vGPU by `vgpu.mdev_uuid`; give one to another node"
    ]
    assert of_nodes(made, {"pci": CARD}) == [
        (
            f"{HERE}.vgpu.parent: the card at 0000:65:00.4 is given whole by "
            "clusters.hpc.compute_nodes[1].gpu.pci[0]"
        )
    ]
    passed = {"pci_address": "0000:65:00.5", "device_type": "gpu"}
    another = NODE | {"pcie_passthrough": {"enabled": True, "devices": [passed]}}
    assert check({"compute_nodes": [NODE | {"gpu": made}, another]}) == []


def test_each_node_of_a_group_has_a_vgpu_of_its_own() -> None:
    nodes = nodes_of(
        read_hpc(
            nodes="compute_nodes: {count: 3, cpu_cores: 1, memory_gb: 1, disk_gb: 10, "
            "gpu: {vgpu: {profile: nvidia-63}}}"
        )
    )
    assert [node.vgpu and node.vgpu.profile for node in nodes] == [None, *["nvidia-63"] * 3]


SEVEN = {"1g.10gb": 7}


@pytest.mark.parametrize(
    "mig",
    [
        SEVEN,
        {},
        {"3g.20gb": 1, "1g.5gb+me": 1},
        [{"devices": "all", "mig-enabled": True, "mig-devices": SEVEN}],
        [{"devices": [0, 1], "mig-devices": SEVEN}, {"devices": [1], "mig-devices": SEVEN}],
        [{"devices": "all", "mig-enabled": False}],
    ],
)
def test_mig_of_real_cards_is_one_layout_or_what_mig_parted_reads(mig: Any) -> None:
    assert of_nodes({"count": 2, "mig": mig}) == []


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ({"mig": SEVEN}, "mig: needs `pci` or `count`"),
        ({"simulated": A100, "mig": SEVEN}, "mig: is of real cards; that of simulated ones is"),
        ({"count": 1, "mig": {"8g.10gb": 1}}, "mig.'8g.10gb': found '8g.10gb'; allowed: a MI"),
        ({"count": 1, "mig": {"1g.10gb": 9}}, "mig.'1g.10gb': found '9'; the maximum is 8"),
        (
            {"count": 1, "mig": [{"devices": [1], "mig-devices": SEVEN}]},
            "mig[0].devices: there is no card 1: the node has 1, numbered from 0",
        ),
        (
            {"count": 2, "mig": [{"devices": [1], "mig-devices": SEVEN}]},
            "mig: card 0 stays whole, and others are divided: SLURM cannot tell them apart",
        ),
        (
            {"count": 1, "mig": [{"mig-enabled": False, "mig-devices": SEVEN}]},
            "mig[0]: found",
        ),
        (
            {"count": 1, "mig": [{"device-filter": ["0x20B010DE"], "mig-devices": SEVEN}]},
            "mig[0].device-filter: unknown",
        ),
    ],
)
def test_a_wrong_layout_of_real_cards_is_named(gpu: dict[str, Any], said: str) -> None:
    found = of_nodes(gpu)
    assert any(line.replace("clusters.", "").startswith(f"{HERE}.{said}") for line in found), found


def test_a_card_that_is_passed_through_cannot_stay_whole_beside_slices() -> None:
    device = {"pci_address": "0000:66:00.0", "device_type": "gpu"}
    passed = {"enabled": True, "devices": [device]}
    found = of_nodes({"pci": CARD, "mig": SEVEN}, pcie_passthrough=passed)
    assert any("also has a GPU by `pcie_passthrough`, which stays whole" in line for line in found)


def test_of_entries_for_the_same_card_the_last_counts() -> None:
    spec = GpuSpec.model_validate(
        {
            "count": 3,
            "mig": [
                {"devices": "all", "mig-devices": SEVEN},
                {"devices": [1], "mig-enabled": False},
            ],
        }
    )
    assert spec.cards
    assert spec.cards.slices == (SEVEN, {}, SEVEN)


def test_an_address_may_be_as_lspci_shows_it() -> None:
    spec = GpuSpec.model_validate({"pci": ["65:00.0", "0000:B3:00.0"]})
    assert spec.pci == (CARD, "0000:b3:00.0")


def test_a_card_belongs_to_one_node() -> None:
    [found] = of_nodes({"pci": CARD}, {"pci": "0000:65:00.1"})
    assert found == (
        "hpc.compute_nodes[1].gpu.pci[0]: the card at 0000:65:00.1 is also "
        "clusters.hpc.compute_nodes[0].gpu.pci[0]"
    )
    [found] = of_nodes({"pci": CARD}, count=2)
    assert (
        found
        == f"{HERE}.pci[0]: 2 nodes cannot all have the card {CARD}; `gpu.count` gives each one"
    )
    assert of_nodes({"count": 1}, count=2) == []


def test_a_card_is_not_also_passed_through() -> None:
    def passing(address: str) -> dict[str, Any]:
        device = {"pci_address": address, "device_type": "gpu"}
        return NODE | {"pcie_passthrough": {"enabled": True, "devices": [device]}}

    card = NODE | {"gpu": {"pci": CARD}}
    also = "is also clusters.hpc.compute_nodes[0]"
    device = "pcie_passthrough.devices[0].pci_address"
    assert check({"compute_nodes": [passing("0000:65:00.1"), card]}) == [
        f"hpc.compute_nodes[1].gpu.pci[0]: the card at {CARD} {also}.{device}"
    ]
    assert check({"compute_nodes": [card, passing("0000:65:00.1")]}) == [
        f"hpc.compute_nodes[1].{device}: the card at 0000:65:00.1 {also}.gpu.pci[0]"
    ]
    # Twice in pcie_passthrough is told once, as that of one device.
    assert check({"compute_nodes": [passing(CARD), passing(CARD)]}) == [
        f"hpc.compute_nodes[1].{device}: the PCI device {CARD} {also}.{device}"
    ]
    assert check({"compute_nodes": [card, passing("0000:b3:00.0")]}) == []


def test_clusters_of_one_file_may_name_the_same_card() -> None:
    """Only one of them can be up, which a start says."""
    card = {"gpu": {"pci": CARD}}
    found = check(
        {"compute_nodes": [NODE | card]},
        cloud={"worker_nodes": [NODE | card], "name": "cloud", "control_plane": NODE},
    )
    assert not [line for line in found if "gpu" in line]
