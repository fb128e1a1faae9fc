"""vGPUs are made before the boot and removed after it: on libvirt's test driver, with trees."""

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from card_bench import CardBench, card_bench
from test_cards_of_clusters import possible
from test_leases import turn_off

from ai_how.clusters.leases import check_leases
from ai_how.errors import HostError, LibvirtError, PlanFailedError, UndoIncompleteError
from ai_how.gpu.report import read_report
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.host_devices import devices_in
from ai_how.plan.journal import OnBoundary
from ai_how.plan.step import Applied
from ai_how.state.cluster_state import read_state
from ai_how.state.leases import find_damaged, read_vgpu_leases
from ai_how.vm_management import vgpus
from ai_how.vm_management.vgpus import mdev_uuid
from bare_kind import CheckRunning
from gpu_host import A40, L40S, T4
from ledger import Points
from record_kills import Death, ended_at_each, records_of, some_of
from vgpu_kernel import VgpuKernel

VF0, VF1 = "0000:5e:00.4", "0000:5e:00.5"
FIRST = "gpu: {vgpu: {profile: GRID T4-1Q}}"
SECOND = "gpu: {vgpu: {profile: nvidia-557}}"
THIRD = "gpu: {vgpu: {profile: 1148}}"
STEP, BOOT_VM = "vgpu/mine-compute-01", "boot/mine-compute-01"
GENERATIONS = pytest.mark.parametrize("asked", [FIRST, SECOND, THIRD])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBench]:
    with card_bench(tmp_path, monkeypatch) as made:
        made.host.add_t4()
        made.host.add_a40()
        made.host.add_l40s()
        yield made


@pytest.fixture
def kernel(bench: CardBench, monkeypatch: pytest.MonkeyPatch) -> VgpuKernel:
    kernel = VgpuKernel(bench.host)
    kernel.prepare()
    monkeypatch.setattr(vgpus, "write_sysfs", kernel.write)
    return kernel


def made(kernel: VgpuKernel) -> list[str]:
    """What is there: UUIDs of mediated devices, and VFs with their type."""
    types = [f"{vf}={kernel.type_of(vf)}" for vf in (VF0, VF1) if kernel.type_of(vf) != "0"]
    return kernel.mdevs + types


def leased(bench: CardBench) -> list[str]:
    return [f"{one.parent} {one.type}" for one in read_vgpu_leases(bench.roots.leases)]


def held(bench: CardBench, vm: str = "mine-compute-01") -> frozenset[str]:
    """The devices of a VM as libvirt has it."""
    seen = bench.client.find_domain_by_name(vm)
    return devices_in(seen.xml) if seen else frozenset()


def uuid_of(bench: CardBench, node: str, kind: str) -> str:
    state = read_state(bench.roots.cluster("mine"))
    assert state is not None
    return str(mdev_uuid(state.lineage, node, kind, None))


@pytest.mark.parametrize(
    ("asked", "parent", "kind"),
    [(FIRST, T4, "nvidia-230"), (SECOND, "0000:3b:00.4", "nvidia-557"), (THIRD, VF0, "1148")],
)
def test_a_vgpu_is_there_while_its_vm_is(
    bench: CardBench, kernel: VgpuKernel, asked: str, parent: str, kind: str
) -> None:
    assert possible(bench, "mine", asked) == []
    plan = bench.start("mine", asked)
    steps = {step.key: step for step in plan.steps}
    assert (
        steps[STEP].describe() == f"make a vGPU of type {kind} on {parent} for the VM mine-"
        "compute-01"
    )
    assert STEP in steps[BOOT_VM].needs
    assert leased(bench) == [f"{parent} {kind}"]
    device = parent if asked == THIRD else uuid_of(bench, "compute-01", kind)
    assert held(bench) == {device}
    assert made(kernel) == [f"{device}=1148" if asked == THIRD else device]
    assert bench.cards("mine", "compute-01") == ((VF0,) if asked == THIRD else None)
    assert list(check_leases(bench.roots, bench.host.root)) == []
    # It runs: nothing is to be done, and nothing in the way.
    assert not bench.start("mine", asked).steps
    assert possible(bench, "mine", asked) == []
    stopped = bench.manager("mine").stop()
    assert [step.key for step in stopped.steps][-1] == "return/mine-compute-01"
    assert (made(kernel), leased(bench)) == ([], [])
    bench.start("mine", asked)
    assert held(bench) == {device}
    bench.manager("mine").destroy()
    assert (made(kernel), leased(bench)) == ([], [])


