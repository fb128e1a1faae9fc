"""On which card a vGPU is made, and what is said where none can be."""

import os
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.clusters.preflight.device_users import DeviceUser
from ai_how.clusters.preflight.host_gpus import Asker, HostGpus, assign_gpus
from ai_how.errors import HostError
from ai_how.spec.nodes import nodes_of
from ai_how.state.paths import default_roots
from ai_how.vm_management.vgpus import Vgpu, mdev_uuid
from cluster_bench import draft_of, read_hpc
from gpu_host import A40, GEFORCE, L40S, NVIDIA, T4, THREE_D, GpuHost
from vgpu_kernel import VgpuKernel

NODE = "cpu_cores: 1, memory_gb: 1, disk_gb: 10"
ID = UUID("5f2b1f0c-0000-4000-8000-000000000001")
VF0, VF1 = "0000:5e:00.4", "0000:5e:00.5"
BUSY = DeviceUser("compute-01 of the cluster theirs", "ai-how hpc stop --cluster theirs")
OWN = DeviceUser("compute-01 of the same cluster", None, own_node="compute-01")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    return GpuHost(tmp_path / "host")


def assign(
    host: GpuHost,
    *gpus: str,
    users: Mapping[str, DeviceUser] | None = None,
    cards: Mapping[str, tuple[str, ...]] | None = None,
    wanted: tuple[str, ...] | None = None,
) -> HostGpus:
    """What nodes with these `gpu` sections (and more, after a comma) get."""
    VgpuKernel(host).prepare()
    entries = "".join(f"\n      - {{{NODE}, gpu: {gpu}}}" for gpu in gpus)
    hpc = read_hpc(nodes=f"compute_nodes:{entries}")
    nodes = nodes_of(hpc)
    names = wanted if wanted is not None else tuple(node.name for node in nodes)
    previous = draft_of(hpc, None, cards=dict(cards)).state if cards else None
    return assign_gpus(
        nodes,
        Asker(name="hpc", id=ID, previous=previous),
        lambda: users or {},
        default_roots(host.root.parent / "state"),
        wanted=names,
        machine=host.root,
    )


def refusal(
    host: GpuHost, *gpus: str, users: Mapping[str, DeviceUser] | None = None
) -> tuple[str, list[str], str | None]:
    with pytest.raises(HostError) as caught:
        assign(host, *gpus, users=users)
    error = caught.value
    return error.brief, (error.details or "").splitlines(), error.hint


def vgpu(profile: str, parent: str | None = None) -> str:
    where = f", parent: '{parent}'" if parent else ""
    return f"{{vgpu: {{profile: {profile}{where}}}}}"


def test_a_type_is_found_by_its_id_or_name_in_each_generation(host: GpuHost) -> None:
    host.add_t4()
    host.add_a40()
    host.add_l40s()
    for profile, kind in (("nvidia-230", "nvidia-230"), ("GRID T4-1Q", "nvidia-230")):
        uuid = mdev_uuid(ID, "compute-01", kind, None)
        assert assign(host, vgpu(profile)).vgpus == {"compute-01": Vgpu(T4, kind, uuid)}
    uuid = mdev_uuid(ID, "compute-01", "nvidia-557", None)
    assert assign(host, vgpu("NVIDIA A40-1B")).vgpus == {
        "compute-01": Vgpu("0000:3b:00.4", "nvidia-557", uuid)
    }
    for profile in ("1148", "NVIDIA L40S-2Q"):
        given = assign(host, vgpu(profile))
        assert given.vgpus == {"compute-01": Vgpu(VF0, "1148")}
        assert given.remembered == {"compute-01": (VF0,)}
        assert given.host_devices == {"compute-01": (VF0,)}
    assert assign(host, vgpu("1148", VF1)).vgpus["compute-01"].parent == VF1
    assert assign(host, vgpu("1148", L40S)).vgpus["compute-01"].parent == VF0


def test_a_parent_that_is_not_there_is_told_with_what_there_is(host: GpuHost) -> None:
    brief = "compute-01 is to have a vGPU nvidia-230, and there is no GPU 0000:99:00.0"
    assert refusal(host, vgpu("nvidia-230", "0000:99:00.0")) == (
        brief,
        ["this host has no GPU"],
        "ai-how gpu list",
    )
    host.add_t4()
    assert refusal(host, vgpu("nvidia-230", "0000:99:00.0"))[:2] == (
        brief,
        ["0000:17:00.0 NVIDIA Tesla T4"],
    )


def test_a_host_without_gpus_says_so(host: GpuHost) -> None:
    assert refusal(host, vgpu("1148")) == (
        "compute-01 is to have a vGPU 1148, and this host has no GPU",
        [],
        "ai-how gpu list",
    )


