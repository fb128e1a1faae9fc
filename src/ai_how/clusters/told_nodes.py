"""What nodes were told of the configuration of their cluster, as its state says it (pure).

An undo takes nothing out of a guest: a node that runs on keeps the configuration that it was told.
"""

from collections.abc import Collection

from ai_how.plan.step import Step
from ai_how.state.models import ClusterState, NodeState
from ai_how.vm_management.steps.domains import StartDomain
from ai_how.vm_management.steps.guest import GiveIdentity
from ai_how.vm_management.steps.suspend import StartFromManagedSave


def after_start(
    state: ClusterState, digest: str, steps: Collection[Step], *, tell_all: bool
) -> ClusterState:
    """The state after a start with these steps, whose nodes are to have this `digest`.

    With `tell_all` all were to be told. Nodes that no step tells are marked: they may be suspended,
    and would go on with the former configuration.
    """
    told = {step.uuid for step in steps if isinstance(step, GiveIdentity)}
    nodes = tuple(
        one.model_copy(update={"is_untold": one.uuid not in told and (tell_all or one.is_untold)})
        for one in state.nodes
    )
    return state.model_copy(update={"config_digest": digest, "nodes": nodes})


def before_steps(
    wanted: ClusterState, previous: ClusterState | None, *, tells: bool, renews_keys: bool
) -> ClusterState:
    """The state during a start that is kept if it fails; `wanted` is the state after it.

    If it `tells` nodes anything new, nobody knows after a failure which of them have it.
    """
    digest = previous.config_digest if previous else ""
    if renews_keys or (tells and digest != wanted.config_digest):
        digest = ""
    known = {one.uuid: one for one in previous.nodes} if previous else {}
    nodes = tuple(
        one.model_copy(update={"is_untold": True})
        if one.uuid in known and known[one.uuid].is_untold
        else one
        for one in wanted.nodes
    )
    return wanted.model_copy(update={"config_digest": digest, "nodes": nodes})


def after_undo(
    state: ClusterState,
    wanted: ClusterState | None,
    changed: Collection[Step],
    *,
    renews_keys: bool,
) -> ClusterState:
    """The state of a cluster whose start was undone; `state` itself if no node was told anything.

    `changed` are the steps of the start that may have changed something, and `wanted` is the state
    that it would have left: None if it is not known. With `renews_keys`, keys that were lost were
    created anew. Safe to repeat.
    """
    known = {one.uuid for one in state.nodes}
    told = known & {step.uuid for step in changed if isinstance(step, GiveIdentity)}
    update: dict[str, object] = {}
    is_new = wanted is None or wanted.config_digest != state.config_digest
    if renews_keys or (is_new and told - _ended(changed)):
        update["config_digest"] = ""
    # Each node's share of the GPUs is on its disk, and the controller has that of all.
    if wanted and told:
        update["nodes"] = tuple(_with_gpus(one, wanted) for one in state.nodes)
    return state.model_copy(update=update)


def _ended(changed: Collection[Step]) -> set[object]:
    """The nodes that the start booted, so that its undo powered them off.

    They are told again when they boot. A suspended node is not: its undo saved its memory again.
    """
    return {
        step.uuid
        for step in changed
        if isinstance(step, StartDomain)
        and not (step.was_on or isinstance(step, StartFromManagedSave))
    }


def _with_gpus(one: NodeState, wanted: ClusterState) -> NodeState:
    """The node; if it was to get its first simulated GPUs, as one that has none any more."""
    new = wanted.find_node(one.name)
    if one.gpus is None and new and new.gpus is not None:
        return one.model_copy(update={"gpus": {}})
    return one