def test_a_vf_that_is_a_vgpu_stays_with_its_driver(bench: CardBench, kernel: VgpuKernel) -> None:
    bench.start("mine", THIRD)
    sent = (bench.roots.cluster("mine").xml / "mine-compute-01.xml").read_text()
    assert "<hostdev mode='subsystem' type='pci' managed='no'>" in sent
    assert "<driver name='vfio'/>" not in sent
    assert not list(bench.roots.leases.glob("*.json"))
    report = read_report(bench.roots, bench.host.root)
    named = {card.gpu.address: card.defined_in for card in report.cards}
    assert named[L40S] == ("mine/compute-01",)


def test_each_node_has_one_of_its_own(bench: CardBench, kernel: VgpuKernel) -> None:
    bench.start("mine", THIRD, THIRD, FIRST, FIRST)
    assert held(bench) == {VF0}
    assert held(bench, "mine-compute-02") == {VF1}
    assert len(kernel.mdevs) == 2
    assert not bench.start("mine", THIRD, THIRD, FIRST, FIRST).steps
    bench.manager("mine").stop(only=["compute-01", "compute-03"])
    assert made(kernel) == [uuid_of(bench, "compute-04", "nvidia-230"), f"{VF1}=1148"]
    bench.start("mine", THIRD, THIRD, FIRST, FIRST)
    assert held(bench) == {VF0}


def test_two_clusters_share_a_card_until_it_is_full(bench: CardBench, kernel: VgpuKernel) -> None:
    bench.start("mine", THIRD)
    bench.start("yours", THIRD)
    assert held(bench, "yours-compute-01") == {VF1}
    with pytest.raises(HostError) as caught:
        bench.start("theirs", THIRD)
    error = caught.value
    assert error.brief == "compute-01 is to have a vGPU 1148, and none is free"
    assert error.details == (
        f"{VF0} NVIDIA L40S: in use by compute-01 of the cluster mine\n"
        f"{VF1} NVIDIA L40S: in use by compute-01 of the cluster yours"
    )
    assert error.hint == "ai-how bare stop --cluster mine"
    assert not bench.roots.cluster("theirs").is_used


def test_another_type_is_another_device_and_waits_for_a_stop(
    bench: CardBench, kernel: VgpuKernel
) -> None:
    bench.start("mine", FIRST)
    other = FIRST.replace("1Q", "1B")
    bench.start("mine", other)
    assert any("runs with its previous definition" in line for line in bench.warnings)
    assert made(kernel) == [uuid_of(bench, "compute-01", "nvidia-230")]
    bench.manager("mine").stop()
    bench.start("mine", other)
    assert made(kernel) == [uuid_of(bench, "compute-01", "nvidia-222")]
    bench.manager("mine").stop()
    bench.start("mine", "")
    assert (held(bench), made(kernel)) == (frozenset(), [])


@GENERATIONS
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSPC, errno.EACCES])
def test_what_the_kernel_refuses_is_told_and_undone(
    bench: CardBench, kernel: VgpuKernel, asked: str, number: int
) -> None:
    kernel.refuses = [number]
    with pytest.raises(PlanFailedError, match=os.strerror(number)):
        bench.start("mine", asked)
    assert (made(kernel), leased(bench), held(bench)) == ([], [], frozenset())
    assert read_state(bench.roots.cluster("mine")) is None


