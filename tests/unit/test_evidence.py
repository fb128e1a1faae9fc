"""What is saved of a failed start: all that can be had, within a time that no node can draw out."""

import base64
import errno
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.clusters.diagnosis import evidence, look
from ai_how.clusters.diagnosis.evidence import save_evidence
from ai_how.errors import (
    AgentUnresponsiveError,
    DeadlineError,
    GuestError,
    LibvirtError,
    StepFailure,
)
from ai_how.guest.serial_log import mark_consoles, read_console
from ai_how.host.place import HypervisorHost
from ai_how.hpc.causes import SlurmDiagnosis
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.failures import SavedEvidence, failure_of
from ai_how.plan.step import Plan, node_of
from ai_how.state.paths import ClusterPaths, StoragePaths, ensure_private_directory
from ai_how.vm_management.context import PlanContext, Timeouts
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.steps import guest
from ai_how.vm_management.steps.guest import AwaitAgent
from ai_how.waiting import Deadline
from cluster_bench import CLUSTER_ID, domain_seen, draft_of, read_hpc

SERVICES = """\
== jobs
== failed
== memory
== munge
accepted
== sinfo
compute-01|idle|none
compute-02|down*|Not responding
== nodes
"""


@dataclass
class Guests:
    """Guests as a client shows them; each may say other things, or hang until the test is over."""

    domains: dict[UUID, DomainInfo]
    hanging: set[UUID] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)
    stdins: list[bytes] = field(default_factory=list)

    def find_domain(self, uuid: UUID) -> DomainInfo | None:
        return self.domains.get(uuid)

    def is_agent_connected(self, uuid: UUID) -> bool:
        seen = self.find_domain(uuid)
        return seen is not None and seen.is_agent_connected

    def wait_for_agent(self, uuid: UUID, deadline: Deadline, stop: threading.Event) -> None:
        stop.wait(deadline.remaining_s)
        raise DeadlineError("late")

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        if uuid in self.hanging:
            self.over.wait()
            raise AgentUnresponsiveError("late")
        match command:
            case {"execute": "guest-exec", "arguments": {"arg": [*_, "short-monotonic"]}}:
                return {"pid": 3}
            case {"execute": "guest-exec", "arguments": {"arg": words, **more}}:
                self.stdins.append(base64.b64decode(more.get("input-data", "")))
                return {"pid": 1 if "exec munge -n" in words else 2}
            case {"execute": "guest-exec-status", "arguments": {"pid": pid}}:
                text = {1: "MUNGE:AwQF:\n", 2: SERVICES, 3: "[1.0] a journal\n"}[pid]
                data = base64.b64encode(text.encode()).decode()
                return {"exited": True, "exitcode": 0, "out-data": data}
        return {}


@dataclass
class Bench:
    """A cluster of three whose start has failed."""

    world: PlanContext
    guests: Guests
    said: list[str] = field(default_factory=list)

    def save(self, error: Exception, step: str = "ready/hpc") -> SavedEvidence:
        error.add_note(f"while applying {step}")
        steps = tuple(AwaitAgent(one.domain_name, one.uuid) for one in DRAFT.state.nodes)
        kind, _, subject = step.partition("/")
        failure = StepFailure(step, error, node_of(subject, DRAFT.state.name), kind)
        return self.save_of(Plan("start", steps), failure)

    def save_of(self, plan: Plan, failure: StepFailure) -> SavedEvidence:
        place = HypervisorHost("embedded", "test:///default", "test", self.world.disks.storage)
        kind = SlurmDiagnosis()
        state, warn = DRAFT.state, self.said.append
        return save_evidence(self.world, state, plan, place, warn, [failure], kind=kind)


DRAFT = draft_of(read_hpc())
NAMES = ["controller", "compute-01", "compute-02"]


