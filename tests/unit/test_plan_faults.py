"""The real plans, broken at every step and cut short at every moment: nothing remains of them.

Disks are real files made by the real qemu-img; libvirt and the guests are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ai_how.clusters.observation import Wiring
from ai_how.errors import PlanFailedError
from ai_how.hpc.identities import ensure_secrets
from ai_how.images.manifest import Image
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.step import Plan
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.disks.manager import DiskManager
from cluster_bench import CLUSTER_ID, DIGEST, draft_of, make_image, read_hpc
from fake_libvirt import FakeLibvirt, name_of
from plan_faults import BrokenError, Stage, boundaries_of, broken

CONTROLLER, FIRST, SECOND = (f"hpc-{name}" for name in ("controller", "compute-01", "compute-02"))
CHAIN = ("disk", "domain", "boot", "agent", "services")
BASE = f"base/{DIGEST[:12]}"
STARTING = (
    *(BASE, "disks/hpc", "network/hpc", "network-up/hpc"),
    *(f"{word}/{vm}" for vm in (CONTROLLER, FIRST, SECOND) for word in CHAIN),
    *("clocks/hpc", "ready/hpc"),
)
HEALING = (
    BASE,
    *(f"{word}/{FIRST}" for word in CHAIN),
    *(f"{word}/{SECOND}" for word in ("boot", "agent", "services")),
    *("clocks/hpc", "ready/hpc"),
)
# The network was changed, or was down and has lost its server; one VM is off meanwhile.
MENDING = {
    "prefix='25'": (BASE, "network/hpc", "network-anew/hpc", "network-hosts/hpc"),
    "prefix='24'": (BASE, "network-hosts/hpc", "network-dhcp/hpc"),
}
MENDED = (
    *(f"plug/{vm}" for vm in (CONTROLLER, SECOND)),
    *(f"{word}/{FIRST}" for word in ("boot", "agent", "services")),
    *("clocks/hpc", "ready/hpc"),
)
STOPPING = ("slurm/hpc", "slurm-off/hpc", *(f"off/{vm}" for vm in (CONTROLLER, FIRST, SECOND)))
DESTROYING = (
    *(f"{word}/{vm}" for vm in (CONTROLLER, FIRST, SECOND) for word in ("undefine", "remove-disk")),
    *("remove-network/hpc", "remove-disks/hpc"),
)
MOMENTS = ("before", "after")


@dataclass(frozen=True)
class Bench:
    """A host of files with the cluster's stage on it."""

    directory: Path
    libvirt: FakeLibvirt = field(default_factory=FakeLibvirt)

    @property
    def disks(self) -> DiskManager:
        return DiskManager(StoragePaths(self.directory / "storage"))

    @property
    def paths(self) -> ClusterPaths:
        return ClusterPaths(self.directory / "hpc")

    def world(self, interrupts: Interrupts) -> PlanContext:
        return PlanContext(
            cluster_id=CLUSTER_ID,
            cluster_kind="hpc",
            paths=self.paths,
            client=self.libvirt,
            disks=self.disks,
            stop=interrupts.stop,
        )

    @property
    def content(self) -> dict[str, str]:
        """All that a plan may change, save bases, which are every cluster's, and the xml kept."""
        top = self.disks.storage.disks
        files = {str(path): str(path.lstat().st_ino) for path in top.rglob("*")}
        return self.libvirt.content | files | {"journal": str(self.paths.journal.exists())}


EMPTY = {"journal": "False"}


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("host") / "image")


@pytest.fixture
def bench(image) -> Bench:
    """Its directory is the module's: bases and secrets are made once."""
    return Bench(image.directory.parent)


@pytest.fixture
def stage(bench, image) -> Iterator[Stage]:
    """Nothing of the cluster is there, and nothing of it is left."""
    draft = draft_of(read_hpc(), storage=bench.disks.storage.root)
    stage = Stage(draft, image, bench.world)
    ensure_secrets(draft.state, bench.paths)
    assert bench.content == EMPTY
    yield stage
    stage.carry_out(stage.plan_destroy())
    assert bench.content == EMPTY


@pytest.fixture
def half_dead(stage, bench) -> Stage:
    """compute-01 has lost its VM and its disk, compute-02 is paused; the others are well."""
    stage.carry_out(stage.plan_start())
    lost, paused = (stage.draft.state.get_node(name) for name in ("compute-01", "compute-02"))
    del bench.libvirt.domains[lost.uuid]
    lost.disk.unlink()
    bench.libvirt.domains[paused.uuid] = replace(
        bench.libvirt.domains[paused.uuid], state=VmState.PAUSED
    )
    return stage


def keys(plan: Plan) -> list[str]:
    return [step.key for step in plan.steps]


def fail(stage: Stage, plan: Plan, key: str, moment: str) -> None:
    with broken(plan, key, moment), pytest.raises(PlanFailedError) as caught:
        stage.carry_out(plan)
    assert isinstance(caught.value.__cause__, BrokenError)
    assert f"{key} fails {moment} its effect" in str(caught.value)


def is_up(stage: Stage) -> bool:
    return stage.plan_start().steps == ()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("key", STARTING)