@GENERATIONS
def test_a_start_that_fails_removes_it(
    bench: CardBench, kernel: VgpuKernel, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_step: CheckRunning, _context: object) -> Applied:
        raise HostError("it does not run")

    monkeypatch.setattr(CheckRunning, "apply", fail)
    with pytest.raises(PlanFailedError):
        bench.start("mine", asked)
    assert (made(kernel), leased(bench)) == ([], [])


@GENERATIONS
def test_what_is_not_removed_is_told_until_it_is(
    bench: CardBench, kernel: VgpuKernel, asked: str
) -> None:
    bench.start("mine", asked)
    kernel.refuses = [errno.EBUSY]
    bench.manager("mine").stop()
    [lease] = read_vgpu_leases(bench.roots.leases)
    [line] = [one for one in bench.warnings if "was not removed" in one]
    [check] = check_leases(bench.roots, bench.host.root)
    assert check.found == vgpus.describe_left(lease)
    assert line == (
        f"{check.found}, and was not removed: {os.strerror(errno.EBUSY)}; to remove it: "
        f"{check.advice}"
    )
    place, text = vgpus.vgpu_of(lease).removed_by
    assert check.advice == f"echo {text} | sudo tee /{place}"
    bench.manager("mine").stop()
    assert (made(kernel), leased(bench)) == ([], [])
    assert list(check_leases(bench.roots, bench.host.root)) == []


@GENERATIONS
@pytest.mark.parametrize("verb", ["start", "stop", "destroy"])
def test_after_a_vm_ended_the_next_command_puts_it_right(
    bench: CardBench, kernel: VgpuKernel, asked: str, verb: str
) -> None:
    bench.start("mine", asked)
    before = made(kernel)
    turn_off(bench)
    assert (made(kernel), len(leased(bench))) == (before, 1)
    assert [one.name for one in check_leases(bench.roots, bench.host.root)] == ["vgpu"]
    if verb == "start":
        bench.start("mine", asked)
        assert made(kernel) == before
        bench.manager("mine").stop()
    else:
        getattr(bench.manager("mine"), verb)()
    assert (made(kernel), leased(bench)) == ([], [])


@GENERATIONS
def test_after_a_reboot_what_is_there_is_none_of_ours(
    bench: CardBench, kernel: VgpuKernel, asked: str
) -> None:
    bench.start("mine", asked)
    [lease] = read_vgpu_leases(bench.roots.leases)
    turn_off(bench)
    kernel.reboot()
    path, text = vgpus.vgpu_of(lease).made_by
    kernel.write(bench.host.root / path, text)
    there = made(kernel)
    assert list(check_leases(bench.roots, bench.host.root)) == []
    bench.manager("mine").stop()
    assert (made(kernel), leased(bench)) == (there, [])


def test_a_vf_that_got_another_type_meanwhile_is_left_alone(
    bench: CardBench, kernel: VgpuKernel
) -> None:
    bench.start("mine", THIRD)
    turn_off(bench)
    place = bench.host.root / f"sys/bus/pci/devices/{VF0}/nvidia/current_vgpu_type"
    kernel.write(place, "0")
    kernel.write(place, "1147")
    bench.manager("mine").stop()
    assert (made(kernel), leased(bench)) == ([f"{VF0}=1147"], [])


def test_vgpus_of_clusters_that_are_gone_are_removed_by_others(
    bench: CardBench, kernel: VgpuKernel
) -> None:
    bench.start("mine", FIRST)
    kernel.refuses = [errno.EBUSY]
    bench.manager("mine").destroy()
    assert len(made(kernel)) == 1
    bench.start("yours", "")
    assert (made(kernel), leased(bench)) == ([], [])