@pytest.fixture
def bench(tmp_path):
    nodes = DRAFT.state.nodes
    guests = Guests({one.uuid: domain_seen(DRAFT, one.name) for one in nodes})
    paths = ClusterPaths(ensure_private_directory(tmp_path / "hpc"))
    ensure_private_directory(paths.console)
    for node in nodes:
        paths.console_log(node.name).write_text("of a boot before: Kernel panic - not syncing: x\n")
    yield Bench(
        PlanContext(
            cluster_id=CLUSTER_ID,
            cluster_kind="hpc",
            paths=paths,
            client=guests,
            disks=DiskManager(StoragePaths(tmp_path)),
            console_offsets=mark_consoles(paths, DRAFT.state),
            timeouts=Timeouts(agent_s=30),
        ),
        guests,
    )
    guests.over.set()


def files_of(saved: SavedEvidence) -> dict[str, str]:
    return {path.name: path.read_text() for path in saved.directory.iterdir()}


def test_everything_is_in_one_private_directory_that_is_named(bench):
    saved = bench.save(GuestError("not ready", "in time"))
    files = files_of(saved)
    perhaps = {f"{name}.{what}" for name in NAMES for what in ("console.log", "xml", "journal.log")}
    assert set(files) == {"errors.txt", "summary.txt"} | perhaps | {
        f"{name}.services.log" for name in NAMES
    }
    assert saved.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in saved.directory.iterdir()} == {0o600}
    assert files["errors.txt"] == "not ready (while applying ready/hpc)\nin time"
    assert bench.said == [f"saving the evidence of the failure in {saved.directory}"]
    assert saved.hint == f"less {saved.directory}/summary.txt"
    assert saved.cause == (
        "slurmd on compute-02 did not register: SLURM reports it as down*, Not responding"
    )
    assert (saved.cause_id, saved.node) == ("node-not-registered", "compute-02")
    assert files["summary.txt"].startswith(saved.cause)


def test_each_node_is_asked_about_the_controllers_credential_which_is_not_kept(bench):
    saved = bench.save(GuestError("not ready"))
    assert bench.guests.stdins.count(b"MUNGE:AwQF:\n") == 3
    assert not [name for name, text in files_of(saved).items() if "AwQF" in text]


def test_only_what_this_run_heard_on_a_serial_line_counts(bench):
    with bench.world.paths.console_log("compute-01").open("a") as log:
        log.write("something new\n")
    files = files_of(bench.save(GuestError("not ready")))
    assert files["compute-01.console.log"] == "something new\n"
    assert files["controller.console.log"] == ""
    assert "panic" not in files["summary.txt"]


def test_a_log_that_was_turned_over_is_read_from_its_beginning(bench):
    log = bench.world.paths.console_log("compute-01")
    log.write_text("new\n")
    assert read_console(log, bench.world.console_offsets["compute-01"]) == "new\n"


@pytest.mark.fault("F33", "agents that hang while evidence is collected")
def test_nodes_that_hang_cost_no_others_evidence_and_no_time_for_each(bench, monkeypatch):
    monkeypatch.setattr(evidence, "LIMITS", look.Limits(node_s=1.0))
    hanging = [one for one in DRAFT.state.nodes if one.role == "compute"]
    bench.guests.hanging |= {one.uuid for one in hanging}
    done = threading.Event()
    results: list[SavedEvidence] = []

    def save() -> None:
        results.append(bench.save(GuestError("not ready")))
        done.set()

    threading.Thread(target=save, daemon=True).start()
    assert done.wait(60), "the evidence never came, as a guest hangs"
    files = files_of(results[0])
    assert "controller.journal.log" in files
    assert "compute-01.journal.log" not in files
    assert files["compute-01.xml"] == bench.guests.domains[hanging[0].uuid].xml
    assert files["summary.txt"].count("  it did not answer within 1 s\n") == 2


@pytest.mark.fault("F28", "a libvirt that refuses while evidence is collected")
def test_without_libvirt_there_is_still_what_lies_on_the_disk(bench, monkeypatch):
    def refuse(_uuid: UUID) -> None:
        raise LibvirtError("libvirt is gone")

    monkeypatch.setattr(bench.guests, "find_domain", refuse)
    with bench.world.paths.console_log("compute-01").open("a") as log:
        log.write("[ 2.1] Kernel panic - not syncing: no more\n")
    saved = bench.save(GuestError("late"), "agent/hpc-compute-01")
    assert saved.cause == "compute-01: kernel panic: no more"
    assert "  libvirt is gone\n" in files_of(saved)["summary.txt"]
    assert "hpc-compute-01: unknown; compute-01: kernel panic" in files_of(saved)["summary.txt"]


