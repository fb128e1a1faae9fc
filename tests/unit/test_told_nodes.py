"""What nodes were told, as the state says it after a start or its undo, by the steps of it."""

import pytest

from ai_how.clusters.told_nodes import after_start, after_undo, before_steps
from ai_how.state.models import ClusterState
from ai_how.vm_management.steps.disks import PlaceBase
from ai_how.vm_management.steps.domains import StartDomain
from ai_how.vm_management.steps.guest import AwaitAgent, GiveIdentity
from ai_how.vm_management.steps.suspend import StartFromManagedSave
from cluster_bench import draft_of, read_hpc

GPUS = "gpu: {simulated: {type: a100, count: 2}}"
NODE = "cpu_cores: 1, memory_gb: 1, disk_gb: 10"


def state_of(*nodes: str, digest: str, former: ClusterState | None = None) -> ClusterState:
    many = ", ".join(f"{{{NODE}, {one}}}" for one in nodes)
    made = draft_of(read_hpc(nodes=f"compute_nodes: [{many}]"), former).state
    return made.model_copy(update={"config_digest": digest})


PLAIN = "auto_start: true"
WAS = state_of(PLAIN, PLAIN, digest="old")
OTHER = WAS.model_copy(update={"config_digest": "new"})
WITH_GPUS = state_of(GPUS, PLAIN, GPUS, digest="new", former=WAS)
[CONTROLLER, FIRST, SECOND] = WAS.nodes
THIRD = WITH_GPUS.get_node("compute-03")


def give(one):
    return GiveIdentity(one.domain_name, one.name, one.uuid)


def boot(one, **how):
    return StartDomain(one.domain_name, one.uuid, **how)


def resume(one):
    return StartFromManagedSave(
        domain=one.domain_name, uuid=one.uuid, node=one.name, memory_mib=one.memory_mib
    )


def left(*changed, wanted=OTHER, renews_keys=False):
    return after_undo(WAS, wanted, changed, renews_keys=renews_keys)


@pytest.mark.parametrize(
    "changed",
    [
        (give(FIRST),),
        (give(CONTROLLER), boot(FIRST), give(FIRST)),
        (boot(FIRST, was_on=True), give(FIRST)),  # it was paused, and runs on
        (resume(FIRST), give(FIRST)),  # the undo saves its memory again, and what it was told
    ],
)
def test_a_node_that_keeps_what_it_was_told(changed):
    assert left(*changed) == WAS.model_copy(update={"config_digest": ""})
    assert left(*changed, wanted=None).config_digest == ""
    again = after_undo(left(*changed), OTHER, changed, renews_keys=False)
    assert again == left(*changed), "safe to repeat"


@pytest.mark.parametrize(
    "changed",
    [
        (),
        (PlaceBase("0" * 64), boot(FIRST), AwaitAgent(FIRST.domain_name, FIRST.uuid)),
        (resume(FIRST),),
        (boot(FIRST), give(FIRST)),  # it is off again, and is told when it boots
        (boot(THIRD), give(THIRD)),  # it is gone again
        (give(THIRD),),
    ],
)
def test_nobody_that_runs_on_was_told(changed):
    assert left(*changed) == WAS
    assert left(*changed, wanted=None) == WAS


def test_a_node_that_was_told_the_same_once_more():
    assert left(give(FIRST), wanted=WAS) == WAS


def test_keys_that_were_made_anew_are_known_to_nobody():
    assert left(wanted=WAS, renews_keys=True).config_digest == ""


@pytest.mark.parametrize("told", [FIRST, CONTROLLER])
def test_first_gpus_are_to_be_taken_away(told):
    """Also where the controller alone was told: a slurmctld has to forget them as well."""
    now = left(give(told), wanted=WITH_GPUS)
    assert [one.gpus for one in now.nodes] == [None, {}, None]
    assert now.as_record()["nodes"][1]["gpus"] == {}
    assert "gpus" not in now.as_record()["nodes"][2]


def test_gpus_that_a_node_had_are_what_it_has_again():
    had = state_of(GPUS, PLAIN, digest="old", former=WAS)
    other = state_of("gpu: {simulated: {type: h100, count: 1}}", GPUS, digest="new", former=had)
    now = after_undo(had, other, [give(FIRST)], renews_keys=False)
    assert [one.gpus for one in now.nodes] == [None, {"a100": 2}, {}]


def test_gpus_of_which_nobody_was_told():
    assert left(boot(FIRST), wanted=WITH_GPUS) == WAS


def untold(state: ClusterState) -> list[bool]:
    return [one.is_untold for one in state.nodes]


def test_nodes_that_a_start_does_not_tell_are_marked_until_one_does():
    some = after_start(WAS, "new", [give(CONTROLLER)], tell_all=True)
    assert some.config_digest == "new"
    assert untold(some) == [False, True, True]
    assert [one.get("is_untold") for one in some.as_record()["nodes"]] == [None, True, True]
    other = after_start(some, "new", [give(CONTROLLER), give(FIRST)], tell_all=False)
    assert untold(other) == [False, False, True]
    assert untold(after_start(other, "new", [give(SECOND)], tell_all=False)) == [False] * 3


def test_a_start_that_is_undone_leaves_the_marks():
    some = after_start(WAS, "new", [give(CONTROLLER)], tell_all=True)
    told = [resume(FIRST), give(FIRST)]
    planned = after_start(some, "new", told, tell_all=False)
    assert after_undo(some, planned, told, renews_keys=False) == some


def test_a_start_that_is_kept_leaves_the_marks_until_its_end():
    some = after_start(WAS, "new", [give(CONTROLLER)], tell_all=True)
    planned = after_start(some, "new", [give(FIRST)], tell_all=False)
    kept = before_steps(planned, some, tells=True, renews_keys=False)
    assert (kept.config_digest, untold(kept)) == ("new", [False, True, True])
    assert before_steps(OTHER, WAS, tells=True, renews_keys=False).config_digest == ""
    assert before_steps(WAS, WAS, tells=True, renews_keys=True).config_digest == ""
    assert before_steps(OTHER, WAS, tells=False, renews_keys=False).config_digest == "old"