def test_a_type_that_no_card_has_is_told_with_those_there_are(host: GpuHost) -> None:
    host.add_t4()
    host.add_l40s()
    host.add_geforce(driver="nvidia")
    brief, details, hint = refusal(host, vgpu("nvidia-99"))
    assert brief == "compute-01 is to have a vGPU nvidia-99, and no card offers it"
    assert details[0] == (
        f"{T4} NVIDIA Tesla T4: it offers nvidia-222 (GRID T4-1B), nvidia-230 (GRID T4-1Q)"
    )
    assert details[1] == (
        f"{L40S} NVIDIA L40S: it offers 1147 (NVIDIA L40S-1Q), 1148 (NVIDIA L40S-2Q)"
    )
    assert details[2].startswith(f"{GEFORCE} NVIDIA GeForce RTX 4090: NVIDIA's driver offers no vG")
    assert hint == f"ai-how gpu explain {T4}"
    brief, details, _ = refusal(host, vgpu("1148", T4))
    assert brief == f"compute-01 is to have a vGPU 1148, and {T4} does not offer it"
    assert len(details) == 1


def test_why_a_card_has_none_and_what_helps(host: GpuHost) -> None:
    host.add_geforce(driver="nvidia")
    assert "can only be passed whole" in refusal(host, vgpu("1148"))[1][0]
    host.add(T4, (NVIDIA, 0x1EB8), THREE_D, group=17, driver="nvidia")
    host.set(T4, sriov_totalvfs="0")
    _, [told], hint = refusal(host, vgpu("nvidia-230", T4))
    assert told == (
        f"{T4} NVIDIA Tesla T4: the host's NVIDIA driver is not the licensed vGPU driver for hosts"
    )
    assert hint == f"ai-how gpu explain {T4}"
    host.add_l40s(vfs=0)
    _, [told], hint = refusal(host, vgpu("1148", L40S))
    assert told == f"{L40S} NVIDIA L40S: its VFs are not made"
    assert hint == f"sudo /usr/lib/nvidia/sriov-manage -e {L40S}"
    _, [told], hint = refusal(host, vgpu("1148", L40S), users={L40S: BUSY})
    assert (told, hint) == (f"{L40S} NVIDIA L40S: in use by {BUSY.who}", BUSY.hint)


def test_vfs_of_other_makers_are_devices(host: GpuHost) -> None:
    host.add_radeon()
    host.set("0000:0b:00.0", sriov_totalvfs="4")
    host.add_vf("0000:0b:00.0", "0000:0b:02.0", 0, group=70)
    [told] = refusal(host, vgpu("1"))[1]
    assert told.endswith("each of its VFs is a device, which pcie_passthrough gives to a node")


def test_none_that_is_free_is_told_with_what_has_each(host: GpuHost) -> None:
    host.add_t4(available=1)
    one = vgpu("nvidia-230")
    assert refusal(host, one, one) == (
        "compute-02 is to have a vGPU nvidia-230, and none is free",
        [f"{T4} NVIDIA Tesla T4: no instance of nvidia-230 (GRID T4-1Q) is free"],
        f"ai-how gpu explain {T4}",
    )
    host.add_l40s(vfs=4)
    host.set("0000:5e:00.6", nvidia__current_vgpu_type="1147")
    (host.device("0000:5e:00.7") / "iommu_group").unlink()
    two = vgpu("1148", L40S)
    brief, details, hint = refusal(host, two, two, users={VF0: BUSY})
    assert brief == f"compute-02 is to have a vGPU 1148 on {L40S}, and none is free"
    assert details == [
        f"{VF0} NVIDIA L40S: in use by {BUSY.who}",
        f"{VF1} NVIDIA L40S: compute-01 of this file has it",
        "0000:5e:00.6 NVIDIA L40S: it is a vGPU of type 1147 already, of nobody that ai-how knows",
        "0000:5e:00.7 NVIDIA L40S: it is in no IOMMU group",
    ]
    assert hint == BUSY.hint


def test_a_card_or_vf_that_another_node_gets_is_not_divided(host: GpuHost) -> None:
    host.add_l40s()
    passed = f"pcie_passthrough: {{enabled: true, devices: [{{pci_address: '{VF0}', "
    with_vf = f"{{}}, {passed}device_type: gpu}}]}}"
    given = assign(host, vgpu("1148"), with_vf)
    assert given.vgpus["compute-01"].parent == VF1
    host.add_t4()
    [told] = refusal(host, f"{{pci: '{T4}'}}", vgpu("nvidia-230"))[1]
    assert told == f"{T4} NVIDIA Tesla T4: compute-01 of this file has it"


