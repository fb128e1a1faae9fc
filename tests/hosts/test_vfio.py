"""Devices go to VMs and come back by real libvirt and VFIO, on an emulated host with an IOMMU.

No GPU is there: a card is an emulated display with its second function. What happens there is in
vfio_life.py; here it is judged.
"""

import os
from pathlib import Path

import pytest

from emulated_host import (
    BOOT_DISPLAY,
    BRIDGED,
    CARD,
    DRIVERS,
    EDU,
    MIXED_CARD,
    NVME,
    VFS,
)
from seen_inside import Asked, Said, check, lived

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.skipif(os.geteuid() != 0, reason="its root directory is read as root"),
]

LIFE = ("facts", "refusals", "life", "vfs")
FAULTS = (
    *("qemu_killed", "daemon_killed", "daemon_killed_in_start", "daemon_killed_in_stop"),
    *("start_killed", "start_killed_at_its_record"),
)
PROGRAM = "vfio_life.py"
BOTH = (*CARD, *MIXED_CARD)
VFIO = "vfio-pci"
IDS = {CARD[0]: "1b36:0100", CARD[1]: "1b36:000d", NVME: "1b36:0010", EDU: "1234:11e8"}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, is_long: bool) -> Asked:
    if not is_long:
        pytest.skip("VMs under two emulations take five minutes or more: --long")
    return lived(tmp_path_factory.mktemp("vfio-life"), PROGRAM, *LIFE)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, is_long: bool) -> Asked:
    if not is_long:
        pytest.skip("each of these boots a VM twice under two emulations: --long")
    return lived(tmp_path_factory.mktemp("vfio-faults"), PROGRAM, *FAULTS)


def card(seen: Said, address: str) -> Said:
    return next(one for one in seen["cards"] if one["gpu"]["address"] == address)


def given(*addresses: str) -> dict[str, str | None]:
    """The drivers while a VM has these."""
    return known(DRIVERS) | dict.fromkeys(addresses, VFIO)


def known(drivers: dict[str, str | None]) -> dict[str, str | None]:
    return {one: drivers[one] for one in DRIVERS}


def test_what_is_said_of_the_cards_is_what_sysfs_has(life: Asked) -> None:
    seen = life("facts")
    assert known(seen["drivers"]) == DRIVERS
    cards = [one["gpu"] for one in seen["cards"]]
    functions = {
        BOOT_DISPLAY: [BOOT_DISPLAY],
        CARD[0]: list(CARD),
        MIXED_CARD[0]: [MIXED_CARD[0]],  # the other is another maker's
        BRIDGED[0]: [BRIDGED[0]],
    }
    assert {one["address"]: [f["address"] for f in one["functions"]] for one in cards} == functions
    for one in cards:
        assert one["is_boot_display"] is (one["address"] == BOOT_DISPLAY)
        group = seen["groups"][one["address"]]
        assert one["iommu_group"] == group
        mates = {other for other, number in seen["groups"].items() if number == group}
        neighbours = {mate["address"] for mate in one["neighbours"]}
        assert neighbours == mates - {*functions[one["address"]]}
        for function in one["functions"]:
            assert function["driver"] == seen["drivers"][function["address"]]
            assert function["iommu_group"] == seen["groups"][function["address"]]
    assert seen["groups"][CARD[0]] == seen["groups"][CARD[1]]


def test_the_answer_is_yes_for_a_card_alone_in_its_group(life: Asked) -> None:
    seen = life("facts")
    whole = {one["gpu"]["address"]: one["abilities"][0] for one in seen["cards"]}
    assert {address: one["answer"] for address, one in whole.items()} == {
        BOOT_DISPLAY: "not now",
        CARD[0]: "yes",
        MIXED_CARD[0]: "not now",
        BRIDGED[0]: "not now",
    }
    assert "the display that the host booted with" in whole[BOOT_DISPLAY]["hurdles"][0]["text"]
    for one, other in (MIXED_CARD, BRIDGED):
        assert f"its IOMMU group also has {other}" in whole[one]["hurdles"][0]["text"]
    checks = {(one["name"], one["status"]) for one in seen["doctor"]["checks"]}
    assert not seen["doctor"]["is_able"]
    assert {("iommu", "ok"), ("01:00.0", "ok"), ("02:00.0", "failure"), ("06:01.0", "failure")} <= (
        checks
    )


