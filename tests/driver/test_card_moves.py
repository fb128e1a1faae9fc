"""`gpu move`: what has the card is stopped, what is to have it is started; or nothing changes."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from card_bench import CARD, CARD_SOUND, OTHER, OTHER_SOUND, CardBench, card_bench

from ai_how.clusters.cleanup import keep_source
from ai_how.clusters.move_card import CardMove, NodeOf, carry_out, plan_move
from ai_how.clusters.observation import Observed
from ai_how.errors import AiHowError, HostError, InterruptedRunError, PlanFailedError
from ai_how.gpu.inventory import get_gpu, read_machine
from ai_how.plan.step import Applied
from ai_how.spec.reader import read_spec
from ai_how.state.leases import read_leases
from ai_how.state.models import ClusterState
from ai_how.vm_management.context import PlanContext
from bare_kind import BareCluster, CheckRunning
from record_kills import Death

ONE, THIS = "gpu: {count: 1}", f'gpu: {{pci: "{CARD}"}}'
NAME = "NVIDIA GeForce RTX 4090"
WHOLE, OTHER_WHOLE = [CARD, CARD_SOUND], [OTHER, OTHER_SOUND]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBench]:
    with card_bench(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...], float]]:
    """The waits for jobs: the cluster, its nodes, and how long at most."""
    seen: list[tuple[str, tuple[str, ...], float]] = []

    def wait_for_jobs(
        _kind: BareCluster,
        _context: PlanContext,
        state: ClusterState,
        _seen: Observed,
        only: Collection[str],
        limit_s: float,
    ) -> None:
        seen.append((state.name, tuple(only), limit_s))

    monkeypatch.setattr(BareCluster, "wait_for_jobs", wait_for_jobs)
    return seen


def plan(bench: CardBench, to: str, card: str = CARD) -> CardMove:
    cluster, _, node = to.partition("/")
    machine = read_machine(bench.host.root)
    path = bench.roots.cluster(cluster).spec
    return plan_move(
        get_gpu(machine.gpus, card),
        NodeOf(bench.manager(cluster), node),
        read_spec(path, {}),
        path,
        machine=machine,
        manager_of=bench.manager,
    )


def move(bench: CardBench, to: str, card: str = CARD, *, waits_s: float | None = 60) -> list[str]:
    """Move a card; the lines that are told."""
    told: list[str] = []
    carry_out(plan(bench, to, card), waits_s=waits_s, tell=told.append)
    return told


def is_on(bench: CardBench, vm: str) -> bool:
    seen = bench.client.find_domain_by_name(vm)
    return seen is not None and seen.state.is_on


def refused(bench: CardBench, to: str, card: str = CARD) -> tuple[str, str | None]:
    with pytest.raises(AiHowError) as caught:
        plan(bench, to, card)
    return caught.value.brief, caught.value.hint


def test_the_node_that_has_the_card_is_drained_and_stopped_and_the_other_started(
    bench: CardBench, waits: list[tuple[str, tuple[str, ...], float]]
) -> None:
    bench.start("mine", THIS, "")
    bench.start("yours", "", ONE)
    bench.manager("yours").stop()
    assert bench.cards("yours", "compute-02") == (OTHER,)
    assert move(bench, "yours/compute-02", waits_s=7) == [
        "stopping mine/compute-01",
        f"starting yours/compute-02 with {CARD}",
    ]
    assert waits == [("mine", ("compute-01",), 7)]
    assert (is_on(bench, "mine-compute-01"), is_on(bench, "mine-compute-02")) == (False, True)
    assert is_on(bench, "yours-compute-02")
    assert bench.passed("yours-compute-02") == WHOLE
    assert bench.cards("yours", "compute-02") == (CARD,)
    assert {lease.cluster for lease in read_leases(bench.roots.leases)} == {"yours"}
    # And back, by the function of its sound; its file names the card.
    assert move(bench, "mine/compute-01", CARD_SOUND)[0] == "stopping yours/compute-02"
    assert bench.passed("mine-compute-01") == WHOLE
    # Where it was chosen it is forgotten: the next start chooses another one.
    assert bench.cards("yours", "compute-02") is None
    bench.start("yours", "", ONE)
    assert bench.passed("yours-compute-02") == OTHER_WHOLE


def test_a_node_that_runs_without_the_card_is_stopped_as_well(
    bench: CardBench, waits: list[tuple[str, tuple[str, ...], float]]
) -> None:
    bench.start("mine", THIS)
    bench.start("yours", ONE)
    assert bench.passed("yours-compute-01") == OTHER_WHOLE
    assert move(bench, "yours/compute-01", waits_s=None) == [
        "stopping mine/compute-01",
        "stopping yours/compute-01",
        f"starting yours/compute-01 with {CARD}",
    ]
    assert waits == []
    assert bench.passed("yours-compute-01") == WHOLE


def test_a_free_card_stops_nobody(bench: CardBench) -> None:
    bench.start("mine", THIS)
    bench.start("yours", ONE)
    bench.manager("mine").stop()
    bench.manager("yours").stop()
    assert move(bench, "yours/compute-01") == [f"starting yours/compute-01 with {CARD}"]
    assert bench.passed("yours-compute-01") == WHOLE
    done = plan(bench, "yours/compute-01")
    assert (done.is_done, done.stops) == (True, ())


def test_between_two_nodes_of_one_cluster(bench: CardBench) -> None:
    bench.start("mine", ONE, ONE)
    move(bench, "mine/compute-02")
    assert bench.passed("mine-compute-02") == WHOLE
    assert bench.cards("mine", "compute-01") is None
    bench.start("mine", ONE, ONE)
    assert bench.passed("mine-compute-01") == OTHER_WHOLE


def test_of_several_cards_the_last_one_goes(bench: CardBench) -> None:
    bench.host.add("0000:d8:00.0", (0x10DE, 0x2330), 0x030200, group=14)
    bench.start("mine", 'gpu: {count: 2, model: "RTX"}')
    bench.start("yours", "gpu: {count: 2}", only=["controller"])
    bench.manager("mine").stop()
    move(bench, "yours/compute-01", OTHER)
    assert bench.cards("yours", "compute-01") == (OTHER, "0000:d8:00.0")


@pytest.mark.fault("F67", "a card that is to be moved, and what stands in the way")
def test_what_stands_in_the_way_is_told_before_anything_is_changed(bench: CardBench) -> None:
    bench.start("mine", THIS, "", 'gpu: {count: 1, model: "H100"}', only=["compute-01"])
    bench.start("yours", ONE)
    assert refused(bench, "mine/compute-02", OTHER) == (
        f"the file of mine does not ask for {OTHER} for compute-02",
        "ai-how bare start FILE  # with a file that does",
    )
    assert refused(bench, "mine/compute-03", OTHER) == (
        f"mine/compute-03 is to have a card whose name has 'H100', and {OTHER} is a {NAME}",
        "ai-how gpu list",
    )
    assert refused(bench, "mine/compute-03")[0] == f"the file of mine gives {CARD} to compute-01"
    assert refused(bench, "mine/compute-09")[0] == "the file of mine has no node compute-09"
    journal = bench.roots.cluster("yours").journal
    journal.write_text("")
    assert refused(bench, "yours/compute-01") == (
        "a run of yours has not ended, or was cut short",
        "ai-how bare stop --cluster yours compute-01  # recovers from it",
    )
    journal.unlink()
    assert bench.passed("mine-compute-01") == WHOLE
    assert bench.passed("yours-compute-01") == OTHER_WHOLE
    assert is_on(bench, "mine-compute-01")
    assert is_on(bench, "yours-compute-01")


def test_a_card_that_the_host_needs_is_not_moved(bench: CardBench) -> None:
    bench.start("yours", ONE, only=["controller"])
    bench.host.set(CARD, boot_vga="1")
    text = "it is the display that the host booted with"
    assert refused(bench, "yours/compute-01") == (f"{CARD}: {text}", None)
    bench.host.set(CARD, boot_vga="0")
    (bench.host.device(CARD) / "drm/card1").mkdir(parents=True)
    bench.host.add_process(812, "Xorg", "/dev/dri/card1")
    assert refused(bench, "yours/compute-01") == (
        f"{CARD}: Xorg (pid 812, display server) has /dev/dri/card1 open",
        "sudo systemctl stop display-manager",
    )


def test_a_card_of_somebody_elses_vm_is_not_moved(bench: CardBench) -> None:
    bench.start("yours", ONE, only=["controller"])
    test = bench.client.find_domain_by_name("test")
    assert test is not None
    where = "domain='0x0000' bus='0x65' slot='0x00' function='0x1'"
    device = f"<hostdev mode='subsystem' type='pci'><source><address {where}/></source></hostdev>"
    xml = (
        "<domain type='test'><name>neighbour</name><memory>1024</memory><os><type>hvm</type></os>"
        f"<devices>{device}</devices></domain>"
    )
    made = bench.client.define_domain(xml)
    bench.client.start_domain(made.uuid)
    assert refused(bench, "yours/compute-01") == (
        f"{CARD} is in use by the VM neighbour",
        "virsh --connect test:///default shutdown neighbour",
    )


def test_a_suspended_node_is_not_given_another_card(bench: CardBench) -> None:
    bench.start("yours", "")
    bench.manager("yours").stop(suspends=True)
    file, spec = bench.file("yours", ONE), bench.spec("yours", ONE)
    keep_source(file.read_text(), bench.manager("yours").paths, spec)
    assert refused(bench, "yours/compute-01") == (
        "yours/compute-01 is suspended, and its memory knows no other card",
        "ai-how bare start --cluster yours",
    )


def failing(bench: CardBench, error: Exception) -> Callable[[CheckRunning, object], Applied]:
    def fail(step: CheckRunning, _context: object) -> Applied:
        raise error

    return fail


def test_if_the_start_fails_the_card_is_free_and_it_is_told_how_to_go_back(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("mine", THIS)
    bench.start("yours", ONE)
    bench.manager("yours").stop()
    told: list[str] = []
    what = plan(bench, "yours/compute-01")
    with monkeypatch.context() as patch:
        patch.setattr(CheckRunning, "apply", failing(bench, HostError("it does not run")))
        with pytest.raises(PlanFailedError):
            carry_out(what, waits_s=0, tell=told.append)
    back = "ai-how bare start --cluster mine compute-01"
    assert told[-1] == f"mine/compute-01 is off; to start it as it was: {back}"
    assert bench.cards("yours", "compute-01") == (OTHER,)
    assert not is_on(bench, "yours-compute-01")
    assert (bench.drivers.of(CARD), read_leases(bench.roots.leases)) == ("nvidia", ())
    bench.start("mine", THIS)
    assert bench.passed("mine-compute-01") == WHOLE


def test_an_interrupted_wait_for_jobs_changes_nothing(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("mine", THIS)
    bench.start("yours", ONE)
    bench.manager("yours").stop()

    def interrupted(*_words: object) -> None:
        raise InterruptedRunError("stop was interrupted while it waited for jobs")

    monkeypatch.setattr(BareCluster, "wait_for_jobs", interrupted)
    with pytest.raises(InterruptedRunError):
        move(bench, "yours/compute-01")
    assert is_on(bench, "mine-compute-01")
    assert bench.cards("yours", "compute-01") == (OTHER,)


@pytest.mark.fault(
    "F01", "a move of a card is killed while it stops a node, and while it starts one"
)
@pytest.mark.parametrize("key", ["off/mine-compute-01", "boot/yours-compute-01"])
def test_a_move_that_was_killed_is_made_again(
    bench: CardBench, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    bench.start("mine", THIS)
    bench.start("yours", ONE)
    bench.manager("yours").stop()
    what = plan(bench, "yours/compute-01")

    def on_boundary(moment: str, where: str) -> None:
        if (moment, where) == ("after done", key):
            raise Death

    assert what.source is not None
    what = replace(
        what,
        source=NodeOf(bench.manager("mine", on_boundary), "compute-01"),
        target=NodeOf(bench.manager("yours", on_boundary), "compute-01"),
    )
    with pytest.raises(Death):
        carry_out(what, waits_s=0, tell=lambda _line: None)
    if key.startswith("boot"):  # a stop that was cut short is in nobody's way
        hint = refused(bench, "yours/compute-01")[1]
        assert hint == "ai-how bare stop --cluster yours compute-01  # recovers from it"
        bench.manager("yours").stop(only=["compute-01"])
    move(bench, "yours/compute-01")
    assert bench.passed("yours-compute-01") == WHOLE
    assert not is_on(bench, "mine-compute-01")
