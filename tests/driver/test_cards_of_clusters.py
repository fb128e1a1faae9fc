"""Clusters whose nodes have cards of the host: on libvirt's test driver, with a tree as sysfs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from card_bench import CARD, CARD_SOUND, OTHER, OTHER_SOUND, CardBench, card_bench

from ai_how.clusters.preflight.estimate import estimate
from ai_how.errors import HostError, PlanFailedError, SpecError
from ai_how.gpu.report import read_report
from ai_how.host.checks import Status
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.placements import Placement, placement_in
from ai_how.plan.step import Applied
from bare_kind import BARE, CheckRunning

ONE, THIS = "gpu: {count: 1}", f'gpu: {{pci: "{CARD}"}}'


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBench]:
    with card_bench(tmp_path, monkeypatch) as made:
        yield made


def possible(bench: CardBench, name: str, *nodes: str) -> list[str]:
    """What `validate` finds of the devices."""
    spec = bench.spec(name, *nodes)
    assert spec.clusters.hpc is not None
    catalogue = ImageCatalogue(ImageStore(bench.roots.images), spec)
    found = estimate(
        BARE, spec.clusters.hpc, "test:///default", bench.roots, catalogue, machine=bench.host.root
    )
    of_devices = ("pci", "gpu", "the device")
    return [
        f"{check.found}  # {check.advice}"
        for check in found.checks
        if check.status is Status.FAILURE and check.name.startswith(of_devices)
    ]


def test_a_named_card_is_in_the_vm_with_all_its_functions(bench: CardBench) -> None:
    assert possible(bench, "mine", THIS) == []
    bench.start("mine", THIS)
    assert bench.passed("mine-compute-01") == [CARD, CARD_SOUND]
    assert bench.passed("mine-controller") == []
    assert bench.cards("mine", "compute-01") is None
    report = read_report(bench.roots, bench.host.root)
    assert [card.defined_in for card in report.cards] == [("mine/compute-01",), ()]
    assert not bench.start("mine", THIS).steps


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Grows with each call of this method of a client."""
    calls: list[str] = []
    real = getattr(LibvirtClient, name)

    def call(client: LibvirtClient, *words: object, **more: object) -> object:
        calls.append(name)
        return real(client, *words, **more)

    monkeypatch.setattr(LibvirtClient, name, call)
    return calls


