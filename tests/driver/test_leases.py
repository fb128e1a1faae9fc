"""Devices come back with the driver that they had: after a stop, a failure, a kill and a reboot."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from card_bench import BOOT, CARD, CARD_SOUND, OTHER, CardBench, card_bench

from ai_how.clusters.leases import check_leases
from ai_how.errors import HostError, LibvirtError, PlanFailedError, UndoIncompleteError
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.journal import OnBoundary
from ai_how.plan.step import Applied
from ai_how.state.cluster_state import read_state
from ai_how.state.leases import Lease, find_damaged, read_leases
from ai_how.vm_management import lending
from bare_kind import CheckRunning
from ledger import Points
from record_kills import Death, at, die, ended_at_each, records_of, some_of

THIS = f'gpu: {{pci: "{CARD}"}}'
HOST = {CARD: "nvidia", CARD_SOUND: "snd_hda_intel"}
GUEST = dict.fromkeys(HOST, "vfio-pci")
BOOT_VM, LEASE = "boot/mine-compute-01", "lease/mine-compute-01"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBench]:
    with card_bench(tmp_path, monkeypatch) as made:
        yield made


def drivers(bench: CardBench) -> dict[str, str | None]:
    return {one: bench.drivers.of(one) for one in HOST}


def leased(bench: CardBench) -> dict[str, str | None]:
    """The driver before, of each leased device."""
    return {lease.device: lease.driver for lease in read_leases(bench.roots.leases)}


def turn_off(bench: CardBench, *, lost_as: str | None = None) -> None:
    """The VM ends by itself, as in a crash; libvirt gives its devices back, or not."""
    bench.drivers.lost_as = lost_as
    seen = bench.client.find_domain_by_name("mine-compute-01")
    assert seen is not None
    bench.client.destroy_domain(seen.uuid)
    bench.drivers.lost_as = None


def test_each_function_has_a_lease_with_its_driver_until_it_is_back(bench: CardBench) -> None:
    plan = bench.start("mine", THIS)
    lines = {step.key: step.describe() for step in plan.steps}
    assert lines[LEASE] == f"lend {CARD}, {CARD_SOUND} to the VM mine-compute-01"
    assert drivers(bench) == GUEST
    first, second = read_leases(bench.roots.leases)
    state = read_state(bench.roots.cluster("mine"))
    assert state is not None
    assert (first.device, first.driver, first.boot) == (CARD, "nvidia", BOOT)
    assert (first.owner, first.cluster, first.kind) == (state.lineage, "mine", "bare")
    assert (second.device, second.driver) == (CARD_SOUND, "snd_hda_intel")
    stopped = bench.manager("mine").stop()
    assert [step.key for step in stopped.steps][-1] == "return/mine-compute-01"
    assert (drivers(bench), leased(bench)) == (HOST, {})
    assert bench.drivers.reattached == []


def test_nodes_without_devices_have_no_lease(bench: CardBench) -> None:
    assert LEASE not in {step.key for step in bench.start("mine", "").steps}
    assert not any(step.kind == "return" for step in bench.manager("mine").stop().steps)
    assert not bench.roots.leases.exists()


@pytest.mark.parametrize("lost_as", ["vfio-pci", "none"])
@pytest.mark.parametrize("verb", ["stop", "destroy"])
def test_what_libvirt_does_not_give_back_is_given_back(
    bench: CardBench, verb: str, lost_as: str
) -> None:
    bench.start("mine", THIS)
    bench.drivers.lost_as = lost_as
    getattr(bench.manager("mine"), verb)()
    assert (drivers(bench), leased(bench)) == (HOST, {})
    assert sorted(bench.drivers.reattached) == [CARD, CARD_SOUND]


def test_what_cannot_be_given_back_is_told_and_doctor_says_it_until_it_is(
    bench: CardBench,
) -> None:
    bench.start("mine", THIS)
    bench.drivers.lost_as, bench.drivers.can_reattach = "vfio-pci", False
    bench.manager("mine").stop()
    there = f"/sys/bus/pci/devices/{CARD}"
    steps = (
        f"echo {CARD} | sudo tee {there}/driver/unbind",
        f"echo nvidia | sudo tee {there}/driver_override",
        f"echo {CARD} | sudo tee /sys/bus/pci/drivers_probe",
        f"echo | sudo tee {there}/driver_override",
    )
    found = f"{CARD} has the driver vfio-pci; before compute-01 of mine got it, it had nvidia"
    lost = (found, " && ".join(steps))
    assert f"{lost[0]}; to give it back: {lost[1]}" in bench.warnings
    [one, _] = check_leases(bench.roots, bench.host.root)
    assert (one.found, one.advice) == lost
    # It stops nobody: another cluster gets the card, and knows which driver it had.
    bench.drivers.lost_as, bench.drivers.can_reattach = None, True
    bench.start("yours", THIS)
    assert list(check_leases(bench.roots, bench.host.root)) == []
    assert leased(bench) == HOST
    bench.manager("mine").stop()
    assert leased(bench) == HOST
    bench.drivers.lost_as = "none"
    bench.manager("yours").stop()
    assert (drivers(bench), leased(bench)) == (HOST, {})


def test_a_device_that_the_user_gave_another_driver_is_left_to_him(bench: CardBench) -> None:
    bench.start("mine", THIS)
    bench.drivers.lost_as, bench.drivers.probed = "none", "nouveau"
    bench.manager("mine").stop()
    assert drivers(bench) == dict.fromkeys(HOST, "nouveau")
    assert leased(bench) == {}
    assert any(line.startswith(f"{CARD} has the driver nouveau;") for line in bench.warnings)


def test_a_card_that_was_given_to_vfio_at_boot_stays_there(bench: CardBench) -> None:
    for device in HOST:
        bench.drivers.bind(device, "vfio-pci")
    bench.start("mine", THIS)
    assert leased(bench) == GUEST
    bench.manager("mine").stop()
    assert (drivers(bench), leased(bench), bench.drivers.reattached) == (GUEST, {}, [])


def override(bench: CardBench, device: str) -> None:
    """The device has vfio-pci as libvirt gives it to a VM, and as driverctl does."""
    bench.drivers.bind(device, "vfio-pci")
    bench.host.write(f"sys/bus/pci/devices/{device}/driver_override", "vfio-pci\n")


def rebind_later(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]
) -> None:
    """At the second look at the device, libvirt has gone on."""
    looks: list[str] = []
    real = lending.read_driver

    def read_driver(machine: Path, device: str) -> str | None:
        looks.append(device)
        if looks.count(CARD) == 2 and device == CARD:
            then()
        return real(machine, device)

    monkeypatch.setattr(lending, "read_driver", read_driver)


def test_a_card_that_libvirt_still_gives_back_is_waited_for(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM of another user has just ended, whose leases we do not see."""
    for device in HOST:
        override(bench, device)

    def give_back() -> None:
        for device, driver in HOST.items():
            bench.drivers.bind(device, driver)
            bench.host.write(f"sys/bus/pci/devices/{device}/driver_override", "(null)\n")

    rebind_later(bench, monkeypatch, give_back)
    bench.start("mine", THIS)
    assert leased(bench) == HOST


