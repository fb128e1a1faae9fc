"""How signs become findings over time: since when, without flapping, and with gaps."""

from dataclasses import replace

from ai_how.clusters.diagnosis.catalogue import CATALOGUE
from ai_how.hpc.catalogue import CATALOGUE as ALL
from ai_how.hpc.kind import SLURM
from ai_how.monitoring.health import RULES, judge_of
from ai_how.monitoring.judging import HELD_S, Judge, Look, Rule, Sign
from ai_how.monitoring.model import SourceState
from ai_how.monitoring.past import LENGTH_S, Past
from ai_how.monitoring.store_watch import StoreWatch
from snapshots import keep_looking, later, silent, sound, told, with_guest, with_vm

NODE = "compute-01"
DEAD = {"munge": "failed"}
WELL = {"munge": "active"}


def test_a_finding_remembers_its_first_sight():
    judge, seen = judge_of(SLURM), sound()
    judge.judge(seen)
    first = later(with_guest(seen, NODE, services=DEAD))
    seen, found = keep_looking(judge, first, 300)
    assert [one.since for one in found] == [first.at]


def test_a_finding_that_comes_and_goes_is_one():
    judge, seen, sinces = judge_of(SLURM), sound(), set()
    for step in range(40):
        state = DEAD if step % 2 == 0 else WELL
        found = judge.judge(with_guest(seen, NODE, services=state))
        assert told(found) == {("munge-down", NODE)}
        sinces |= {one.since for one in found}
        seen = later(seen)
    assert len(sinces) == 1


def test_a_finding_is_over_when_nothing_was_seen_of_it_for_a_while():
    judge, seen = judge_of(SLURM), with_guest(sound(), NODE, services=DEAD)
    judge.judge(seen)
    well = later(with_guest(seen, NODE, services=WELL))
    assert judge.judge(well) != ()
    assert keep_looking(judge, well, 15)[1] == ()
    again = later(with_guest(well, NODE, services=DEAD), 60)
    assert [one.since for one in judge.judge(again)] == [again.at]


def test_a_finding_whose_source_is_silent_stays_and_says_so():
    judge, seen = judge_of(SLURM), with_guest(sound(), NODE, services=DEAD)
    judge.judge(seen)
    quiet = silent(later(seen, 300), f"guest/{NODE}", for_s=300)
    found = {one.id: one for one in judge.judge(quiet)}
    assert found["munge-down"].since == seen.at
    assert found["munge-down"].evidence[-1] == "last seen 300 s ago: its source is silent"
    found = judge.judge(silent(later(quiet, HELD_S), f"guest/{NODE}", for_s=300 + HELD_S))
    assert "munge-down" not in {one.id for one in found}


def test_what_a_guest_said_ends_with_its_vm():
    judge, seen = judge_of(SLURM), with_guest(sound(), NODE, services=DEAD)
    judge.judge(seen)
    off = silent(later(seen, 120), f"guest/{NODE}", for_s=120)
    off = with_vm(off, NODE, state="shut_off", reason="crashed")
    assert told(judge.judge(off)) == {("qemu-ended", NODE)}


def test_while_a_verb_switches_nodes_nothing_new_is_found():
    judge, seen = judge_of(SLURM), sound()
    judge.judge(seen)
    ill = later(with_guest(seen, NODE, services=DEAD))
    assert judge.judge(replace(ill, doing="hpc start")) == ()
    assert judge.judge(replace(later(ill), doing="hpc provision")) != ()
    assert judge.judge(replace(later(ill, 10), doing="hpc stop")) != (), "what was found stays"


def test_a_clock_that_was_set_back_leaves_no_finding_in_the_future():
    judge, seen = judge_of(SLURM), with_guest(sound(), NODE, services=DEAD)
    judge.judge(seen)
    back = later(seen, -7200)
    assert [one.since for one in judge.judge(back)] == [back.at]
    assert judge.judge(later(with_guest(back, NODE, services=WELL), 30)) == ()


def test_every_id_of_a_rule_is_in_the_catalogue_and_two_rules_share_none_by_chance():
    assert set(CATALOGUE) < set(ALL)
    assert judge_of(object())
    assert len(RULES) > 10


def test_a_sign_with_an_explanation_is_no_finding():
    def cause(_look: Look) -> list[Sign]:
        return [Sign(id="vm-paused", subject=NODE, text="it is paused")]

    def effect(_look: Look) -> list[Sign]:
        return [
            Sign(id="agent-silent", subject=name, text="it is silent") for name in (NODE, "other")
        ]

    rules = (
        Rule(find=effect, reads="libvirt", unless=frozenset({"vm-paused"})),
        Rule(find=cause, reads="libvirt"),
    )
    found = Judge(rules, CATALOGUE, is_single=True).judge(sound())
    assert told(found) == {("vm-paused", NODE), ("agent-silent", "other")}


def test_the_past_is_bounded_and_knows_no_rate_of_a_moment():
    past = Past()
    for second in range(0, 7200, 5):
        past.begin(float(second))
        past.note("figure", float(second), second * 2.0)
    assert past.rate("figure") == 2.0
    points = past._figures["figure"].points
    assert len(points) <= LENGTH_S / 60 + 2
    young = Past()
    young.note("figure", 0.0, 1.0)
    young.note("figure", 100.0, 2.0)
    assert young.rate("figure") is None


def test_a_clock_that_was_set_back_empties_the_past():
    past = Past()
    past.begin(1000.0)
    past.note("figure", 1000.0, 1.0)
    past.begin(10.0)
    assert past.last("figure") is None


def test_a_collector_that_cannot_write_what_it_sees_says_so(tmp_path):
    watch = StoreWatch(tmp_path / "history.sqlite")
    broken = SourceState(name="history", every_s=60, trouble="database or disk is full")
    seen = sound()
    assert watch.judge(seen, broken) == seen, "it may be over in a moment"
    [found] = watch.judge(later(seen, 90), broken).findings
    assert (found.id, found.subject, found.since) == ("source-silent", "history", seen.at)
    assert found.evidence == ("database or disk is full",)
    assert found.remedy == f"df -h {tmp_path}"
    assert watch.judge(later(seen, 95), replace(broken, trouble=None)).findings == ()
    assert watch.judge(later(seen, 100), broken).findings == ()
