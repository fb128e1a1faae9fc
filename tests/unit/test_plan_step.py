"""A plan that could not be carried out is not a plan."""

import pytest
from plan_world import Put, cluster_plan

from ai_how.plan.step import Plan


def test_a_plan_keeps_its_steps_in_the_order_given():
    assert [step.key for step in cluster_plan(1).steps] == [
        "network",
        "base",
        "disk-0",
        "domain-0",
        "ready-0",
    ]


def test_an_empty_plan_is_a_plan():
    assert Plan("start", ()).steps == ()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Put("a"), Put("a")), "start: two steps have the key a"),
        ((Put("a", ("b",)),), "start: a needs b: no such step"),
        ((Put("a", ("a",)),), "start: a needs a, which does not come before it"),
        ((Put("a", ("b",)), Put("b")), "start: a needs b, which does not come before it"),
        ((Put("a", ("b",)), Put("b", ("a",))), "start: a needs b, which does not come before it"),
    ],
    ids=["twice", "unknown", "itself", "late", "circle"],
)
def test_a_plan_that_cannot_be_carried_out_is_rejected(steps, message):
    with pytest.raises(ValueError, match=message):
        Plan("start", steps)