@pytest.mark.fault("S27", "a boot display, a mounted disk and half a group, on an emulated host")
@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("half a group", f"IOMMU group {{group}} also has {MIXED_CARD[1]}: list all or none"),
        ("behind a bridge", f"IOMMU group {{group}} also has {BRIDGED[1]}: list all or none"),
        ("boot display", "it is the display that the host booted with"),
        ("mounted", "the host uses nvme0n1 (mounted on /srv/disk)"),
    ],
)
def test_a_device_that_must_stay_is_refused_before_any_change(
    life: Asked, what: str, found: str
) -> None:
    groups = life("facts")["groups"]
    seen = life("refusals")
    check(seen[what], 3)
    group = groups[BRIDGED[0] if "bridge" in what else MIXED_CARD[0]]
    assert found.format(group=group) in seen[what]["err"]
    assert seen[what]["err"].startswith("error: pci 0000:")
    assert seen[what]["records"] == []
    assert seen[f"{what}: same"]


def test_devices_go_to_a_vm_and_come_back_to_their_drivers(life: Asked) -> None:
    seen = life("life")
    every = (*CARD, *MIXED_CARD, NVME, EDU)
    check(seen["start"])
    for one in (CARD[1], *MIXED_CARD, NVME):
        told = f"pci {one}: it is detached from its driver {DRIVERS[one]} while the VM runs"
        assert told in seen["start"]["err"]
    assert known(seen["while it runs"]) == given(*every)
    assert seen["open groups"] == seen["groups"]
    for address in every:
        assert f'host = "{address}"' in seen["inside"]
    for ids in IDS.values():
        assert f"pci id {ids}" in seen["inside"]
    check(seen["stop"])
    assert seen["after stop"] == seen["before"]
    assert known(seen["before"]) == DRIVERS


def test_a_card_that_a_vm_has_is_shown_with_it(life: Asked) -> None:
    one = card(life("life"), CARD[0])
    assert one["defined_in"] == ["one/compute-01"]
    assert {function["driver"] for function in one["gpu"]["functions"]} == {VFIO}
    assert one["abilities"][0]["answer"] == "not now"
    [user] = one["gpu"]["users"]
    assert (user["command"], user["kind"]) == ("qemu-system-x86", "VM")


@pytest.mark.fault("F67", "two clusters with one card, on the real VFIO")
def test_a_card_is_refused_to_a_second_cluster_until_the_first_is_off(life: Asked) -> None:
    seen = life("life")
    check(seen["other"], 3)
    assert (
        f"the device {CARD[0]} of compute-01 is in use by compute-01 of the cluster one"
        in (seen["other"]["err"])
    )
    assert "hint: ai-how" in seen["other"]["err"]
    assert "stop --cluster one" in seen["other"]["err"]
    assert seen["other"]["records"] == []
    assert seen["after the other"] == seen["while it runs"]
    check(seen["other again"])
    assert len(seen["it has it"]) == 1
    check(seen["destroy"])
    assert seen["after destroy"] == seen["before"]


def test_a_vf_goes_to_a_vm_while_the_device_stays_the_hosts(life: Asked) -> None:
    seen = life("vfs")
    vfs = seen["vfs"]
    assert len(set(seen["groups"])) == 1 + VFS
    check(seen["start"])
    assert known(seen["while it runs"]) == DRIVERS
    assert [seen["while it runs"][one] for one in vfs] == [VFIO, None]
    assert seen["open groups"] == [str(seen["groups"][1])]
    check(seen["stop"])
    assert [seen["after stop"][one] for one in vfs] == [None, None]
    assert set(vfs).isdisjoint(seen["without"])
    check(seen["removed"], 3)
    assert f"{vfs[0]}: there is no such device" in seen["removed"]["err"]


