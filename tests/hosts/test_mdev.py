"""vGPUs are made and removed on the kernel's own mdev, by the driver of an emulated card.

What happens there is in mdev_life.py; here it is judged.
"""

import os
import shutil

import pytest

from emulated_host import CARD
from mdev_driver import get_mdev_driver
from seen_inside import Asked, Said, check, lived

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.skipif(os.geteuid() != 0, reason="its root directory is read as root"),
]

SCENARIOS = (
    *("facts", "refusals", "life", "by_hand", "killed_at_its_record", "killed_before_boot"),
)
DRIVER = "mtty"
ONE_PORT, TWO_PORTS = "mtty-1", "mtty-2"
PORTS = 24
IDS = "4348:3253"  # what a VM sees of the sample


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, is_long: bool) -> Asked:
    if not is_long:
        pytest.skip("VMs under two emulations, and a kernel module that is built: --long")
    out = tmp_path_factory.mktemp("mdev")
    shutil.copy(get_mdev_driver(), out / "mtty-card.ko")
    return lived(out, "mdev_life.py", *SCENARIOS)


def free(ports: int) -> dict[str, int]:
    """How many of each type fit into ports that nobody has."""
    return {ONE_PORT: ports, TWO_PORTS: ports // 2}


def has_one(seen: Said, kind: str, cluster: str) -> str:
    """The vGPU of a cluster's node, which is the only one of its type, and is leased."""
    [uuid] = [one for one, its_type in seen["made"].items() if its_type == kind]
    assert seen["leases"][uuid] == [cluster, "compute-01", CARD[0], kind]
    return uuid


def runs_with(has: Said, looked: Said, uuid: str) -> None:
    """QEMU has the mediated device open, and has plugged it in."""
    assert has["open groups"] == [looked["groups"][uuid]]
    assert f'sysfsdev = "/sys/bus/mdev/devices/{uuid}"' in has["inside"]
    assert f"pci id {IDS}" in has["inside"]


def has_none(looked: Said) -> None:
    assert (looked["made"], looked["leases"], looked["free"]) == ({}, {}, free(PORTS))
    assert looked["drivers"][CARD[0]] == DRIVER


def test_the_types_of_a_card_are_those_of_sysfs(life: Asked) -> None:
    seen = life("facts")
    has_none(seen["seen"])
    gpu = seen["card"]["gpu"]
    assert {one["id"]: one["name"] for one in gpu["mdev_types"]} == seen["names"]
    assert {one["id"]: one["available"] for one in gpu["mdev_types"]} == free(PORTS)
    assert [one["gpu"]["address"] for one in seen["cards"] if one["gpu"]["mdev_types"]] == [CARD[0]]
    vgpu = next(one for one in seen["card"]["abilities"] if one["what"] == "vgpu")
    assert (vgpu["answer"], vgpu["how"]) == ("yes", "mdev: 2 types")


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("unknown", f"a vGPU mtty-3, and {CARD[0]} does not offer it"),
        ("unknown", "it offers mtty-1 (Single port serial), mtty-2 (Dual port serial)"),
        ("other card", "a vGPU mtty-2, and 0000:02:00.0 does not offer it"),
        ("full", f"a vGPU mtty-2 on {CARD[0]}, and none is free"),
    ],
)
def test_a_vgpu_that_the_kernel_cannot_make_is_refused(life: Asked, what: str, found: str) -> None:
    seen = life("refusals")
    check(seen[what], 3)
    assert found in seen[what]["err"]
    assert seen[what]["records"] == []
    assert seen["after"] == seen["before"]


def test_a_vgpu_is_there_while_its_vm_is(life: Asked) -> None:
    seen = life("life")
    has_none(seen["before"])
    check(seen["start"])
    looked = seen["while it runs"]
    uuid = has_one(looked, TWO_PORTS, "one")
    assert looked["free"] == free(PORTS - 2)
    assert looked["drivers"] == seen["before"]["drivers"]  # the card stays the host's
    runs_with(seen["has"], looked, uuid)
    assert seen["card"]["defined_in"] == ["one/compute-01"]
    assert [user["kind"] for user in seen["card"]["gpu"]["users"]] == ["VM"]


def test_two_clusters_have_vgpus_of_one_card(life: Asked) -> None:
    seen = life("life")
    check(seen["other"])
    first = has_one(seen["both"], TWO_PORTS, "one")
    second = has_one(seen["both"], ONE_PORT, "two")
    runs_with(seen["other has"], seen["both"], second)
    assert seen["both"]["free"] == free(PORTS - 3)
    check(seen["stop"])
    assert first not in seen["after stop"]["made"]
    assert has_one(seen["after stop"], ONE_PORT, "two") == second
    assert seen["after stop"]["free"] == free(PORTS - 1)
    check(seen["destroy"])
    assert seen["after destroy"] == seen["before"]


@pytest.mark.fault("F67", "the whole card of a vGPU, on the kernel's mdev")
def test_a_card_with_a_vgpu_in_use_is_not_given_whole(life: Asked) -> None:
    seen = life("life")
    check(seen["whole"], 3)
    assert seen["whole"]["records"] == []
    assert seen["after whole"] == seen["while it runs"]


def test_a_mediated_device_that_root_has_made_is_left_alone(life: Asked) -> None:
    seen = life("by_hand")
    check(seen["start"])
    runs_with(seen["has"], seen["while it runs"], seen["uuid"])
    check(seen["stop"])
    for when in ("before", "while it runs", "after stop"):
        assert (seen[when]["made"], seen[when]["leases"]) == ({seen["uuid"]: ONE_PORT}, {})


@pytest.mark.fault("F01", "a start, when the kernel has made its vGPU and before the record")
def test_the_next_command_removes_a_vgpu_without_a_record(life: Asked) -> None:
    seen = life("killed_at_its_record")
    assert seen["ended"]["code"] == -9
    uuid = has_one(seen["at kill"], TWO_PORTS, "one")
    told = [one for one in seen["doctor"]["checks"] if one["name"] == "vgpu"]
    assert [one["found"] for one in told] == [
        f"the vGPU {uuid}, type {TWO_PORTS} on {CARD[0]} is left of compute-01 of one"
    ]
    check(seen["stop"])
    assert seen["after stop"] == seen["before"]


@pytest.mark.fault("F01", "a start, between the making of its vGPU and the boot")
def test_the_vgpu_of_a_first_start_that_was_killed_goes_and_the_next_has_another(
    life: Asked,
) -> None:
    seen = life("killed_before_boot")
    assert seen["ended"]["code"] == -9
    former = has_one(seen["at kill"], TWO_PORTS, "one")
    check(seen["again"])
    uuid = has_one(seen["while it runs"], TWO_PORTS, "one")
    assert uuid != former  # the next start makes another cluster, with an id of its own
    runs_with(seen["has"], seen["while it runs"], uuid)


@pytest.mark.fault("F31", "the QEMU of a VM with a vGPU, on the kernel's mdev")
def test_the_next_command_removes_the_vgpu_of_a_killed_qemu(life: Asked) -> None:
    seen = life("killed_before_boot")
    has_one(seen["without QEMU"], TWO_PORTS, "one")
    check(seen["stop"])
    assert seen["after stop"] == seen["before"]