def test_libvirt_is_asked_for_its_vms_once_before_the_plan(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once after it: others may have started a VM meanwhile."""
    looks = counted(monkeypatch, "list_domains")
    bench.start("mine", ONE, dry_run=True)
    assert len(looks) == 2


def test_validate_connects_to_libvirt_once(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("mine", ONE)
    connections = counted(monkeypatch, "__enter__")
    for name in ("mine", "yours"):
        connections.clear()
        assert possible(bench, name, "") == []
        assert len(connections) == 1


def test_a_chosen_card_is_remembered_and_kept(bench: CardBench) -> None:
    bench.start("mine", ONE, ONE)
    assert bench.passed("mine-compute-01") == [CARD, CARD_SOUND]
    assert bench.passed("mine-compute-02") == [OTHER, OTHER_SOUND]
    assert bench.cards("mine", "compute-02") == (OTHER,)
    assert not bench.start("mine", ONE, ONE).steps
    bench.manager("mine").stop()
    bench.start("mine", ONE, ONE)
    assert bench.passed("mine-compute-02") == [OTHER, OTHER_SOUND]


def test_two_clusters_with_one_card_each_get_another_one(bench: CardBench) -> None:
    bench.start("mine", ONE)
    bench.manager("mine").stop()
    # The card is free, but the other cluster has it in its definition.
    bench.start("yours", ONE)
    assert bench.passed("yours-compute-01") == [OTHER, OTHER_SOUND]
    bench.start("mine", ONE)
    refused = (
        "compute-01 is to have 1 card, and none is free",
        f"{CARD} NVIDIA GeForce RTX 4090: in use by compute-01 of the cluster mine",
        f"{OTHER} NVIDIA GeForce RTX 4090: in use by compute-01 of the cluster yours",
    )
    stop = "ai-how bare stop --cluster mine"
    assert possible(bench, "theirs", ONE) == [f"{'; '.join(refused)}  # {stop}"]
    with pytest.raises(HostError) as caught:
        bench.start("theirs", ONE)
    error = caught.value
    assert (error.brief, error.details) == (refused[0], "\n".join(refused[1:]))
    assert error.hint == stop
    assert not bench.roots.cluster("theirs").is_used


def test_only_one_of_two_clusters_with_the_same_card_is_up(bench: CardBench) -> None:
    bench.start("mine", THIS)
    found = "is in use by compute-01 of the cluster mine"
    stop = "ai-how bare stop --cluster mine"
    assert possible(bench, "yours", THIS) == [f"{found}  # {stop}"] * 2
    with pytest.raises(HostError, match=f"the device {CARD} of compute-01 {found}"):
        bench.start("yours", THIS)
    bench.manager("mine").stop()
    bench.start("yours", THIS)
    assert bench.passed("yours-compute-01") == [CARD, CARD_SOUND]


def test_what_blocks_the_card_is_refused_as_for_any_device(bench: CardBench) -> None:
    bench.host.set(CARD, boot_vga="1")
    text = "it is the display that the host booted with"
    assert possible(bench, "mine", THIS) == [f"{text}  # None"]
    with pytest.raises(HostError, match=text):
        bench.start("mine", THIS)
    bench.host.set(CARD, boot_vga="0")
    bench.host.add("0000:65:01.0", (0x8086, 0x1533), 0x020000, group=12)
    [one, two] = possible(bench, "mine", THIS)
    assert one == two
    assert "IOMMU group 12 also has 0000:65:01.0" in one
    device = "{pci_address: '0000:65:01.0', device_type: network}"
    passing = f"pcie_passthrough: {{enabled: true, devices: [{device}]}}"
    assert possible(bench, "mine", f"{THIS}, {passing}") == []


def test_a_group_goes_to_one_node_as_a_whole(bench: CardBench) -> None:
    """Two cards in one group, as behind a bridge without ACS."""
    for device in (OTHER, OTHER_SOUND):
        group = bench.host.device(device) / "iommu_group"
        group.unlink()
        group.symlink_to(bench.host.root / "sys/kernel/iommu_groups/12")
    other = f'gpu: {{pci: "{OTHER}"}}'
    found = possible(bench, "mine", THIS, other)
    assert f"IOMMU group 12 also has {OTHER}, {OTHER_SOUND}: list all or none" in found[0]
    assert len(found) == 4
    assert possible(bench, "mine", f'gpu: {{pci: ["{CARD}", "{OTHER}"]}}') == []


def test_a_card_can_be_given_to_a_cluster_that_exists(bench: CardBench) -> None:
    bench.start("mine", "")
    # SLURM would be told of a card that the node does not have.
    with pytest.raises(SpecError, match=f"compute-01 is running, so it cannot get .* {CARD}"):
        bench.start("mine", ONE)
    assert bench.passed("mine-compute-01") == []
    bench.manager("mine").stop(only=["compute-01"])
    bench.start("mine", ONE)
    assert bench.passed("mine-compute-01") == [CARD, CARD_SOUND]
    bench.manager("mine").stop()
    bench.start("mine", "")
    assert bench.passed("mine-compute-01") == []
    assert bench.cards("mine", "compute-01") is None


def test_the_card_of_a_node_that_stays_off_may_be_used_by_others(bench: CardBench) -> None:
    bench.start("mine", THIS, "")
    bench.manager("mine").stop()
    bench.start("yours", THIS)
    bench.host.add_process(2000, "qemu-system-x86", "/dev/vfio/12")
    bench.start("mine", THIS, "", only=["compute-02"])
    assert not bench.start("yours", THIS).steps
    with pytest.raises(HostError, match="is in use by compute-01 of the cluster yours"):
        bench.start("mine", THIS, "")


def test_a_definition_that_was_undone_is_made_again(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_step: CheckRunning, _context: object) -> Applied:
        raise HostError("it does not run")

    bench.start("mine", "")
    bench.manager("mine").stop()
    with monkeypatch.context() as patch:
        patch.setattr(CheckRunning, "apply", fail)
        with pytest.raises(PlanFailedError):
            bench.start("mine", THIS)
    assert bench.passed("mine-compute-01") == []
    bench.start("mine", THIS)
    assert bench.passed("mine-compute-01") == [CARD, CARD_SOUND]


def test_a_node_that_stays_off_takes_no_card_from_others(bench: CardBench) -> None:
    nodes = (ONE, "gpu: {count: 2}")
    bench.start("mine", *nodes, only=["controller", "compute-02"])
    assert bench.passed("mine-compute-01") == []
    assert len(bench.passed("mine-compute-02")) == 4
    for _ in range(2):
        with pytest.raises(HostError, match="compute-01 is to have 1 card, and none is free"):
            bench.start("mine", *nodes, only=["compute-01"])
        bench.manager("mine").stop()


def test_a_lost_state_has_the_cards_of_its_vms(bench: CardBench) -> None:
    bench.start("mine", "", ONE)
    bench.roots.cluster("mine").state.unlink()
    for backup in bench.roots.cluster("mine").backups.iterdir():
        backup.unlink()
    bench.manager("mine").recover(user="hpc")
    assert bench.cards("mine", "compute-02") == (CARD, CARD_SOUND)
    assert not bench.start("mine", "", ONE).steps


def test_a_card_brings_its_numa_node_and_two_clusters_share_no_cpu(bench: CardBench) -> None:
    bench.host.add_numa_node(0, "0-3")
    bench.host.add_numa_node(1, "4,5")
    for device in (CARD, CARD_SOUND, OTHER, OTHER_SOUND):
        bench.host.set(device, numa_node="1")
    bench.start("mine", THIS, "")
    # What runs is as it would be defined now, whatever else is free in the meantime.
    assert not bench.start("mine", THIS, "").steps
    bench.start("theirs", f'gpu: {{pci: "{OTHER}"}}')
    assert not bench.start("mine", THIS, "").steps
    assert not [one for one in bench.warnings if "NUMA" in one or "previous" in one]
    placements = [
        placement_in(bench.client.find_domain_by_name(name).xml)
        for name in ("mine-compute-01", "theirs-compute-01", "mine-compute-02")
    ]
    assert placements == [
        Placement(cpus=(5,), numa_node=1),
        Placement(cpus=(4,), numa_node=1),
        Placement(),
    ]


def test_what_cannot_be_is_told_by_the_start_or_refused_if_it_is_asked_for(
    bench: CardBench,
) -> None:
    bench.host.add_numa_node(0, "0-3")
    bench.host.add_numa_node(1, "4,5")
    bench.host.set(CARD, numa_node="-1")
    with pytest.raises(HostError, match="compute-01 cannot be kept on a NUMA node: the host does"):
        bench.start("mine", f"{THIS}, hardware: {{numa: true}}")
    assert bench.warnings == []
    bench.start("mine", THIS)
    [said] = [one for one in bench.warnings if "NUMA" in one]
    assert said == (
        "compute-01 is not kept on the NUMA node of its devices: the host does not say on which "
        f"one {CARD} is"
    )
    with pytest.raises(HostError, match="compute-02 needs 512 huge pages of 2048 KiB, 0 are free"):
        bench.start("mine", THIS, f'gpu: {{pci: "{OTHER}"}}, hardware: {{hugepages: true}}')


def test_a_running_node_is_told_that_other_hardware_waits_for_a_stop(bench: CardBench) -> None:
    """As after an update of ai-how that defines nodes with cards in another way."""
    bench.start("mine", THIS)
    other = f"{THIS}, hardware: {{balloon: true}}"
    assert not bench.start("mine", other).steps
    [said] = [one for one in bench.warnings if "previous definition" in one]
    assert said.startswith("compute-01 runs with its previous definition; to apply the changes: ")
    bench.manager("mine").stop()
    bench.start("mine", other)
    seen = bench.client.find_domain_by_name("mine-compute-01")
    assert "<memballoon model='virtio'" in seen.xml