def test_a_start_that_fails_anywhere_leaves_nothing_and_the_next_one_succeeds(
    stage, bench, key, moment
):
    plan = stage.plan_start()
    assert set(keys(plan)) == set(STARTING)
    fail(stage, plan, key, moment)
    assert bench.content == EMPTY
    stage.carry_out(stage.plan_start())
    assert is_up(stage)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("key", HEALING)
def test_a_healing_start_that_fails_anywhere_touches_nothing_that_was_well(
    half_dead, bench, key, moment
):
    before = bench.content
    plan = half_dead.plan_start()
    assert set(keys(plan)) == set(HEALING)
    fail(half_dead, plan, key, moment)
    paused = half_dead.draft.state.get_node("compute-02").uuid
    assert bench.libvirt.domains[paused].state.is_on
    bench.libvirt.domains[paused] = replace(bench.libvirt.domains[paused], state=VmState.PAUSED)
    assert bench.content == before
    half_dead.carry_out(half_dead.plan_start())
    assert is_up(half_dead)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("prefix", "key"),
    [(prefix, key) for prefix, mended in MENDING.items() for key in (*mended, *MENDED)],
)
def test_a_mending_start_that_fails_anywhere_lets_what_runs_run_and_the_next_one_mends(
    stage, bench, prefix, key, moment
):
    stage.carry_out(stage.plan_start())
    uuid, first = stage.draft.state.network.uuid, stage.draft.state.get_node("compute-01")
    bench.libvirt.shutdown_domain(first.uuid)
    network = bench.libvirt.networks[uuid]
    xml = network.xml.replace("prefix='24'", prefix).replace(first.mac, "52:54:00:00:00:01")
    bench.libvirt.networks[uuid] = replace(network, xml=xml)
    cut_off = frozenset({"controller", "compute-02"})
    plan = stage.plan_start(wiring=Wiring(dhcp_is_gone=True, unplugged=cut_off))
    assert set(keys(plan)) == {*MENDING[prefix], *MENDED}
    fail(stage, plan, key, moment)
    states = {name_of(one.xml): one.state.is_on for one in bench.libvirt.domains.values()}
    assert states == {CONTROLLER: True, FIRST: False, SECOND: True}
    stage.carry_out(stage.plan_start(wiring=Wiring(unplugged=cut_off)))
    assert bench.libvirt.unplugged == set()
    assert is_up(stage)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("key", STOPPING)
def test_a_stop_that_fails_anywhere_is_carried_on_by_the_next_one(stage, bench, key, moment):
    stage.carry_out(stage.plan_start())
    plan = stage.plan_stop()
    assert set(keys(plan)) == set(STOPPING)
    fail(stage, plan, key, moment)
    stage.carry_out(stage.plan_stop())
    assert {one.state for one in bench.libvirt.domains.values()} == {VmState.SHUT_OFF}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("key", DESTROYING)
def test_a_destroy_that_fails_anywhere_is_carried_on_by_the_next_one(stage, bench, key, moment):
    stage.carry_out(stage.plan_start())
    plan = stage.plan_destroy()
    assert set(keys(plan)) == set(DESTROYING)
    fail(stage, plan, key, moment)
    stage.carry_out(stage.plan_destroy())
    assert bench.content == EMPTY


def test_a_start_that_dies_at_any_moment_is_undone_by_the_next_run(stage, bench):
    plan = stage.plan_start()
    moments = boundaries_of(stage, plan)
    stage.carry_out(stage.plan_destroy())
    assert len(moments) == 4 * len(plan.steps) + 2
    for moment, key in moments:
        stage.die_while_starting(plan, moment, key)
        stage.recover()
        if moment == "after end":
            assert is_up(stage)
        else:
            assert bench.content == EMPTY, (moment, key)
    print(f"\n{len(moments)} of {len(moments)} deaths were undone")  # noqa: T201


def test_an_undo_that_dies_at_any_moment_is_finished_by_the_next_run(stage, bench):
    plan = stage.plan_start()
    last = plan.steps[-1].key
    moments = [
        (word, step.key)
        for word in ("before failed", "after failed", "before undone", "after undone")
        for step in plan.steps
        if word.endswith("undone") or step.key == last
    ]
    for moment, key in moments:
        with broken(plan, last, "after"):
            stage.die_while_starting(plan, moment, key)
        stage.recover()
        assert bench.content == EMPTY, (moment, key)
    print(f"\n{len(moments)} of {len(moments)} deaths in undo were finished")  # noqa: T201


def test_a_dead_run_is_undone_however_often_that_dies_as_well(stage, bench):
    plan = stage.plan_start()
    stage.die_while_starting(plan, "before done", "ready/hpc")
    journal = bench.paths.journal.read_bytes()
    stage.recover()
    bench.paths.journal.write_bytes(journal)
    stage.recover()
    assert bench.content == EMPTY


def test_a_cluster_comes_back_from_a_stop_as_it_was(stage, bench):
    stage.carry_out(stage.plan_start())
    before = bench.content
    stage.carry_out(stage.plan_stop())
    assert not is_up(stage)
    stage.carry_out(stage.plan_start())
    assert bench.content == before