@GENERATIONS
def test_one_that_root_made_by_hand_is_used_and_left(
    bench: CardBench, kernel: VgpuKernel, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("mine", asked)
    bench.manager("mine").stop()
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "/sys/" not in str(path) and allowed(path, mode)
    )
    with pytest.raises(HostError, match="only root can make the vGPU of compute-01") as caught:
        bench.start("mine", asked)
    hint = caught.value.hint or ""
    assert possible(bench, "mine", asked)[0].endswith(f"# {hint}")
    text, path = hint.removeprefix("echo ").split(" | sudo tee /")
    kernel.write(bench.host.root / path, text)
    there = made(kernel)
    assert len(there) == 1
    bench.start("mine", asked)
    assert (len(held(bench)), leased(bench)) == (1, [])
    assert not bench.start("mine", asked).steps
    bench.manager("mine").stop()
    assert made(kernel) == there


def test_one_of_ours_without_a_lease_gets_one(bench: CardBench, kernel: VgpuKernel) -> None:
    """A mediated device is ours by its UUID, even if the leases are lost."""
    bench.start("mine", FIRST)
    next(bench.roots.leases.glob("*.vgpu")).unlink()
    bench.manager("mine").stop()
    assert len(made(kernel)) == 1
    bench.start("mine", FIRST)
    bench.manager("mine").stop()
    assert (made(kernel), leased(bench)) == ([], [])


def test_a_damaged_lease_stops_nobody_and_doctor_names_it(
    bench: CardBench, kernel: VgpuKernel
) -> None:
    bench.start("mine", THIRD)
    path = bench.roots.leases / f"{VF0}.vgpu"
    path.write_text("{")
    assert find_damaged(bench.roots.leases) == (path,)
    [check] = check_leases(bench.roots, bench.host.root)
    assert (check.found, check.advice) == (f"{path} cannot be read", f"rm {path}")
    bench.manager("mine").stop()


def test_a_mediated_device_on_a_host_without_mdev_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = "c2177883-f1bb-47f0-914d-32a22e3a8804"
    with card_bench(tmp_path, monkeypatch) as bench:
        bench.host.add_l40s()
        asked = f"vgpu: {{mdev_uuid: {uuid}}}"
        with pytest.raises(HostError) as caught:
            bench.start("mine", asked)
        error = caught.value
        assert error.brief == (
            f"compute-01: there is no mediated device {uuid}, and there can be none: the vGPUs of "
            f"{L40S} (NVIDIA L40S) are types of its VFs, as from Linux 6.8 on"
        )
        assert error.hint == (
            "gpu: {vgpu: {profile: NVIDIA L40S-1Q}}  # in place of vgpu in the cluster file"
        )
        assert not bench.roots.cluster("mine").is_used
        assert possible(bench, "mine", asked) == [f"{error.brief}  # {error.hint}"]
        # On a host with both it may come later, and then libvirt tells.
        bench.host.add_a40()
        bench.start("mine", asked)


# Kills


def settled(bench: CardBench, kernel: VgpuKernel, asked: str, then: str) -> None:
    """The next command of the cluster puts all right, whatever was killed before."""
    if then == "start":
        bench.start("mine", asked)
        assert (len(made(kernel)), len(leased(bench)), len(held(bench))) == (1, 1, 1)
        then = "stop"
    getattr(bench.manager("mine"), then)()
    assert (made(kernel), leased(bench)) == ([], [])


@pytest.mark.fault("F01", "a start of a node with a vGPU is killed at each record")
@pytest.mark.parametrize("asked", [FIRST, THIRD])
def test_a_start_killed_at_any_record_leaves_no_vgpu(
    bench: CardBench, kernel: VgpuKernel, asked: str, points: Points, is_long: bool
) -> None:
    def run(on_boundary: OnBoundary) -> None:
        bench.start("mine", asked, on_boundary=on_boundary)

    kinds = ("vgpu/", BOOT_VM, "running/")
    records = [one for one in records_of(run) if one[1].startswith(kinds)]
    assert len(records) == 4 * len(kinds)
    bench.manager("mine").destroy()
    for then in ended_at_each(some_of(records, is_long=is_long), run, points):
        settled(bench, kernel, asked, then)
        bench.manager("mine").destroy()


