"""The collector: a source that hangs, is dead or lies makes a gap, and delays no other one."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ai_how.errors import ConnectionLostError, HostError, LimitError
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.guarded_opening import GuardedOpening
from ai_how.monitoring import collector as collector_module
from ai_how.monitoring import lanes
from ai_how.monitoring.collector import Collector, Intervals
from ai_how.monitoring.ground import Line
from ai_how.monitoring.lanes import Asked, Lane
from ai_how.monitoring.model import Finding, Snapshot
from ai_how.monitoring.watched import Watched
from ai_how.state.cluster_state import read_state, remove_state, write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots, default_roots, ensure_private_directory
from ai_how.waiting import Deadline, wait_until
from made_up_state import made_up_state
from watched_libvirt import MadeUpWorkload, WatchedLibvirt, lost, silent

OFTEN = Intervals(host=0.1, disks=0.1, guest=0.1, guest_all=0.1, workload=0.1, faults=0.1)
PATIENT_S = 30.0


class Watch:
    """A collector of a made-up cluster that runs, and its newest snapshot."""

    def __init__(self, directory: Path, state: ClusterState | None, **options: object) -> None:
        self.roots: Roots = default_roots(directory / "state")
        ensure_private_directory(self.roots.state)
        self.libvirt, self.workload = WatchedLibvirt(), MadeUpWorkload()
        self.state = state
        if state:
            ensure_private_directory(self.paths.root)
            write_state(self.paths, state)
        watched = Watched(
            name="demo", kind="hpc", roots=self.roots, new_workload=lambda: self.workload
        )
        line = Line(lambda _ground: self.libvirt)
        options = {"intervals": OFTEN, "judge": lambda _seen: ()} | options
        self.collector = Collector(watched, line=line, **options)
        self.stop = threading.Event()
        self.seen: list[Snapshot] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def paths(self):
        return self.roots.cluster("demo")

    def _run(self) -> None:
        for one in self.collector.rounds(self.stop, every_s=0.1):
            self.seen = [*self.seen[-50:], one]

    def wait(self, holds: Callable[[Snapshot], object], what: str) -> Snapshot:
        """The first snapshot from now on of which it holds."""
        self.seen = []
        return wait_until(
            lambda: next((one for one in self.seen if holds(one)), None),
            Deadline.after(PATIENT_S),
            what,
            interval_s=0.02,
        )

    def wait_for_all(self) -> Snapshot:
        return self.wait(
            lambda seen: seen.slurm and all(one.guest and one.vm for one in seen.nodes), "all"
        )

    def end(self) -> None:
        self.libvirt.stats.open()
        self.workload.gate.open()
        for gate in self.libvirt.agents.values():
            gate.open()
        self.stop.set()
        self.thread.join(PATIENT_S)
        self.collector.close()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path, made_up_state(tmp_path))
    yield made
    made.end()


def trouble_of(seen: Snapshot, name: str) -> str | None:
    source = seen.find_source(name)
    assert source, [one.name for one in seen.sources]
    return source.trouble


def at_of(seen: Snapshot, name: str) -> float:
    source = seen.find_source(name)
    assert source
    assert source.at
    return source.at


def test_a_snapshot_has_all_sides_of_every_node(watch):
    seen = watch.wait_for_all()
    assert (seen.cluster, seen.kind, seen.is_up) == ("demo", "hpc", True)
    assert [one.name for one in seen.nodes] == ["controller", "compute-01", "compute-02"]
    assert seen.network == "10.20.0.0/24"
    assert seen.host
    assert seen.host.is_kvm is True
    node = seen.find_node("compute-01")
    assert node
    assert node.vm
    assert node.guest
    assert (node.vm.state, node.guest.uptime_s, node.role) == ("running", 60.0, "compute")
    assert node.slurm
    assert node.slurm.states == ("idle",)
    assert seen.slurm
    assert seen.slurm.jobs[0].cpu_used_s == 15.0, "of three nodes"
    assert {one.name for one in seen.sources} >= {"cluster", "host", "libvirt", "disks", "slurm"}
    rated = watch.wait(lambda one: one.nodes[0].vm.cpus_busy is not None, "a rate")
    assert rated.nodes[0].vm.cpus_busy == pytest.approx(1.0, abs=0.2)


def test_findings_are_those_of_the_judge(tmp_path):
    finding = Finding(id="x", severity="notice", subject="host", text="x", since=1.0)
    made = Watch(tmp_path, made_up_state(tmp_path), judge=lambda _seen: (finding,))
    try:
        assert made.wait(lambda seen: seen.findings, "a finding").findings == (finding,)
    finally:
        made.end()


def goes_on(watch: Watch, *names: str) -> Snapshot:
    """The first snapshot with two answers of each of these sources since now."""
    before = {name: at_of(watch.seen[-1], name) for name in names}
    return watch.wait(
        lambda seen: all(at_of(seen, name) > before[name] + 0.3 for name in names), "the others"
    )


def test_the_use_of_a_job_is_as_old_as_the_answer_that_told_it(watch):
    watch.wait_for_all()
    for node in watch.state.nodes:
        watch.libvirt.agents[node.uuid].shut()
    watch.wait(
        lambda _seen: all(gate.waiting for gate in watch.libvirt.agents.values()), "all to hang"
    )
    before = goes_on(watch, "libvirt", "slurm").slurm.jobs[0]
    after = goes_on(watch, "libvirt", "slurm").slurm.jobs[0]
    assert before.cpu_used_s == after.cpu_used_s == 15.0
    assert before.use_seen_at
    assert after.use_seen_at == before.use_seen_at


def test_a_guest_that_hangs_holds_up_no_other_and_is_asked_once(watch):
    watch.wait_for_all()
    node = watch.state.get_node("compute-01")
    gate = watch.libvirt.agents[node.uuid]
    gate.shut()
    watch.wait(lambda _seen: gate.waiting, "the guest to hang")
    seen = goes_on(watch, "guest/compute-02", "guest/controller", "libvirt", "host", "slurm")
    assert seen.find_node("compute-01").guest, "the last answer stays, and has its age"
    assert at_of(seen, "guest/compute-01") < at_of(seen, "guest/compute-02")
    assert gate.waiting == 1
    gate.open()
    goes_on(watch, "guest/compute-01")


def test_guests_that_all_hang_hold_up_nothing_else(watch):
    watch.wait_for_all()
    threads = threading.active_count()
    for gate in watch.libvirt.agents.values():
        gate.shut()
    watch.wait(lambda _: all(g.waiting for g in watch.libvirt.agents.values()), "all to hang")
    goes_on(watch, "libvirt", "host", "disks", "cluster")
    assert all(gate.waiting == 1 for gate in watch.libvirt.agents.values())
    assert threading.active_count() <= threads + 1


def test_a_libvirt_that_hangs_makes_a_gap_with_a_reason(watch, monkeypatch):
    watch.wait_for_all()
    watch.collector._vms._deadline_s = 0.5
    threads = threading.active_count()
    watch.libvirt.stats.shut()
    seen = watch.wait(lambda seen: trouble_of(seen, "libvirt"), "a trouble")
    assert "no answer for" in trouble_of(seen, "libvirt")
    goes_on(watch, "host", "disks", "cluster")
    seen = watch.wait(lambda seen: trouble_of(seen, "guest/compute-01"), "guests are left alone")
    assert trouble_of(seen, "guest/compute-01").startswith("libvirt: no answer")
    assert trouble_of(seen, "slurm").startswith("controller: libvirt: no answer")
    assert seen.nodes[0].vm, "what was seen last stays"
    assert watch.libvirt.stats.waiting == 1
    assert threading.active_count() <= threads + 2, "and those of guests that were asked first"
    watch.libvirt.stats.open()
    seen = watch.wait(lambda seen: not trouble_of(seen, "libvirt"), "libvirt is back")
    goes_on(watch, "guest/compute-01", "slurm")


def test_a_libvirt_that_is_dead_has_its_own_words(watch):
    watch.wait_for_all()
    watch.libvirt.stats.failure = lost()
    seen = watch.wait(lambda seen: trouble_of(seen, "libvirt"), "a trouble")
    assert trouble_of(seen, "libvirt") == str(lost())
    goes_on(watch, "host")
    watch.libvirt.stats.failure = None
    watch.wait(lambda seen: not trouble_of(seen, "libvirt"), "libvirt is back")


def test_software_that_hangs_or_dies_holds_up_no_node(watch):
    watch.wait_for_all()
    watch.workload.gate.shut()
    watch.wait(lambda _seen: watch.workload.gate.waiting, "it to hang")
    seen = goes_on(watch, "libvirt", "host", "guest/controller", "guest/compute-01")
    assert seen.slurm, "its last word stays"
    assert watch.workload.gate.waiting == 1
    watch.workload.gate.failure = silent()
    watch.workload.gate.open()
    seen = watch.wait(lambda seen: trouble_of(seen, "slurm"), "a trouble")
    assert trouble_of(seen, "slurm") == str(silent())


def test_a_disk_that_hangs_is_a_gap_of_the_disks(tmp_path, monkeypatch):
    """As of a storage on a server that is gone."""
    hang = threading.Event()
    monkeypatch.setattr(collector_module, "look_at_disks", lambda _state: hang.wait(60))
    made = Watch(tmp_path, made_up_state(tmp_path))
    try:
        made.wait_for_all()
        made.collector._disks._deadline_s = 0.1
        seen = made.wait(lambda seen: trouble_of(seen, "disks"), "a trouble")
        assert "no answer for" in trouble_of(seen, "disks")
        assert seen.host
        assert seen.host.storage is None
        goes_on(made, "host", "libvirt", "guest/compute-01")
    finally:
        hang.set()
        made.end()


def test_garbage_of_a_guest_is_a_gap_of_that_guest(watch):
    watch.wait_for_all()
    watch.libvirt.output = b"\x1b[2J\xff" * 100
    seen = watch.wait(lambda seen: trouble_of(seen, "guest/compute-01"), "a trouble")
    assert trouble_of(seen, "guest/compute-01").isprintable()
    assert "something else" in trouble_of(seen, "guest/compute-01")
    assert not trouble_of(seen, "libvirt")


def test_a_bug_in_a_source_is_a_gap_and_no_end(watch):
    watch.wait_for_all()
    watch.libvirt.stats.failure = ZeroDivisionError("one of ours")
    seen = watch.wait(lambda seen: trouble_of(seen, "libvirt"), "a trouble")
    assert "a bug of ai-how: ZeroDivisionError: one of ours" in trouble_of(seen, "libvirt")
    watch.libvirt.stats.failure = None
    watch.wait(lambda seen: not trouble_of(seen, "libvirt"), "it goes on")


@pytest.mark.parametrize(
    ("number", "state", "stays"),
    [(5, "shut off", False), (3, "paused", True), (6, "crashed", True)],
)
def test_a_vm_that_does_not_run_is_not_asked(watch, number, state, stays):
    watch.wait_for_all()
    node = watch.state.get_node("compute-01")
    watch.libvirt.states[node.uuid] = number
    seen = watch.wait(lambda seen: trouble_of(seen, "guest/compute-01"), "a reason")
    assert f"its VM is {state}" in trouble_of(seen, "guest/compute-01")
    assert bool(seen.find_node("compute-01").guest) == stays
    gate = watch.libvirt.agents[node.uuid]
    before = gate.passed
    goes_on(watch, "guest/compute-02")
    assert gate.passed == before
    assert not trouble_of(seen, "guest/compute-02")
    del watch.libvirt.states[node.uuid]
    goes_on(watch, "guest/compute-01")


def test_software_without_its_node_says_so(watch):
    watch.wait_for_all()
    watch.libvirt.states[watch.state.find_controller().uuid] = 5
    seen = watch.wait(lambda seen: trouble_of(seen, "slurm"), "a reason")
    assert trouble_of(seen, "slurm") == "controller: its VM is shut off (shutdown)"
    assert seen.slurm is None
    assert all(one.slurm is None for one in seen.nodes)


def test_a_cluster_that_is_destroyed_is_gone_without_a_crash(watch):
    watch.wait_for_all()
    remove_state(watch.paths)
    seen = watch.wait(lambda seen: not seen.nodes, "no nodes")
    assert watch.collector.is_gone
    assert (seen.is_up, seen.slurm, seen.cluster) == (False, None, "demo")
    assert trouble_of(seen, "cluster") == "the cluster does not exist: it was destroyed"
    assert seen.host, "the host is still looked at"


def test_nodes_that_are_added_and_removed_are_followed(watch, tmp_path):
    watch.wait_for_all()
    write_state(watch.paths, replace_nodes(watch, made_up_state(tmp_path, nodes=3)))
    seen = watch.wait(lambda seen: len(seen.nodes) == 4, "a node more")
    watch.wait(lambda seen: seen.nodes[-1].guest, "its guest")
    write_state(watch.paths, replace_nodes(watch, made_up_state(tmp_path, nodes=1)))
    seen = watch.wait(lambda seen: len(seen.nodes) == 2, "two nodes less")
    assert [one.name for one in seen.sources if one.name.startswith("guest/")] == [
        "guest/controller",
        "guest/compute-01",
    ]


def replace_nodes(watch: Watch, other: ClusterState) -> ClusterState:
    state = read_state(watch.paths)
    assert state
    return state.model_copy(update={"nodes": other.nodes})


def test_a_damaged_state_is_a_reason_and_what_was_known_stays(watch):
    watch.wait_for_all()
    text = watch.paths.state.read_text()
    watch.paths.state.write_text("{")
    seen = watch.wait(lambda seen: trouble_of(seen, "cluster"), "a trouble")
    assert "damaged" in trouble_of(seen, "cluster")
    assert len(seen.nodes) == 3
    watch.paths.state.write_text(text)
    watch.wait(lambda seen: not trouble_of(seen, "cluster"), "it is mended")


def test_an_embedded_host_that_is_down_has_no_vms(tmp_path):
    made = Watch(tmp_path, made_up_state(tmp_path, host_uri="embedded"))
    try:
        seen = made.wait(lambda seen: trouble_of(seen, "libvirt"), "a reason")
        assert not seen.is_up
        assert trouble_of(seen, "libvirt") == "the embedded host is down"
        assert {one.vm.state for one in seen.nodes} == {"shut_off"}
        assert {one.vm.reason for one in seen.nodes} == {"the embedded host is down"}
        assert "embedded host is down" in trouble_of(seen, "guest/compute-01")
        assert seen.slurm is None
        assert seen.host
    finally:
        made.end()


def test_a_cluster_that_never_was_is_gone(tmp_path):
    made = Watch(tmp_path, None)
    try:
        seen = made.wait(lambda seen: made.collector.is_gone, "it is gone")
        assert seen.nodes == ()
    finally:
        made.end()


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_clock_that_is_set_makes_no_wrong_ages_and_rates(watch, monkeypatch, jump_s):
    watch.wait_for_all()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    seen = watch.wait(lambda seen: abs(seen.at - real() - jump_s) < 5, "the new time")
    assert all(0 <= seen.at - one.at < 10 for one in seen.sources if one.at)
    goes_on(watch, "host", "libvirt", "guest/compute-01")
    for one in watch.seen:
        busy = one.nodes[0].vm.cpus_busy
        assert busy is None or 0 <= busy < 3


def test_a_look_has_everything_once_and_names_who_is_late(tmp_path):
    made = Watch(tmp_path, made_up_state(tmp_path))
    made.end()
    libvirt, workload = WatchedLibvirt(), MadeUpWorkload()
    workload.gate.shut()
    watched = Watched(name="demo", kind="hpc", roots=made.roots, new_workload=lambda: workload)
    looks = Collector(watched, line=Line(lambda _ground: libvirt), judge=lambda _seen: ())
    try:
        seen = looks.once(within_s=4)
        assert all(one.guest and one.vm.cpus_busy is not None for one in seen.nodes)
        assert trouble_of(seen, "slurm") == "no answer within 4 s"
        assert not any(one.trouble for one in seen.sources if one.name not in {"slurm", "faults"})
    finally:
        workload.gate.open()
        looks.close()


def test_after_the_end_there_are_no_threads(tmp_path):
    before = threading.active_count()
    made = Watch(tmp_path, made_up_state(tmp_path))
    made.wait_for_all()
    made.end()
    wait_until(
        lambda: threading.active_count() <= before, Deadline.after(PATIENT_S), "threads to end"
    )
    assert made.libvirt.is_closed


# Lanes


def test_a_lane_asks_what_it_has_on_few_threads():
    hang, asked = threading.Event(), []
    lane = Lane("test", 2)
    slow = [Asked(f"slow-{n}", lambda: hang.wait(60), every_s=9, deadline_s=0.1) for n in range(2)]
    quick = Asked("quick", lambda: asked.append(1), every_s=0.01, deadline_s=0.1)
    before = threading.active_count()
    for one in (*slow, quick):
        lane.ask(one)
    wait_until(lambda: slow[0].trouble and quick.trouble, Deadline.after(9), "lateness")
    assert "no answer for" in (slow[0].trouble or "")
    assert quick.trouble == "it has to wait: others that are asked do not answer"
    assert not slow[0].is_due, "there is no second call behind the first"
    assert threading.active_count() == before + 2
    hang.set()
    wait_until(lambda: asked, Deadline.after(9), "the third")
    lane.close()


def test_a_source_without_a_thread_waits_for_one(monkeypatch):
    def refuse(*_args: object, **_options: object) -> None:
        raise LimitError("no more threads can be started")

    real = lanes.start_thread
    monkeypatch.setattr(lanes, "start_thread", refuse)
    lane, told = Lane("test"), []
    first = Asked("first", lambda: told.append("first"), every_s=9, deadline_s=0.01)
    lane.ask(first)
    wait_until(lambda: first.trouble, Deadline.after(9), "lateness")
    monkeypatch.setattr(lanes, "start_thread", real)
    lane.ask(Asked("second", lambda: told.append("second"), every_s=9, deadline_s=9))
    wait_until(lambda: len(told) == 2, Deadline.after(9), "both")
    lane.close()


def test_a_slow_source_is_asked_less_often():
    now = [0.0]

    def look() -> None:
        now[0] += 3.0

    source = Asked("x", look, every_s=10, deadline_s=9, share=0.1, clock=lambda: now[0])
    source.enqueue()
    source.run()
    assert source.state().every_s == 30.0
    now[0] = 29.9
    assert not source.is_due
    now[0] = 30.0
    assert source.is_due


def test_an_error_keeps_the_last_value():
    values = iter([1])

    def look() -> int:
        try:
            return next(values)
        except StopIteration:
            raise HostError("it is down") from None

    source = Asked("x", look, every_s=1, deadline_s=9)
    for _ in range(2):
        source.enqueue()
        source.run()
    state = source.state()
    assert (source.value, state.trouble) == (1, "it is down")
    assert state.at


# The client of libvirt


def test_a_libvirt_that_hangs_when_it_is_called_leaves_one_thread(monkeypatch):
    hang = threading.Event()

    def opener(_uri: object) -> object:
        hang.wait(60)
        raise AssertionError("nobody waits for this any more")

    before = threading.active_count()
    client = LibvirtClient("test:///default", patience_s=0.2, opener=GuardedOpening(opener))
    for _ in range(4):
        with pytest.raises(ConnectionLostError, match="libvirt d"):
            client.bulk_stats([made_up_state(Path("/x")).nodes[0].uuid], timeout_s=0.2)
        time.sleep(0.3)
    time.sleep(2.5)  # those that waited for their turn have ended
    assert threading.active_count() <= before + 2
    hang.set()
    client.close()