def test_without_an_iommu_no_card_can_be_given_away(tmp_path: Path, is_long: bool) -> None:
    if not is_long:
        pytest.skip("it takes one more boot: --long")
    seen = lived(tmp_path, PROGRAM, "no_iommu", has_iommu=False)("no_iommu")
    assert not seen["doctor"]["is_able"]
    [iommu] = [one for one in seen["doctor"]["checks"] if one["name"] == "iommu"]
    assert iommu["status"] == "failure"
    assert "no card can be passed to a VM" in iommu["found"]
    assert {one["abilities"][0]["answer"] for one in seen["cards"]} == {"not now"}
    check(seen["start"], 3)
    assert "IOMMU" in seen["start"]["err"]
    assert seen["start"]["records"] == []
    assert known(seen["after"]) == known(seen["before"]) == DRIVERS


@pytest.mark.fault("F31", "the QEMU of a VM with devices of the host")
def test_devices_come_back_when_qemu_is_killed(faults: Asked) -> None:
    seen = faults("qemu_killed")
    check(seen["start"])
    assert seen["after kill"] == seen["before"]
    check(seen["again"])
    has_both_again_and_gives_them_back(seen)


@pytest.mark.fault("F27", "the libvirtd of a VM with devices of the host")
def test_a_new_libvirtd_knows_what_a_vm_has(faults: Asked) -> None:
    seen = faults("daemon_killed")
    check(seen["start"])
    assert known(seen["after kill"]) == given(*BOTH)
    check(seen["other"], 3)
    assert "is in use by compute-01 of the cluster one" in seen["other"]["err"]
    check(seen["last stop"])
    assert seen["after last stop"] == seen["before"]


@pytest.mark.fault("F27", "libvirtd, between unbind and bind of the devices of a VM")
def test_a_start_goes_on_whose_libvirtd_is_killed_between_unbind_and_bind(faults: Asked) -> None:
    seen = faults("daemon_killed_in_start")
    assert VFIO in seen["at kill"].values()
    check(seen["ended"])
    assert known(seen["after fault"]) == given(*BOTH)
    for verb in ("stop", "again", "last stop"):
        check(seen[verb])
    assert len(seen["open groups"]) == len((CARD, MIXED_CARD))


@pytest.mark.fault("F27", "libvirtd, with a device that had no driver and is with vfio-pci")
def test_no_device_stays_with_vfio_that_a_killed_libvirtd_had_bound(faults: Asked) -> None:
    seen = faults("daemon_killed_in_start")
    assert seen["after stop"] == seen["before"]


@pytest.mark.fault("F27", "libvirtd, when QEMU has ended and its devices are not back")
def test_a_stop_whose_libvirtd_is_killed_before_devices_are_back(faults: Asked) -> None:
    seen = faults("daemon_killed_in_stop")
    check(seen["start"])
    assert VFIO in seen["at kill"].values()
    check_recovered(seen)


@pytest.mark.fault("F01", "a start, between unbind and bind of the devices of a VM")
def test_a_start_that_is_killed_between_unbind_and_bind(faults: Asked) -> None:
    seen = faults("start_killed")
    assert seen["ended"]["code"] == -9
    assert VFIO in seen["at kill"].values()
    check_recovered(seen)


@pytest.mark.fault("F01", "a start, after the boot of a VM with devices and before its record")
def test_a_start_that_is_killed_before_the_record_of_its_boot(faults: Asked) -> None:
    seen = faults("start_killed_at_its_record")
    assert seen["ended"]["code"] == -9
    assert known(seen["at kill"]) == given(*BOTH)
    check_recovered(seen)


def check_recovered(seen: Said) -> None:
    """Stopped, it has none of them; and it can have them again."""
    check(seen["stop"])
    assert seen["after stop"] == seen["before"]
    check(seen["again"])
    has_both_again_and_gives_them_back(seen)


def has_both_again_and_gives_them_back(seen: Said) -> None:
    assert len(seen["open groups"]) == len((CARD, MIXED_CARD))
    check(seen["last stop"])
    assert seen["after last stop"] == seen["before"]