def test_nodes_that_the_run_was_not_about_are_left_alone(bench):
    one = DRAFT.state.get_node("compute-02")
    step = AwaitAgent(one.domain_name, one.uuid)
    failure = failure_of(step, GuestError("late"), DRAFT.state.name)
    saved = bench.save_of(Plan("start", (step,)), failure)
    names = {name.partition(".")[0] for name in files_of(saved)}
    assert names == {"errors", "summary", "controller", "compute-02"}


def test_qemus_log_and_the_signal_that_ended_it_are_found(bench, tmp_path, monkeypatch):
    logs = tmp_path / "qemu"
    logs.mkdir()
    before = "2026-11-24 13:00:00.000+0000: starting up libvirt version: 9.0.0\nof a boot before\n"
    log = before + before.replace("before", "now")
    (logs / "hpc-compute-01.log").write_text(log)
    monkeypatch.setattr(HypervisorHost, "qemu_logs", logs)
    files = files_of(bench.save(GuestError("late")))
    assert files["compute-01.qemu.log"] == before.replace("before", "now")
    assert f"  {logs}/hpc-compute-02.log: No such file or directory\n" in files["summary.txt"]
    said = "QEMU of hpc-compute-1 was killed by signal 11\nQEMU of hpc was killed by signal 9\n"
    assert look.find_signal(said, "hpc") == 9
    assert look.find_signal(said, "hpc-compute-2") is None


def test_a_qemu_log_that_is_roots_is_named_with_how_to_read_it(bench, tmp_path, monkeypatch):
    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(look, "read_tail", refuse)
    monkeypatch.setattr(HypervisorHost, "qemu_logs", tmp_path)
    seen = domain_seen(DRAFT, "compute-01", VmState.SHUT_OFF, agent=False)
    crashed = replace(seen, state_number=5, reason=3)
    bench.guests.domains[crashed.uuid] = crashed
    saved = bench.save(GuestError("late"), "agent/hpc-compute-01")
    assert (saved.cause_id, saved.node) == ("qemu-ended", "compute-01")
    assert saved.cause == ("compute-01: QEMU was killed or crashed; only root can read its log")
    remedy = f"  only root can read it: sudo tail -n 50 {tmp_path}/hpc-compute-01.log\n"
    assert remedy in files_of(saved)["summary.txt"]


def test_a_guest_that_panics_is_waited_for_no_longer(bench, monkeypatch):
    monkeypatch.setattr(guest, "LOOK_S", 0.01)
    node = DRAFT.state.get_node("compute-01")
    with bench.world.paths.console_log("compute-01").open("a") as log:
        log.write("[ 2.1] Kernel panic - not syncing: no more\n")
    with pytest.raises(GuestError, match="compute-01: kernel panic: no more"):
        AwaitAgent(node.domain_name, node.uuid).apply(bench.world)


@pytest.mark.parametrize("has_log", [True, False])  # of the system's libvirt it may not be read
def test_a_guest_that_says_nothing_is_waited_for_until_the_deadline(bench, monkeypatch, has_log):
    monkeypatch.setattr(guest, "LOOK_S", 0.01)
    world = replace(bench.world, timeouts=Timeouts(agent_s=0.2))
    node = DRAFT.state.get_node("compute-01")
    if not has_log:
        world.paths.console_log("compute-01").unlink()
    with pytest.raises(
        GuestError, match="the guest agent of hpc-compute-01 did not connect in time"
    ):
        AwaitAgent(node.domain_name, node.uuid).apply(world)


def test_an_accident_while_looking_is_no_secret(bench, monkeypatch):
    def fail(_uuid: UUID) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.guests, "find_domain", fail)
    with pytest.raises(ZeroDivisionError):
        bench.save(GuestError("late"))
    (directory,) = bench.world.paths.evidence.iterdir()
    assert re.match("late", (directory / "errors.txt").read_text())