def test_a_card_that_a_vm_got_during_the_wait_is_refused(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("yours", THIS)
    seen = bench.client.find_domain_by_name("yours-compute-01")
    assert seen is not None
    bench.manager("yours").stop()
    override(bench, CARD)
    rebind_later(bench, monkeypatch, lambda: bench.client.start_domain(seen.uuid))
    with pytest.raises(PlanFailedError, match="is in use by the VM yours-compute-01"):
        bench.start("mine", THIS)
    assert leased(bench) == {}


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_card_that_root_gave_to_vfio_stays_there(bench: CardBench, is_kept: bool) -> None:
    """By driverctl, which keeps that, or by a script at boot: after the wait it is still there."""
    for device in HOST:
        override(bench, device)
        if is_kept:
            bench.host.write(f"etc/driverctl.d/pci-{device}", "vfio-pci\n")
    bench.start("mine", THIS)
    assert leased(bench) == GUEST
    bench.manager("mine").stop()
    assert (drivers(bench), leased(bench)) == (GUEST, {})


def test_a_recovered_cluster_gives_back_what_no_vm_has(bench: CardBench) -> None:
    bench.start("mine", THIS)
    turn_off(bench, lost_as="none")
    bench.roots.cluster("mine").state.unlink()
    bench.manager("mine").recover(user="me")
    assert (drivers(bench), leased(bench)) == (HOST, {})


def test_a_start_that_fails_gives_the_devices_back(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_step: CheckRunning, _context: object) -> Applied:
        bench.drivers.lost_as = "none"
        raise HostError("it does not run")

    monkeypatch.setattr(CheckRunning, "apply", fail)
    with pytest.raises(PlanFailedError):
        bench.start("mine", THIS)
    assert (drivers(bench), leased(bench)) == (HOST, {})


@pytest.mark.parametrize("verb", ["start", "stop", "destroy"])
@pytest.mark.parametrize("lost_as", [None, "none"])
def test_after_a_vm_ended_the_next_command_puts_it_right(
    bench: CardBench, verb: str, lost_as: str | None
) -> None:
    bench.start("mine", THIS)
    turn_off(bench, lost_as=lost_as)
    assert leased(bench) == HOST
    told = [check.found.split(" ")[0] for check in check_leases(bench.roots, bench.host.root)]
    assert told == ([] if lost_as is None else [CARD, CARD_SOUND])
    if verb == "start":
        bench.start("mine", THIS)
        assert (drivers(bench), leased(bench)) == (GUEST, HOST)
        bench.manager("mine").stop()
    else:
        getattr(bench.manager("mine"), verb)()
    assert (drivers(bench), leased(bench)) == (HOST, {})


def test_a_lease_of_another_boot_says_nothing(bench: CardBench) -> None:
    """The user has given the card to VFIO, and rebooted."""
    bench.start("mine", THIS)
    turn_off(bench, lost_as="vfio-pci")
    bench.host.write("proc/sys/kernel/random/boot_id", "another\n")
    assert list(check_leases(bench.roots, bench.host.root)) == []
    bench.manager("mine").stop()
    assert (drivers(bench), leased(bench), bench.drivers.reattached) == (GUEST, {}, [])


def test_a_device_that_is_gone_needs_no_lease(bench: CardBench) -> None:
    bench.start("mine", THIS)
    turn_off(bench, lost_as="none")
    (bench.host.root / f"sys/bus/pci/devices/{CARD}").unlink()
    assert [one.found.split(" ")[0] for one in check_leases(bench.roots, bench.host.root)] == [
        CARD_SOUND
    ]
    bench.manager("mine").stop()
    assert leased(bench) == {}


def test_leases_of_clusters_that_are_gone_are_settled_by_others(bench: CardBench) -> None:
    bench.start("mine", THIS)
    lease = read_leases(bench.roots.leases)[0]
    bench.manager("mine").destroy()
    bench.drivers.bind(CARD, None)
    write(bench, lease)
    write(bench, lease, device=OTHER, driver="nvidia")
    bench.start("yours", "")
    assert (bench.drivers.of(CARD), leased(bench)) == ("nvidia", {})


def test_a_lease_of_another_libvirt_is_left_to_that(bench: CardBench) -> None:
    """Its VM may run there, though the state of its cluster is lost."""
    bench.start("mine", THIS)
    lease = read_leases(bench.roots.leases)[0]
    bench.manager("mine").destroy()
    bench.drivers.bind(CARD, "vfio-pci")
    write(bench, lease, host="qemu:///system")
    bench.start("yours", "")
    assert bench.drivers.reattached == []
    assert (bench.drivers.of(CARD), leased(bench)) == ("vfio-pci", {CARD: "nvidia"})


def test_what_does_not_come_back_is_tried_once_if_its_cluster_is_gone(bench: CardBench) -> None:
    bench.start("mine", THIS)
    lease = read_leases(bench.roots.leases)[0]
    bench.manager("mine").destroy()
    bench.drivers.bind(CARD, None)
    bench.drivers.can_reattach = False
    write(bench, lease)
    bench.start("yours", "")
    assert (bench.drivers.reattached, leased(bench)) == ([CARD], {CARD: "nvidia"})
    bench.manager("yours").stop()
    assert (bench.drivers.reattached, leased(bench)) == ([CARD], {CARD: "nvidia"})
    # Whoever binds it himself has it as he wants it.
    bench.drivers.bind(CARD, "vfio-pci")
    bench.start("yours", "")
    assert (bench.drivers.of(CARD), bench.drivers.reattached) == ("vfio-pci", [CARD])
    assert leased(bench) == {}


def test_a_lease_of_a_cluster_that_only_begins_is_left_alone(bench: CardBench) -> None:
    die(lambda: bench.start("mine", THIS, on_boundary=at("before intent", BOOT_VM)))
    assert leased(bench) == HOST
    bench.start("yours", "")
    assert leased(bench) == HOST
    bench.manager("mine").stop()
    assert leased(bench) == {}


def test_another_vm_that_got_the_device_meanwhile_keeps_it(bench: CardBench) -> None:
    bench.start("mine", THIS)
    turn_off(bench)
    bench.start("yours", THIS)
    bench.manager("mine").stop()
    assert (drivers(bench), leased(bench)) == (GUEST, HOST)
    assert {lease.cluster for lease in read_leases(bench.roots.leases)} == {"yours"}


def test_a_lease_is_not_taken_from_a_vm_that_runs(bench: CardBench) -> None:
    """Another client started it, after the start had looked."""
    bench.start("mine", THIS)
    lender = lending.Lender(leases=bench.roots.leases, client=bench.client, machine=bench.host.root)
    with pytest.raises(
        HostError, match=f"the device {CARD} of compute-01 is in use by the VM mine-"
    ):
        lender.take([CARD], uuid4(), owner=uuid4(), cluster="yours", kind="bare", node="compute-01")
    assert {lease.cluster for lease in read_leases(bench.roots.leases)} == {"mine"}


def test_a_damaged_lease_stops_nobody_and_doctor_names_it(bench: CardBench) -> None:
    bench.start("mine", THIS)
    path = bench.roots.leases / f"{CARD}.json"
    path.write_text("{")
    assert find_damaged(bench.roots.leases) == (path,)
    [check] = check_leases(bench.roots, bench.host.root)
    assert (check.found, check.advice) == (f"{path} cannot be read", f"rm {path}")
    bench.manager("mine").stop()
    assert leased(bench) == {}
    bench.start("mine", THIS)
    assert leased(bench) == HOST


def write(bench: CardBench, lease: Lease, **changes: object) -> None:
    from ai_how.state.leases import write_lease  # noqa: PLC0415  only here

    write_lease(bench.roots.leases, lease.model_copy(update=changes))


# Kills


def settled(bench: CardBench, then: str) -> None:
    """The next command of the cluster puts all right, whatever was killed before."""
    if then == "start":
        bench.start("mine", THIS)
        assert (drivers(bench), leased(bench)) == (GUEST, HOST)
        then = "stop"
    getattr(bench.manager("mine"), then)()
    assert (drivers(bench), leased(bench)) == (HOST, {})
    assert bench.passed("mine-compute-01") == [] or then == "stop"


@pytest.mark.fault("F01", "a start of a node with a card is killed at each record, libvirt forgets")
@pytest.mark.parametrize("lost_as", [None, "none"])
def test_a_start_killed_at_any_record_leaves_no_driver_behind(
    bench: CardBench, lost_as: str | None, points: Points, is_long: bool
) -> None:
    def run(on_boundary: OnBoundary) -> None:
        bench.start("mine", THIS, on_boundary=on_boundary)

    kinds = ("lease/", BOOT_VM, "running/")
    records = [one for one in records_of(run) if one[1].startswith(kinds)]
    assert len(records) == 4 * len(kinds)
    bench.manager("mine").destroy()
    for then in ended_at_each(some_of(records, is_long=is_long), run, points):
        bench.drivers.lost_as = lost_as
        settled(bench, then)
        bench.drivers.lost_as = None
        bench.manager("mine").destroy()


@pytest.mark.fault("F02", "a stop or destroy of a node with a card is killed at each record")
@pytest.mark.parametrize("verb", ["stop", "destroy"])
def test_a_stop_killed_at_any_record_gives_the_devices_back(
    bench: CardBench, verb: str, points: Points, is_long: bool
) -> None:
    def run(on_boundary: OnBoundary) -> None:
        bench.start("mine", THIS)
        bench.drivers.lost_as = "none"
        getattr(bench.manager("mine", on_boundary), verb)()

    records = [one for one in records_of(run) if one[1].endswith("compute-01") or not one[1]]
    assert any(key == "return/mine-compute-01" for _, key in records)
    bench.drivers.lost_as = None
    for then in ended_at_each(some_of(records, is_long=is_long), run, points):
        settled(bench, then)
        bench.drivers.lost_as = None


@pytest.mark.fault("F06", "a recovery is killed in the middle of giving a device back")
@pytest.mark.parametrize("then", ["start", "stop", "destroy"])
@pytest.mark.parametrize("where", ["before the reattach", "after it", "before the lease goes"])
@pytest.mark.parametrize("first", ["a start was killed", "the VM ended"])
def test_a_second_kill_while_a_device_is_given_back(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch, first: str, where: str, then: str
) -> None:
    if first == "the VM ended":
        bench.start("mine", THIS)
        turn_off(bench, lost_as="none")
    else:
        die(lambda: bench.start("mine", THIS, on_boundary=at("after done", BOOT_VM)))
    bench.drivers.lost_as = "none"

    def reattach(_client: LibvirtClient, device: str) -> None:
        if where == "after it":
            bench.drivers.reattach(device)
        raise Death

    def keep(*_lease: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        if where == "before the lease goes":
            patch.setattr(lending, "remove_lease", keep)
        else:
            patch.setattr(LibvirtClient, "reattach_device", reattach)
        # The undo takes the end of one of its threads for an error of this step.
        with pytest.raises((Death, UndoIncompleteError)):
            bench.manager("mine").stop()
    assert leased(bench) == HOST
    settled(bench, then)


def test_a_libvirt_that_does_not_say_what_runs_ends_nothing(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may be in use: its lease stays until that is known."""
    bench.start("mine", THIS)
    turn_off(bench, lost_as="none")
    lender = lending.Lender(leases=bench.roots.leases, client=bench.client, machine=bench.host.root)

    def lost(_client: LibvirtClient) -> None:
        raise LibvirtError("libvirt does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(LibvirtClient, "list_domains", lost)
        for lease in read_leases(bench.roots.leases):
            with pytest.raises(LibvirtError):
                lender.give_back(lease)
    assert leased(bench) == HOST