def test_a_card_with_vgpus_is_not_given_whole(host: GpuHost) -> None:
    uuid = "c2177883-f1bb-47f0-914d-32a22e3a8804"
    host.add_t4(15, uuid)
    host.add_l40s()
    whole = f"{{pci: '{L40S}'}}"
    assert assign(host, whole).cards["compute-01"].cards == (L40S,)
    host.set(VF1, nvidia__current_vgpu_type="1148")
    for address, made in ((T4, uuid), (L40S, VF1)):
        assert refusal(host, f"{{pci: '{address}'}}") == (
            f"{address}, which compute-01 is to have whole, has vGPUs",
            [made],
            f"ai-how gpu explain {address}",
        )
    assert assign(host, whole, wanted=()).cards["compute-01"].cards == (L40S,)


def test_cards_of_one_type_come_before_mixed_ones(host: GpuHost) -> None:
    host.add_t4()
    other = "0000:18:00.0"
    host.add(other, (NVIDIA, 0x1EB8), THREE_D, group=18, driver="nvidia")
    for kind, name in (("nvidia-222", "GRID T4-1B"), ("nvidia-230", "GRID T4-1Q")):
        host.add_mdev_type(other, kind, name, 16)
    given = assign(host, vgpu("nvidia-222"), vgpu("nvidia-230"), vgpu("nvidia-222")).vgpus
    assert [one.parent for one in given.values()] == [T4, other, T4]


def test_a_vf_is_remembered_while_it_is_free(host: GpuHost) -> None:
    host.add_l40s()

    def chosen(*, users: Mapping[str, DeviceUser] | None = None, wanted: bool = True) -> str | None:
        names = None if wanted else ("controller",)
        cards = {"compute-01": (VF1,)}
        given = assign(host, vgpu("1148"), users=users, cards=cards, wanted=names).vgpus
        return given["compute-01"].parent if given else None

    assert chosen() == VF1
    assert chosen(users={VF1: BUSY}) == VF0
    assert chosen(wanted=False) == VF1
    host.set(VF1, nvidia__creatable_vgpu_types="ID    : vGPU Name")
    assert chosen(wanted=False) is None


def test_a_node_keeps_what_its_vm_has_on_a_card_that_is_full(host: GpuHost) -> None:
    host.add_l40s()
    host.set(VF1, nvidia__current_vgpu_type="1148")
    for vf in (VF0, VF1):
        host.set(vf, nvidia__creatable_vgpu_types="ID    : vGPU Name")
    for profile in ("1148", "NVIDIA L40S-2Q"):
        given = assign(host, vgpu(profile), users={VF1: OWN}, wanted=("controller",))
        assert given.vgpus == {"compute-01": Vgpu(VF1, "1148")}
    # The file asks for another type now: the VM has what it has until it is stopped.
    with pytest.raises(HostError, match="no card offers it"):
        assign(host, vgpu("1147"), users={VF1: OWN})


def test_a_device_that_is_there_needs_no_free_instance(host: GpuHost) -> None:
    uuid = mdev_uuid(ID, "compute-01", "nvidia-230", None)
    host.add_t4(available=0)
    place = host.device(T4) / "mdev_supported_types/nvidia-230/devices"
    (place / str(uuid)).mkdir(parents=True)
    assert assign(host, vgpu("nvidia-230")).vgpus["compute-01"].uuid == uuid


def test_only_root_makes_one_and_the_command_is_told(
    host: GpuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add_a40()
    host.add_l40s()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    uuid = mdev_uuid(ID, "compute-01", "nvidia-557", A40)
    assert refusal(host, vgpu("nvidia-557", A40)) == (
        (
            "only root can make the vGPU of compute-01, type nvidia-557 (NVIDIA A40-1B), on "
            "0000:3b:00.4"
        ),
        ["With one that root has made, the start goes on."],
        (
            f"echo {uuid} | sudo tee "
            "/sys/bus/pci/devices/0000:3b:00.4/mdev_supported_types/nvidia-557/create"
        ),
    )
    hint = f"echo 1148 | sudo tee /sys/bus/pci/devices/{VF0}/nvidia/current_vgpu_type"
    assert refusal(host, vgpu("1148"))[2] == hint
    host.set(VF1, nvidia__current_vgpu_type="1148")
    assert assign(host, vgpu("1148")).vgpus == {"compute-01": Vgpu(VF1, "1148")}
    # It is not started now.
    assert assign(host, vgpu("1147"), wanted=()).vgpus == {}


def test_ids_differ_by_node_type_and_named_parent() -> None:
    one = mdev_uuid(ID, "compute-01", "nvidia-230", None)
    assert one == mdev_uuid(ID, "compute-01", "nvidia-230", None)
    others = {
        mdev_uuid(ID, "compute-02", "nvidia-230", None),
        mdev_uuid(ID, "compute-01", "nvidia-222", None),
        mdev_uuid(ID, "compute-01", "nvidia-230", T4),
    }
    assert len(others | {one}) == 4
