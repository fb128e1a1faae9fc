"""The rules of SLURM: services, the shared home, nodes that take no jobs, partitions, jobs."""

from dataclasses import replace

import pytest

from ai_how.hpc.kind import SLURM
from ai_how.monitoring.health import judge_of
from ai_how.monitoring.model import Finding, Partition, Snapshot
from made_up_cluster import make_job
from snapshots import (
    keep_looking,
    later,
    look_once,
    silent,
    sound,
    told,
    with_guest,
    with_slurm,
    with_vm,
)

NODE = "compute-01"


def only(found: tuple[Finding, ...]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def off(seen: Snapshot, node: str, **changes: str) -> Snapshot:
    return with_vm(seen, node, **({"state": "shut_off", "reason": "shutdown"} | changes))


SERVICES = [
    (NODE, "munge", "munge-down"),
    (NODE, "slurmd", "slurmd-down"),
    ("controller", "slurmctld", "slurmctld-down"),
    ("controller", "nfs-server", "nfs-down"),
    ("controller", "chrony", "clock-unkept"),
    (NODE, "ai-how-clock", "clock-unkept"),
]


@pytest.mark.parametrize("state", ["failed", "inactive", "absent"])
@pytest.mark.parametrize(("node", "service", "name"), SERVICES, ids=[s[1] for s in SERVICES])
def test_a_service_that_does_not_run(node, service, name, state):
    seen = with_guest(sound(), node, services={service: state})
    found = only(look_once(seen))
    assert (found.id, found.subject) == (name, node)
    assert found.evidence == (f"{service}: {state}",)
    assert found.heals
    assert found.remedy.startswith(f"ai-how hpc exec {node} -- systemctl restart ")


def test_a_service_that_starts_is_given_time():
    judge, seen = judge_of(SLURM), with_guest(sound(), NODE, services={"slurmd": "activating"})
    seen, found = keep_looking(judge, seen, 150)
    assert found == ()
    assert told(keep_looking(judge, seen, 60)[1]) == {("slurmd-down", NODE)}


def test_the_clock_service_begins_late_after_a_boot():
    young = with_guest(sound(), NODE, services={"chrony": "inactive"}, uptime_s=200.0)
    assert look_once(young) == ()
    assert look_once(with_guest(young, NODE, services={"chrony": "failed"})) != ()


def test_one_of_two_clock_services_is_enough_where_an_image_has_one_alone():
    both = {"chrony": "absent", "ai-how-clock": "active"}
    assert look_once(with_guest(sound(), NODE, services=both)) == ()
    assert look_once(with_guest(sound(), NODE, services={**both, "chrony": "failed"})) != ()
    none = {"chrony": "absent", "ai-how-clock": "absent"}
    assert only(look_once(with_guest(sound(), NODE, services=none))).id == "clock-unkept"


def test_what_a_dead_service_brings_about_is_no_finding_of_its_own():
    seen = with_guest(sound(), NODE, services={"slurmd": "failed"})
    seen = with_slurm(seen, NODE, states=("down", "not_responding"), reason="Not responding")
    assert told(look_once(seen)) == {("slurmd-down", NODE)}


@pytest.mark.parametrize(("skew", "severity"), [(-30.0, "warning"), (400.0, "critical")])
def test_a_clock_that_is_off(skew, severity):
    found = only(look_once(with_guest(sound(), NODE, skew_s=skew)))
    assert (found.id, found.severity) == ("clock-off", severity)
    assert look_once(with_guest(sound(), NODE, skew_s=2.0)) == ()
    assert look_once(with_guest(sound(), NODE, skew_s=None)) == ()


def test_a_home_that_does_not_answer():
    found = only(look_once(with_guest(sound(), NODE, is_home_there=False)))
    assert (found.id, found.subject, found.heals) == ("home-not-mounted", NODE, True)
    assert look_once(with_guest(sound(), NODE, is_home_there=None)) == ()


def test_a_slurmctld_that_does_not_answer():
    seen = silent(sound(), "slurm", trouble="Unable to contact slurm controller")
    found = only(look_once(seen))
    assert (found.id, found.subject) == ("slurmctld-down", "controller")
    assert found.evidence == ("Unable to contact slurm controller",)
    off_munge = with_guest(seen, "controller", services={"munge": "failed"})
    assert told(look_once(off_munge)) == {("munge-down", "controller")}


DRAINED = [
    ("maintenance by alice", "alice", "warning", False),
    ("stopped by ai-how", "root", "critical", True),
    ("Kill task failed", "slurm", "critical", True),
    ("fan is broken : Not responding", "slurm", "warning", False),
    ("stopped by ai-how : Not responding", "slurm", "critical", True),
    (None, None, "warning", False),
]


@pytest.mark.parametrize(("reason", "user", "severity", "heals"), DRAINED)
def test_a_drained_node_is_told_with_slurms_reason(reason, user, severity, heals):
    seen = with_slurm(
        sound(),
        NODE,
        states=("idle", "drain"),
        reason=reason,
        reason_user=user,
        reason_at=sound().at - 3600,
    )
    found = only(look_once(seen))
    assert (found.id, found.severity) == ("node-out-of-service", severity)
    assert found.heals is heals
    assert found.text.endswith(reason or "no reason is given")
    assert found.since == seen.at - 3600
    assert found.remedy == (
        f"ai-how hpc exec controller -- scontrol update nodename={NODE} state=resume"
    )


def test_a_node_that_slurm_has_as_down_though_it_answers():
    seen = with_slurm(sound(), NODE, states=("down",), reason="Not responding", reason_user="slurm")
    found = only(look_once(seen))
    assert (found.id, found.severity, found.heals) == ("node-out-of-service", "critical", True)
    by_hand = with_slurm(seen, NODE, reason="broken fan", reason_user="root")
    assert not only(look_once(by_hand)).heals


def test_a_node_of_which_slurm_hears_nothing():
    seen = with_slurm(sound(), NODE, states=("idle", "not_responding"))
    assert only(look_once(seen)).id == "node-not-registered"
    judge = judge_of(SLURM)
    assert judge.judge(seen) == ()
    assert told(keep_looking(judge, later(seen), 40)[1]) == {("node-not-registered", NODE)}


def test_a_node_whose_gpus_slurm_refuses():
    seen = with_slurm(
        sound(), NODE, states=("inval",), reason="gres/gpu count reported lower than configured"
    )
    found = only(look_once(seen))
    assert (found.id, found.remedy) == (
        "gpus-refused",
        "ai-how hpc start  # it gives the node its simulated GPUs again",
    )


def test_a_node_that_is_off_by_no_command_of_ours():
    seen = with_slurm(off(sound(), NODE), NODE, states=("idle", "not_responding"))
    found = only(look_once(seen))
    assert (found.id, found.remedy) == ("node-off", f"ai-how hpc start {NODE}")


@pytest.mark.parametrize("reason", ["stopped by ai-how", "auto_start is off: …"])
def test_a_node_that_was_stopped_by_us_is_no_finding(reason):
    seen = with_slurm(off(sound(), NODE), NODE, states=("down",), reason=reason)
    assert look_once(seen) == ()


def test_a_controller_that_is_off_alone():
    seen = silent(off(sound(), "controller"), "slurm", trouble="the controller is off")
    assert told(look_once(seen)) == {("node-off", "controller")}


@pytest.mark.parametrize("state", ["down", "drain", "inactive"])
def test_a_partition_that_is_not_up(state):
    seen = sound()
    assert seen.slurm
    parts = (Partition(name="debug", state=state), Partition(name="x; rm -rf ~", state=state))
    found = only(look_once(replace(seen, slurm=replace(seen.slurm, partitions=parts))))
    assert (found.id, found.subject) == ("partition-not-up", "debug")
    assert found.remedy.endswith("scontrol update partitionname=debug state=up")


def test_a_job_that_does_not_come_to_its_end():
    seen = sound()
    assert seen.slurm
    job = replace(
        make_job(3, [NODE], seen.at),
        flags=("completing",),
        nodes=(NODE, "not-ours"),
        ended_at=seen.at - 600,
    )
    stuck = replace(seen, slurm=replace(seen.slurm, jobs=(job,)))
    found = only(look_once(stuck))
    assert (found.id, found.subject) == ("job-stuck", NODE)
    assert found.evidence == ("job 3 of alice: for 10 min",)
    soon = replace(job, ended_at=seen.at - 100)
    assert look_once(replace(seen, slurm=replace(seen.slurm, jobs=(soon,)))) == ()


def test_what_slurm_says_is_one_line_without_control_characters():
    seen = with_slurm(
        sound(),
        NODE,
        states=("idle", "drain"),
        reason="a\x1b[2J\nb" + "x" * 500,
        reason_user="e\x07",
    )
    found = only(look_once(seen))
    for text in (found.text, *found.evidence):
        assert text.isprintable()
        assert len(text) < 200


def test_old_words_of_slurm_are_no_finding():
    seen = with_slurm(sound(), NODE, states=("idle", "drain"), reason="x", reason_user="alice")
    found = look_once(silent(seen, "slurm", for_s=2000))
    assert {one.id for one in found} == {"slurmctld-down"}
