"""What SLURM is told of nodes that stop or have ended, and what becomes of their jobs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from test_hpc_plan import RENDERING

from ai_how.errors import ConnectionLostError, DeadlineError, GuestError, InterruptedRunError
from ai_how.guest.agent import GuestResult
from ai_how.hpc import steps as slurm_steps
from ai_how.hpc.jobs import OUR_REASON, SlurmJob, describe_jobs, end_script, read_jobs
from ai_how.hpc.plan import plan_start
from ai_how.hpc.steps import AwaitReady, CloseSlurm, MarkOff, wait_for_jobs
from ai_how.hpc.stop_plan import plan_stop
from ai_how.hpc.workload import node_readiness
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.interrupts import Interrupts
from ai_how.process import run
from ai_how.vm_management.context import Timeouts
from ai_how.waiting import Deadline
from cluster_bench import draft_of, everything_seen, read_hpc

ID = UUID(int=1)
DRAFT = draft_of(read_hpc())
# As squeue prints them, each field as wide as it was asked to be.
AGAIN = "7               |7_2                 |ann                 |1   |1   |1000    |a|b long  "
ONCE = "8               |8                   |bob                 |1   |0   |3000    |once      "
SHELL = "9               |9                   |ann                 |0   |1   |1000    |bash      "


@dataclass
class Slurm:
    """A world of one controller, which answers in turn and keeps what it heard."""

    answers: Iterator[str | Exception]
    heard: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    interrupts: Interrupts = field(default_factory=Interrupts)
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        self.stop, self.warn = self.interrupts.stop, self.said.append

    def agent(self, _uuid: UUID, _name: str) -> "Slurm":
        return self

    def run(self, argv: Sequence[str], _deadline: Deadline, **_options: object) -> GuestResult:
        self.heard.append(argv[-1] if argv[0] == "/bin/sh" else " ".join(argv))
        answer = next(self.answers, "")
        if isinstance(answer, Exception):
            raise answer
        return GuestResult(0, answer, "")

    def check(self, argv: Sequence[str], deadline: Deadline, **options: object) -> str:
        return self.run(argv, deadline, **options).output


def slurm(*answers: str | Exception) -> Slurm:
    return Slurm(iter(answers))


def test_jobs_are_read_from_what_squeue_prints_whatever_their_names():
    assert read_jobs(f"{AGAIN}\nrubbish\n{ONCE}\n{SHELL}\n|||||||\n") == [
        SlurmJob("7", "7_2", "ann", "a|b long", True, 1000),
        SlurmJob("8", "8", "bob", "once", False, 3000),
        SlurmJob("9", "9", "ann", "bash", False, 1000),
    ]


def test_of_many_jobs_the_first_are_named_and_the_others_counted():
    jobs = [replace(read_jobs(AGAIN)[0], shown_id=str(number)) for number in range(10)]
    lines = describe_jobs(jobs, "why")
    assert lines[0] == "job 0 (a|b long, of ann) is requeued: why"
    assert lines[-1] == "2 more are requeued, 0 ended: 8, 9"
    assert len(lines) == 9


@pytest.mark.fault("H11", "jobs of each kind on a node that is stopped")
def test_a_stop_queues_again_what_may_be_and_says_what_it_ends():
    world = slurm(f"{AGAIN}\n{ONCE}\n{SHELL}\n")
    CloseSlurm("hpc", ID, ("compute-01", "compute-02"), drained=("compute-02",)).apply(world)
    closed, ended = world.heard
    assert closed.startswith(
        "scontrol update nodename=compute-01 state=drain reason='stopped by ai-how'; "
    )
    assert "-w compute-01,compute-02 " in closed
    assert ended.startswith("scontrol requeue 7; scancel --full --signal=TERM 8 9; ")
    assert ended.endswith("scancel 8 9")
    assert world.said == [
        "job 7_2 (a|b long, of ann) is requeued: its node is stopped",
        "job 8 (once, of bob) is ended: its node is stopped",
        "job 9 (bash, of ann) is ended: its node is stopped",
    ]


@pytest.mark.fault("H11", "a SLURM that does not answer while the jobs of a node are ended")
@pytest.mark.parametrize(("squeue", "is_ended"), [("exit 1", True), ("echo 8", True), (":", False)])
def test_jobs_are_over_only_where_squeue_says_so(tmp_path, squeue, is_ended):
    fakes = {"squeue": squeue, "scancel": f'echo "$*" >> {tmp_path}/said', "sleep": ":"}
    for name, script in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    script = f"PATH={tmp_path}; " + end_script(read_jobs(ONCE), ["compute-01"])
    run(["/bin/sh", "-c", script], timeout_s=60)
    said = (tmp_path / "said").read_text().splitlines()
    assert said == ["--full --signal=TERM 8", *(["8"] if is_ended else [])]


def test_a_stop_where_no_job_runs_asks_once():
    world = slurm("")
    CloseSlurm("hpc", ID, ("compute-01",)).apply(world)
    assert len(world.heard) == 1
    assert world.said == []


@pytest.mark.fault("H12", "a node that its user has drained is stopped and started")
def test_a_drain_of_the_users_and_its_reason_survive_a_stop_and_a_start():
    drained = {
        "compute-01": node_readiness("compute-01", "drained", "bad | 'fan'"),
        "compute-02": node_readiness("compute-02", "idle", None),
    }
    seen = replace(everything_seen(DRAFT), readiness=drained)
    steps = {step.key: step for step in plan_stop(DRAFT.state, seen).steps}
    assert steps["slurm/hpc"].drained == ("compute-01",)
    off = steps["slurm-off/hpc"]
    assert (off.nodes, off.drained) == (("compute-02",), (("compute-01", "bad | 'fan'"),))
    world = slurm()
    off.apply(world)
    assert world.heard[0].split("; ") == [
        "scontrol update nodename=compute-01 state=down reason='bad | '\"'\"'fan'\"'\"''",
        "scontrol update nodename=compute-02 state=resume",
        "scontrol update nodename=compute-02 state=down reason='stopped by ai-how'",
    ]
    world = slurm("compute-02\n", "compute-01|drained|bad | 'fan'\n")
    AwaitReady("hpc", ID, ("compute-01", "compute-02"), "all", "nfs").apply(world)
    assert world.said == ["compute-01 is drained and takes no jobs: bad | 'fan'"]
    assert len(world.heard) == 2


def test_a_node_that_a_stop_has_closed_is_opened_when_it_is_back():
    closed = {"compute-01": node_readiness("compute-01", "drained*", OUR_REASON)}
    off = everything_seen(DRAFT, VmState.SHUT_OFF)
    controller = DRAFT.state.get_controller().uuid
    on = everything_seen(DRAFT).domains[controller]
    seen = replace(off, readiness=closed, domains={**off.domains, controller: on})
    # Off already, when a stop that was cut short is carried on.
    (mark, _) = plan_stop(DRAFT.state, seen).steps
    assert isinstance(mark, MarkOff)
    assert mark.nodes == ("compute-01",)
    # Or on, when a start finds it.
    seen = replace(everything_seen(DRAFT), readiness={**everything_seen(DRAFT).readiness, **closed})
    assert "ready/hpc" in [step.key for step in plan_start(DRAFT, seen, RENDERING).steps]
    world = slurm("", f"compute-01|drained|{OUR_REASON}\n", "", "compute-01\n")
    AwaitReady("hpc", ID, ("compute-01",), "all", "nfs").apply(world)
    assert world.heard[2] == "scontrol update nodename=compute-01 state=undrain"
    assert world.heard[3] == world.heard[0]
    assert world.said == []


def test_ready_asks_for_a_gpu_where_there_is_one_and_undrains_what_slurm_drained_for_its_gpus():
    nodes, gpu_nodes = ("compute-01", "compute-02", "compute-03"), ("compute-02", "compute-03")
    step = AwaitReady("hpc", ID, nodes, "all", "nfs", gpu_nodes=gpu_nodes)
    world = slurm("compute-01\n", "compute-02\ncompute-03\n")
    step.apply(world)
    plain, with_gpu = world.heard
    assert plain == "/usr/lib/ai-how/ready nfs all compute-01"
    with_env = "/usr/bin/env SLURM_GRES=gpu:1 /usr/lib/ai-how/ready nfs all"
    assert with_gpu == f"{with_env} compute-02 compute-03"
    why = "gres/gpu count reported lower than configured (0 < 8)"
    told = f"compute-02|idle|none\ncompute-03|drained|{why}\n"
    world = slurm("compute-01\n", "compute-02\n", told, "", "compute-03\n")
    step.apply(world)
    assert world.heard[3] == "scontrol update nodename=compute-03 state=undrain"
    assert world.heard[4] == f"{with_env} compute-03"
    assert world.said == []


def dead(state: str, reason: str | None = None) -> list[str]:
    """The plan where compute-01 is off, and SLURM has it so."""
    seen = everything_seen(DRAFT)
    uuid = DRAFT.state.get_node("compute-01").uuid
    off = everything_seen(DRAFT, VmState.SHUT_OFF).domains[uuid]
    slurm = {**seen.readiness, "compute-01": node_readiness("compute-01", state, reason)}
    seen = replace(seen, domains={**seen.domains, uuid: off}, readiness=slurm)
    return plan_start(DRAFT, seen, RENDERING).steps


@pytest.mark.fault("H10", "a node that ended while SLURM takes it for running a job")
def test_slurm_hears_that_a_node_ended_before_that_boots():
    steps = {step.key: step for step in dead("allocated")}
    told = steps["slurm-lost/hpc"]
    assert told.key in steps["boot/hpc-compute-01"].needs
    assert told.key in steps["ready/hpc"].needs
    assert told.nodes == ("compute-01",)
    world = slurm(f"{AGAIN}\n{ONCE}\n")
    told.apply(world)
    assert world.heard[1] == "scontrol update nodename=compute-01 state=down reason='its VM ended'"
    assert world.said[1] == "job 8 (once, of bob) is ended: the VM of its node ended"
    assert "slurm-lost/hpc" not in [step.key for step in dead("down*")]
    # A drain is its user's: only the jobs are dealt with.
    (told,) = [step for step in dead("draining") if step.kind == "slurm-lost"]
    world = slurm(f"{AGAIN}\n{ONCE}\n")
    told.apply(world)
    assert world.heard[1] == "scontrol requeue 7; scancel 8"


@pytest.mark.fault("H10", "a node that ended while a stop of ours drained it")
def test_a_node_that_ended_while_we_drained_it_does_not_pass_for_its_users():
    steps = dead("draining*", f"{OUR_REASON} : Not responding")
    (told,) = [step for step in steps if step.kind == "slurm-lost"]
    world = slurm(f"{AGAIN}\n")
    told.apply(world)
    assert world.heard[1].split("; ") == [
        "scontrol update nodename=compute-01 state=resume",
        "scontrol update nodename=compute-01 state=down reason='stopped by ai-how'",
    ]


@pytest.mark.fault("H10", "a controller that remembers jobs of before the host's reboot")
def test_jobs_of_before_a_reboot_are_dropped_and_those_of_after_it_left():
    off = replace(everything_seen(DRAFT, VmState.SHUT_OFF), readiness=None)
    steps = {step.key: step for step in plan_start(DRAFT, off, RENDERING).steps}
    told = steps["slurm-lost/hpc"]
    assert told.is_restarted
    assert told.needs == {"services/hpc-controller"}
    assert told.key in steps["ready/hpc"].needs
    world = slurm(f"500.25 900.00\n2500\n{AGAIN}\n{ONCE}\n{SHELL}\n")
    told.apply(world)
    assert world.heard[0].startswith(
        "timeout 240 /usr/lib/ai-how/wait-for-port controller 6817 || "
    )
    assert world.heard[1] == "scontrol requeue 7; scancel 9"
    assert "slurm-lost/hpc" not in {step.key for step in plan_start(DRAFT, EMPTY, RENDERING).steps}


@pytest.mark.fault("H10", "nodes that go on from their saved memory, with their jobs")
def test_slurm_hears_nothing_of_a_node_that_was_only_suspended():
    off = replace(everything_seen(DRAFT, VmState.SHUT_OFF), readiness=None)
    domains = {uuid: replace(one, has_managed_save=True) for uuid, one in off.domains.items()}
    keys = {step.key for step in plan_start(DRAFT, replace(off, domains=domains), RENDERING).steps}
    assert "resume/hpc-compute-01" in keys
    assert "slurm-lost/hpc" not in keys
    anew = replace(RENDERING, resumes=False)
    keys = {step.key for step in plan_start(DRAFT, replace(off, domains=domains), anew).steps}
    assert "slurm-lost/hpc" in keys


EMPTY = replace(everything_seen(DRAFT), domains={}, disks=frozenset(), readiness=None, network=None)


@pytest.mark.fault("H11", "a wait for jobs that is interrupted, and one that is over")
def test_a_wait_for_jobs_closes_the_nodes_and_opens_them_again_when_it_is_cut_short():
    world = slurm("", AGAIN)
    world.interrupts.request()
    with pytest.raises(InterruptedRunError, match="waited for jobs") as caught:
        wait_for_jobs(world, ID, ("compute-01", "compute-02"), ("compute-02",), 60)
    assert caught.value.details == "accepting jobs again: compute-01"
    assert world.heard[0].startswith("scontrol update nodename=compute-01 state=drain")
    assert world.heard[-1] == "scontrol update nodename=compute-01 state=undrain"
    world = slurm(GuestError("SLURM is gone"))
    with pytest.raises(GuestError):
        wait_for_jobs(world, ID, ("compute-01",), (), 60)
    assert world.heard[-1] == "scontrol update nodename=compute-01 state=undrain"
    for answer in ("", AGAIN):
        world = slurm("", answer)
        wait_for_jobs(world, ID, ("compute-01",), (), 0)
        assert len(world.heard) == 2
    assert world.said[-1] == "the time limit of the wait has passed"


LOST = [GuestError("squeue failed"), DeadlineError("late"), ConnectionLostError("libvirtd ended")]


@pytest.mark.fault("H11", "a SLURM that does not answer for a while, or when it is told to open")
def test_a_wait_for_jobs_outlives_a_silence_and_says_what_it_leaves_closed(monkeypatch):
    monkeypatch.setattr(slurm_steps, "LOOK_S", 0.01)
    world = slurm("", AGAIN, *LOST, "")
    wait_for_jobs(world, ID, ("compute-01",), (), 60)
    assert len(world.heard) == 6
    assert len(world.said) == 1
    world = slurm("", AGAIN, DeadlineError("late"))
    world.interrupts.request()
    with pytest.raises(InterruptedRunError, match="waited for jobs") as caught:
        wait_for_jobs(world, ID, ("compute-01",), (), 60)
    assert caught.value.details is None
    assert world.said[-1] == (
        "compute-01 may still be drained; to undrain them: "
        "ai-how hpc exec controller -- scontrol update nodename=compute-01 state=undrain"
    )