@pytest.mark.fault("F02", "a stop or destroy of a node with a vGPU is killed at each record")
@pytest.mark.parametrize(("verb", "asked"), [("stop", FIRST), ("stop", THIRD), ("destroy", SECOND)])
def test_a_stop_killed_at_any_record_removes_the_vgpu(
    bench: CardBench, kernel: VgpuKernel, asked: str, verb: str, points: Points, is_long: bool
) -> None:
    def run(on_boundary: OnBoundary) -> None:
        bench.start("mine", asked)
        getattr(bench.manager("mine", on_boundary), verb)()

    records = [one for one in records_of(run) if one[1].endswith("compute-01") or not one[1]]
    assert any(key == "return/mine-compute-01" for _, key in records)
    for then in ended_at_each(some_of(records, is_long=is_long), run, points):
        settled(bench, kernel, asked, then)


@pytest.mark.fault("F06", "a run is killed beside the write that makes or removes a vGPU")
@pytest.mark.parametrize(
    ("verb", "then"), [("start", "start"), ("stop", "destroy"), ("recovery", "start")]
)
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("asked", [FIRST, THIRD])
def test_a_kill_beside_the_write(
    bench: CardBench, kernel: VgpuKernel, asked: str, verb: str, where: str, then: str
) -> None:
    def kill(_path: Path) -> None:
        raise Death

    if verb != "start":
        bench.start("mine", asked)
    if verb == "recovery":
        turn_off(bench)
    setattr(kernel, where, kill)
    run = partial(bench.start, "mine", asked) if verb == "start" else bench.manager("mine").stop
    # A step or the undo takes the end of one of its threads for an error of it.
    with pytest.raises((Death, UndoIncompleteError, PlanFailedError)):
        run()
    kernel.before = kernel.after = lambda _path: None
    settled(bench, kernel, asked, then)


def test_a_libvirt_that_does_not_say_what_runs_ends_nothing(
    bench: CardBench, kernel: VgpuKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("mine", FIRST)
    turn_off(bench)
    maker = vgpus.VgpuMaker(leases=bench.roots.leases, client=bench.client, machine=bench.host.root)

    def lost(_client: LibvirtClient) -> None:
        raise LibvirtError("libvirt does not answer")

    [lease] = read_vgpu_leases(bench.roots.leases)
    with monkeypatch.context() as patch:
        patch.setattr(LibvirtClient, "list_domains", lost)
        with pytest.raises(LibvirtError):
            maker.remove(lease)
    assert len(made(kernel)) == len(leased(bench)) == 1


def test_what_a_vm_runs_with_is_neither_made_nor_removed_for_another(
    bench: CardBench, kernel: VgpuKernel
) -> None:
    bench.start("mine", FIRST)
    bench.start("yours", FIRST)
    maker = vgpus.VgpuMaker(leases=bench.roots.leases, client=bench.client, machine=bench.host.root)
    lease = read_vgpu_leases(bench.roots.leases)[0]
    other = bench.client.find_domain_by_name("yours-compute-01")
    assert other is not None
    mine = next(one for one in read_vgpu_leases(bench.roots.leases) if one.cluster == "mine")
    with pytest.raises(HostError, match="of compute-01 is in use by the VM mine-compute-01"):
        maker.make(
            vgpus.vgpu_of(mine),
            other.uuid,
            owner=lease.owner,
            cluster="yours",
            kind="bare",
            node="compute-01",
        )
    maker.remove(mine)
    assert len(made(kernel)) == len(leased(bench)) == 2
    assert A40 not in {one.parent for one in read_vgpu_leases(bench.roots.leases)}
