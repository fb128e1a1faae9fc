"""A start that changed what nodes are told, and was undone: the next one tells them again.

Libvirt is its own test driver, and the guests do at once what they are told. A run dies at each
record of its journal, and so does its recovery.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.clusters import plan_runner
from ai_how.clusters.plan_runner import PlanRunner
from ai_how.clusters.start import PreparedStart, prepare_start
from ai_how.clusters.start_context import StartContext
from ai_how.errors import HostError, PlanFailedError, StateError
from ai_how.host.place import HypervisorHost, resolve_host
from ai_how.hpc.kind import SLURM
from ai_how.hpc.plan import STEP_TYPES
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import AGENT_CHANNEL, DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan import journal as journals
from ai_how.plan.journal import Journal
from ai_how.plan.observer import Observer
from ai_how.plan.records import decode_line, encode_line
from ai_how.plan.step import Applied, Step
from ai_how.spec.models import ClusterFile
from ai_how.spec.reader import read_spec_text
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots, default_roots, ensure_private_directory
from ai_how.vm_management.context import PlanContext, Timeouts
from ai_how.vm_management.steps.guest import GiveIdentity
from ledger import Points
from record_kills import Death, Record, await_steps, some_of
from scale import TEST_NODE, Obedient, add_image, plenty_of_room

FILE = """\
version: "1.0"
clusters:
  hpc:
    name: hpc
    base_image_path: tiny
    hardware: {{acceleration: {{enable_kvm: false}}}}
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
    compute_nodes: [{nodes}]
    slurm_config: {{max_job_time: "{limit}"}}
"""
NODE = "{{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1{more}}}"
GPUS = ", gpu: {simulated: {type: a100, count: 2}}"
TELLING = [f"services/hpc-{name}" for name in ("compute-01", "compute-02", "controller")]
LAST = "ready/hpc"


def text_of(first: str = "", *, limit: str = "1:00:00") -> str:
    """A file with two compute nodes."""
    nodes = ", ".join(NODE.format(more=one) for one in (first, ""))
    return FILE.format(nodes=nodes, limit=limit)


@cache
def spec_of(text: str) -> ClusterFile:
    spec, problems = read_spec_text(text, "cluster.yaml", {})
    assert spec is not None, problems
    return spec


OLD = text_of()
NEW = {"a time limit": text_of(limit="2:00:00"), "gpus": text_of(GPUS)}


class Connected(Obedient):
    """A client to whom the agents of VMs that run are connected; this libvirt has no agents."""

    def get_domain(self, uuid: UUID) -> DomainInfo:
        return _with_agent(super().get_domain(uuid))

    def list_domains(self) -> tuple[DomainInfo, ...]:
        return tuple(_with_agent(one) for one in super().list_domains())


def _with_agent(seen: DomainInfo) -> DomainInfo:
    name = f"name='{AGENT_CHANNEL}'"
    if seen.state is not VmState.RUNNING:
        return seen
    return replace(seen, xml=seen.xml.replace(name, f"{name} state='connected'"))


@dataclass
class Home:
    """One cluster on the test driver; each verb is as that of a new process."""

    roots: Roots
    place: HypervisorHost
    client: LibvirtClient
    said: list[str] = field(default_factory=list)

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster("hpc")

    @property
    def state(self) -> ClusterState:
        state = read_state(self.paths)
        assert state is not None
        return state

    @property
    def runner(self) -> PlanRunner:
        return PlanRunner(
            roots=self.roots,
            paths=self.paths,
            kind=SLURM,
            place=self.place,
            client=self.client,
            observer=Observer(),
            warn=self.said.append,
            timeouts=Timeouts(),
        )

    def prepare(self, text: str, *only: str) -> PreparedStart:
        return prepare_start(
            StartContext(
                kind=SLURM,
                file=spec_of(text),
                roots=self.roots,
                place=self.place,
                client=self.client,
                warn=self.said.append,
                only=only,
            )
        )

    def start(self, text: str, *only: str, keep: bool = False) -> PreparedStart:
        start = self.prepare(text, *only)
        if start.plan.steps:
            runner = self.runner
            runner.bring_up(start, runner.journal_of(start), keep_on_failure=keep)
        return start

    def suspend(self) -> None:
        self.runner.stop(self.state, only=[], suspends=True)

    def recover(self) -> None:
        left = Journal.read(self.paths.journal, STEP_TYPES)
        if left:
            self.runner.recover(left)
        assert not self.paths.journal.exists()

    def told_by(self, text: str) -> list[str]:
        """The nodes that a start with this file would tell, by the keys of its steps."""
        steps = self.prepare(text).plan.steps
        return sorted(step.key for step in steps if isinstance(step, GiveIdentity))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A cluster that is up with the old file."""
    # This libvirt is in our process: it ends no call of a run that died.
    monkeypatch.setattr(plan_runner, "SETTLE_S", 0)
    roots = replace(
        default_roots(tmp_path / "state"), data=tmp_path / "data", cache=tmp_path / "cache"
    )
    (tmp_path / "node.xml").write_text(TEST_NODE)
    add_image(ImageStore(roots.images))
    place = resolve_host(f"test://{tmp_path / 'node.xml'}", roots)
    for directory in (roots.state, roots.cluster("hpc").root):
        ensure_private_directory(directory)
    with Connected(place.uri) as client, plenty_of_room():
        made = Home(roots, place, client)
        made.start(OLD)
        assert made.told_by(OLD) == []
        yield made


