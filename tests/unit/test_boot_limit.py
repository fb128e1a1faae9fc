"""Never more nodes boot at once than may, whatever becomes of one of them."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest
from plan_world import Bench, Put, raise_at

from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.errors import GuestError, PlanFailedError
from ai_how.hpc.plan import plan_start
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.executor import OnFailure
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.step import ConcurrencyLimit, Plan
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.nodes.boot_limit import choose_boot_limit
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.waiting import Deadline
from cluster_bench import (
    CLUSTER_ID,
    TWO_NODES,
    domain_seen,
    draft_of,
    everything_seen,
    make_image,
    read_hpc,
)
from fake_libvirt import FakeLibvirt
from plan_faults import Stage

MINIMAL = (Path(__file__).parent.parent / "data" / "spec" / "minimal.yaml").read_text()
NODES = 7


def limit_for(*, accel: Accel = Accel.TCG, asked: int | None = None, **host: int | None) -> int:
    memory_mib = [1024] * 64
    return choose_boot_limit(
        asked, accel, **{"cpus": 2, "free_mib": 1 << 20, "memory_mib": memory_mib, **host}
    )


@pytest.mark.parametrize(
    ("accel", "cpus", "limit"),
    [
        (Accel.TCG, 1, 4),
        (Accel.TCG, 2, 4),
        (Accel.TCG, 16, 32),
        (Accel.TCG, None, 4),
        (Accel.KVM, 2, 16),
        (Accel.KVM, 32, 64),
    ],
)
def test_the_limit_grows_with_the_processors_and_the_built_in_cluster_never_waits(
    accel, cpus, limit
):
    assert limit_for(accel=accel, cpus=cpus) == limit
    assert limit >= 3


@pytest.mark.parametrize(("free_mib", "limit"), [(0, 1), (1400, 1), (4000, 3), (None, 32)])
def test_no_more_boot_than_fit_into_the_free_memory_and_one_always_may(free_mib, limit):
    assert limit_for(cpus=16, free_mib=free_mib) == limit


def test_how_many_fit_is_asked_of_the_largest_nodes():
    assert limit_for(free_mib=9000, memory_mib=[1024, 1024, 8192]) == 1
    assert limit_for(free_mib=12000, memory_mib=[1024, 1024, 8192]) == 3


def test_what_is_asked_for_is_what_there_is():
    assert limit_for(asked=1) == 1
    assert limit_for(asked=500, free_mib=0) == 500


def spec_of(value: str) -> tuple[int | None, list[str]]:
    spec, problems = read_spec_text(f"{MINIMAL}    start: {{boot_limit: {value}}}\n", "f", {})
    return spec.clusters.hpc.start.boot_limit if spec else None, [str(one) for one in problems]


@pytest.mark.parametrize(("value", "limit"), [("auto", None), ("", None), ("1", 1), ("'12'", 12)])
def test_the_file_takes_a_number_or_auto(value, limit):
    assert spec_of(value) == (limit, [])


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "many", "[4]", "'²'"])
def test_the_file_takes_no_other_limit(value):
    limit, problems = spec_of(value)
    assert limit is None
    assert len(problems) == 1
    assert "clusters.hpc.start.boot_limit: " in problems[0]


# --- the plan


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("host") / "image")


@dataclass
class Booting(FakeLibvirt):
    """Writes down who boots: from the start of the VM until its guest was told who it is.

    The first guests come up late: not before as many boot as may.
    """

    most: int = NODES
    now: set[UUID] = field(default_factory=set)
    order: list[UUID] = field(default_factory=list)
    highest: int = 0
    broken: UUID | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start_domain(self, uuid: UUID, **options: object) -> None:
        with self.changed:
            self.now.add(uuid)
            self.order.append(uuid)
            self.highest = max(self.highest, len(self.now))
            self.changed.notify_all()
        super().start_domain(uuid, **options)

    def wait_for_agent(self, uuid: UUID, deadline: Deadline, stop: threading.Event) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.order) >= self.most, 60), "too few boot"
        if uuid == self.broken:
            raise GuestError("it never comes")

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        answer = super().agent_command(uuid, command, timeout_s)
        if command["execute"] == "guest-exec-status":
            with self.changed:
                self.now.discard(uuid)
        return answer


def stage_of(directory: Path, image, libvirt: FakeLibvirt) -> Stage:
    storage = StoragePaths(directory / "storage")
    nodes = TWO_NODES.replace("count: 2", f"count: {NODES - 1}")

    def world(interrupts: Interrupts) -> PlanContext:
        return PlanContext(
            cluster_id=CLUSTER_ID,
            cluster_kind="hpc",
            paths=ClusterPaths(directory / "hpc"),
            client=libvirt,
            disks=DiskManager(storage),
            stop=interrupts.stop,
        )

    return Stage(draft_of(read_hpc(nodes=nodes), storage=storage.root), image, world)


@pytest.mark.parametrize("most", [1, 2, 4, NODES - 1, NODES])
def test_no_more_nodes_boot_at_once_than_may_and_the_controller_is_the_first(tmp_path, image, most):
    libvirt = Booting(most=most)
    stage = stage_of(tmp_path, image, libvirt)
    stage.carry_out(stage.plan_start(boot_limit=most), workers=64)
    assert libvirt.highest == most
    assert len(libvirt.order) == NODES
    if most < NODES:
        assert libvirt.order[0] == stage.draft.state.get_node("controller").uuid


@pytest.mark.parametrize("victim", ["controller", "compute-02", "compute-06"])
def test_a_node_that_never_comes_up_keeps_nobody_waiting_and_leaves_nothing(
    tmp_path, image, victim
):
    libvirt = Booting(most=2)
    stage = stage_of(tmp_path, image, libvirt)
    libvirt.broken = stage.draft.state.get_node(victim).uuid
    with pytest.raises(PlanFailedError, match="it never comes"):
        stage.carry_out(stage.plan_start(boot_limit=2), workers=64)
    assert libvirt.content == {}
    assert libvirt.highest <= 2


def test_where_all_may_boot_at_once_the_plan_is_as_without_a_limit(tmp_path, image):
    stage = stage_of(tmp_path, image, FakeLibvirt())
    assert stage.plan_start(boot_limit=NODES) == stage.plan_start()


def test_only_what_boots_counts():
    """A node that runs, or is only resumed, is told who it is without a place of its own."""
    draft = draft_of(read_hpc())
    seen = everything_seen(draft)
    states = {"compute-01": VmState.PAUSED, "compute-02": VmState.SHUT_OFF}
    changed = [domain_seen(draft, name, state) for name, state in states.items()]
    seen = replace(seen, domains=seen.domains | {one.uuid: one for one in changed})
    rendering = PlanInputs(
        network_xml=lambda: "<network/>",
        domain_xml=lambda _node, _one: "<domain/>",
        base_of=Path,
    )
    plan = plan_start(draft, seen, rendering, tell_all=True, boot_limit=1)
    assert plan.limit is None
    seen = replace(seen, domains={})
    limit = plan_start(draft, replace(seen, network=None), rendering, boot_limit=2).limit
    assert limit == ConcurrencyLimit(
        2,
        tuple(
            tuple(f"{word}/hpc-{name}" for word in ("boot", "agent", "services"))
            for name in ("controller", "compute-01", "compute-02")
        ),
    )


# --- any plan


def segments(count: int) -> tuple[tuple[Put, ...], tuple[tuple[str, ...], ...]]:
    keys = [(f"a{n}", f"b{n}", f"c{n}") for n in range(count)]
    steps = [Put(key, one[max(at - 1, 0) : at]) for one in keys for at, key in enumerate(one)]
    return tuple(steps), tuple(keys)


def most_under_way(bench: Bench, last: str = "c") -> int:
    now = highest = 0
    for moment, key in bench.world.log:
        if (moment, key[0]) == ("before apply", "a"):
            now += 1
        elif (moment, key[0]) == ("after apply", last):
            now -= 1
        highest = max(highest, now)
    return highest


@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_segments_of_any_plan_keep_to_their_limit(tmp_path, most, workers):
    bench = Bench(tmp_path)
    steps, keys = segments(8)
    bench.run(Plan("start", steps, ConcurrencyLimit(most, keys)), workers=workers)
    assert bench.world.content == sorted(key for one in keys for key in one)
    assert most_under_way(bench) <= most


def test_a_segment_that_ended_gives_its_place_to_another_while_others_go_on(tmp_path):
    bench, third_is_on = Bench(tmp_path), threading.Event()
    steps, keys = segments(3)

    def on(moment, key):
        if (moment, key) == ("before apply", "a2"):
            third_is_on.set()
        if (moment, key) == ("before apply", "a0"):
            assert third_is_on.wait(60), "the second has ended, and the third has not begun"

    bench.world.on = on
    bench.run(Plan("start", steps, ConcurrencyLimit(2, keys)), workers=4)
    assert most_under_way(bench) == 2


def test_a_segment_that_failed_gives_its_place_to_another(tmp_path):
    bench = Bench(tmp_path)
    steps, keys = segments(4)
    bench.world.on = raise_at("before apply", "b0", GuestError("broke"))
    with pytest.raises(PlanFailedError):
        bench.run(Plan("stop", steps, ConcurrencyLimit(1, keys)), on_failure=OnFailure.CONTINUE)
    assert bench.world.content == sorted({key for one in keys for key in one} - {"b0", "c0"})


def test_a_segment_that_waits_for_what_failed_elsewhere_keeps_nobody_waiting(tmp_path):
    bench = Bench(tmp_path)
    steps = (Put("x"), Put("a0"), Put("b0", ("a0", "x")), Put("a1"), Put("b1", ("a1",)))
    bench.world.on = raise_at("before apply", "x", GuestError("broke"))
    limit = ConcurrencyLimit(1, (("a0", "b0"), ("a1", "b1")))
    with pytest.raises(PlanFailedError):
        bench.run(Plan("stop", steps, limit), on_failure=OnFailure.CONTINUE)
    assert bench.world.content == ["a0", "a1", "b1"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (ConcurrencyLimit(0, (("a",),)), "a limit of 0 allows no step to begin"),
        (ConcurrencyLimit(1, (("x",),)), "a limit on x: no such step"),
        (ConcurrencyLimit(1, (("a",), ("a",))), "a step is in two segments"),
        (ConcurrencyLimit(1, ((),)), "a segment is empty"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_rejected(limit, message):
    with pytest.raises(ValueError, match=message):
        Plan("start", (Put("a"),), limit)