def dies(at: int | Record | None, act: Callable[[], object]) -> list[Record]:
    """Do it, and die at that record; return all that were come by."""
    seen: list[Record] = []

    def on_boundary(moment: str, key: str) -> None:
        seen.append((moment, key))
        if at in (len(seen) - 1, seen[-1]):
            raise Death

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "_ignore_boundary", on_boundary)
        try:
            act()
        except Death:
            await_steps()
    return seen


@contextmanager
def broken(*keys: str) -> Iterator[None]:
    """These steps fail before they do anything."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in {STEP_TYPES[key.partition("/")[0]] for key in keys}:

            def fail(
                step: Step, context: PlanContext, apply: Callable[..., Applied] = kind.apply
            ) -> Applied:
                if step.key in keys:
                    raise HostError("made by a test")
                return apply(step, context)

            patch.setattr(kind, "apply", fail)
        yield


def power_off(home: Home, *names: str) -> None:
    """Power VMs off behind our back."""
    for name in names:
        home.client.destroy_domain(home.state.get_node(name).uuid)


def reset(home: Home, before: ClusterState) -> None:
    """Have the nodes told the old file, and the state as it was then."""
    home.start(OLD)
    write_state(home.paths, before.model_copy(update={"serial": home.state.serial}))
    assert home.told_by(OLD) == []
    home.said.clear()


def check_told_again(home: Home, before: ClusterState, *, has_gpus: bool) -> None:
    """The state says that what the nodes were told is not known, and changed in nothing else."""
    now = home.state
    gpus = [None, {} if has_gpus else None, None]
    assert (now.config_digest, [one.gpus for one in now.nodes]) == ("", gpus)
    same = {"serial": 0, "updated_at": before.updated_at, "config_digest": "", "nodes": ()}
    assert now.model_copy(update=same) == before.model_copy(update=same)
    assert [one.model_copy(update={"gpus": None}) for one in now.nodes] == list(before.nodes)
    assert home.told_by(OLD) == TELLING


def has_begun(records: list[Record]) -> bool:
    """Whether a step that tells a node was on disk."""
    return any(moment == "after intent" and key in TELLING for moment, key in records)


@pytest.mark.parametrize("what", NEW)
@pytest.mark.fault("F60", "other settings in the file, and death at every record of that start")
def test_a_start_that_tells_nodes_dies_at_any_record(
    home: Home, points: Points, what: str, is_long: bool
) -> None:
    before = home.state
    undone = told_nobody = 0
    chosen = some_of(dies(None, lambda: home.start(NEW[what])), is_long=is_long)
    reset(home, before)
    for one in chosen:
        as_it_was = home.state
        records = dies(one, lambda: home.start(NEW[what]))
        home.recover()
        if ("after done", LAST) in records:
            told = home.prepare(NEW[what]).desired.state.config_digest
            assert home.state.config_digest == told
            assert home.told_by(OLD) == TELLING
        elif has_begun(records):
            check_told_again(home, before, has_gpus=what == "gpus")
            undone += 1
        else:
            assert home.state == as_it_was
            assert home.told_by(OLD) == []
            told_nobody += 1
            continue
        reset(home, before)
    assert undone > 3
    assert told_nobody > 0
    points(len(chosen))


@pytest.mark.fault("F06", "death at every record of the undo of a start that told nodes")
def test_the_recovery_of_a_start_that_told_nodes_dies_at_any_record(
    home: Home, points: Points, is_long: bool
) -> None:
    before = home.state

    def recover(at: Record | None) -> list[Record]:
        dies(("before done", LAST), lambda: home.start(NEW["gpus"]))
        records = dies(at, home.recover)
        home.recover()
        check_told_again(home, before, has_gpus=True)
        reset(home, before)
        return records

    records = recover(None)
    assert len(records) > 2 * len(TELLING)
    chosen = some_of(records, is_long=is_long)
    for one in chosen:
        assert recover(one)[-1] == one
    points(len(chosen))


@pytest.mark.parametrize("what", NEW)
def test_a_start_that_tells_nodes_and_fails(home: Home, what: str) -> None:
    before = home.state
    for key in (*TELLING, LAST):
        with broken(key), pytest.raises(PlanFailedError):
            home.start(NEW[what])
        assert not home.paths.journal.exists()
        assert (
            home.said[-1] == "nodes keep what they were told until the next start: ai-how hpc start"
        )
        check_told_again(home, before, has_gpus=what == "gpus")
        reset(home, before)


def test_the_next_start_takes_the_files_of_gpus_away(home: Home) -> None:
    with broken(LAST), pytest.raises(PlanFailedError):
        home.start(NEW["gpus"])
    archive = home.start(OLD).archives["compute-01"]()
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        sizes = {one.name: one.size for one in files if one.name.startswith("etc/ai-how/")}
    assert (sizes["etc/ai-how/gpus"], sizes["etc/ai-how/fake_gpus.conf"]) == (0, 0)
    assert home.told_by(OLD) == []


def test_a_node_that_was_off_may_have_files_of_gpus_on_its_disk(home: Home) -> None:
    """Nobody has to be told: all nodes are off again, and are told when they boot."""
    before = home.state
    power_off(home, "controller", "compute-01", "compute-02")
    with broken(LAST), pytest.raises(PlanFailedError):
        home.start(NEW["gpus"])
    now = home.state
    assert now.config_digest == before.config_digest
    assert [one.gpus for one in now.nodes] == [None, {}, None]


def test_a_start_that_fails_and_told_nobody_anything_new_is_forgotten(home: Home) -> None:
    before = home.state
    power_off(home, "compute-02")
    for key in ("boot/hpc-compute-02", "services/hpc-compute-02", LAST):
        with broken(key), pytest.raises(PlanFailedError):
            home.start(OLD)
        assert home.state == before
    power_off(home, "controller", "compute-01")
    for key in ("boot/hpc-controller", LAST):
        with broken(key), pytest.raises(PlanFailedError):
            home.start(NEW["a time limit"])
        assert home.state == before
    home.start(OLD)
    assert home.told_by(OLD) == []


def test_keys_that_a_start_made_anew_are_sent_by_the_next_one(home: Home) -> None:
    before = home.state
    home.paths.munge_key.unlink()
    records = dies(0, lambda: home.start(OLD))
    assert records is not None
    assert not has_begun(records)
    assert home.paths.munge_key.exists()
    home.recover()
    assert home.state.config_digest == ""
    assert home.state.nodes == before.nodes
    assert home.told_by(OLD) == TELLING


@pytest.mark.parametrize("what", NEW)
def test_a_start_whose_failure_is_kept_may_have_told_nodes(home: Home, what: str) -> None:
    with broken(LAST), pytest.raises(PlanFailedError):
        home.start(NEW[what], keep=True)
    assert home.told_by(OLD) == TELLING
    [_, first, _] = home.state.nodes
    assert first.gpus == ({"a100": 2} if what == "gpus" else None)


def test_a_start_whose_failure_is_kept_and_that_told_nothing_new(home: Home) -> None:
    before = home.state
    power_off(home, "compute-02")
    with broken(LAST), pytest.raises(PlanFailedError):
        home.start(OLD, keep=True)
    assert home.state.config_digest == before.config_digest


def test_a_state_that_cannot_be_written_is_written_by_the_next_command(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = home.state

    def refuse(*_words: object) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(plan_runner, "write_state", refuse)
        with broken(LAST), pytest.raises(PlanFailedError) as caught:
            home.start(NEW["gpus"])
        assert "the disk is full" in (caught.value.details or "")
        with pytest.raises(StateError, match="the disk is full"):
            home.recover()
    assert home.state == before
    home.recover()
    check_told_again(home, before, has_gpus=True)


def test_a_journal_of_an_older_version_has_steps_enough(home: Home) -> None:
    before = home.state
    assert dies(("before done", LAST), lambda: home.start(NEW["gpus"]))
    lines = home.paths.journal.read_bytes().splitlines(keepends=True)
    header = decode_line(lines[0])
    assert header is not None
    for name in ("state", "renews_keys"):
        del header["note"][name]
    home.paths.journal.write_bytes(b"".join([encode_line(header), *lines[1:]]))
    home.recover()
    assert home.state.config_digest == ""
    assert home.state.nodes == before.nodes


def untold(home: Home) -> list[str]:
    return [one.name for one in home.state.nodes if one.is_untold]


def test_a_node_that_stays_suspended_is_told_when_it_resumes(home: Home) -> None:
    new, last = NEW["a time limit"], "services/hpc-compute-02"
    home.suspend()
    home.start(new, "compute-01")
    assert untold(home) == ["compute-02"]
    assert home.prepare(new, "compute-01").plan.steps == (), "the others know it"
    with broken(LAST), pytest.raises(PlanFailedError):
        home.start(new)
    assert untold(home) == ["compute-02"], "it is suspended again"
    with broken(last), pytest.raises(PlanFailedError):
        home.start(new, keep=True)
    assert home.told_by(new) == [last], "it runs, and was not told"
    home.start(new)
    assert (home.told_by(new), untold(home)) == ([], [])


def test_a_node_that_others_resume_is_told_by_the_next_start(home: Home) -> None:
    home.suspend()
    home.start(NEW["a time limit"], "compute-01")
    home.client.start_domain(home.state.get_node("compute-02").uuid)
    assert home.told_by(NEW["a time limit"]) == ["services/hpc-compute-02"]


def test_a_look_at_the_plan_writes_nothing(home: Home) -> None:
    before = home.paths.state.read_bytes()
    assert home.told_by(NEW["gpus"]) == TELLING
    assert home.paths.state.read_bytes() == before
