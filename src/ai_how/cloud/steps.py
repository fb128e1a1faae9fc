"""Kubernetes' steps, for nodes that start and stop."""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from ai_how.cloud.guest import ask_api, last_wait
from ai_how.errors import AiHowError, DeadlineError, GuestError, InterruptedRunError
from ai_how.guest.agent import GuestAgent
from ai_how.plan.step import Applied, ForwardStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.steps.guest import retry_if_connection_lost
from ai_how.vm_management.steps.subjects import ClusterStep, DomainStep
from ai_how.waiting import Deadline

API_S = 60.0
DRAIN_S = 150.0
LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class SetClock(DomainStep):
    """Set the clock of a node that slept, before its leases and tokens are looked at."""

    kind: ClassVar[str] = "clock"
    node: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        agent = context.agent(self.uuid, self.node)
        retry_if_connection_lost(lambda: agent.set_clock(time.time_ns()))
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing to undo: the clock is right."""

    def describe(self) -> str:
        return f"set the clock of {self.node}"


@dataclass(frozen=True, slots=True)
class AwaitApi(DomainStep):
    """Wait until the API server of a control plane, and its etcd, say that they are healthy."""

    kind: ClassVar[str] = "api"
    node: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        agent = context.agent(self.uuid, self.node)
        _await(context, agent, f"the API server of {self.node} was not healthy in time", "healthy")
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"wait for the API server of {self.node}"


@dataclass(frozen=True, slots=True)
class ApplyManifests(ClusterStep):
    """Objects of ours are in the API: roles and add-ons. `objects` is a list of them as JSON.

    Those of `former` that we made are there no more.
    """

    kind: ClassVar[str] = "manifests"
    node: str
    uuid: UUID
    objects: str
    former: str = "[]"
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        agent = context.agent(self.uuid, self.node)
        what = "the API did not take the manifests in time"
        given = {"objects": json.loads(self.objects), "former": json.loads(self.former)}
        _await(context, agent, what, "apply", given=given)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing: they are in the cluster's own database, and go with its disks."""

    def describe(self) -> str:
        return f"apply {len(json.loads(self.objects))} manifests"


@dataclass(frozen=True, slots=True)
class AwaitReady(ClusterStep):
    """Wait until nodes are Ready, and a Pod on each has reached a Service of another one.

    `objects` is what that needs as JSON, the namespace first, and `pods` those of it that must come
    up. All are removed again.
    """

    kind: ClassVar[str] = "ready"
    node: str
    uuid: UUID
    nodes: tuple[str, ...]
    objects: str
    pods: tuple[str, ...]
    labels: str
    """The labels of each node, by its name, as JSON."""
    needs: frozenset[str] = frozenset()

    @property
    def stage(self) -> str:
        return "ready"

    def apply(self, context: PlanContext) -> Applied:
        agent = context.agent(self.uuid, self.node)
        given = {
            "objects": json.loads(self.objects),
            "pods": list(self.pods),
            "marks": json.loads(self.labels),
        }
        what = f"Kubernetes did not have {', '.join(self.nodes)} ready in time"
        _await(context, agent, what, "ready", self.nodes, given=given)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"wait until {', '.join(self.nodes)} are Ready, and run a Pod on each"


@dataclass(frozen=True, slots=True)
class DrainNodes(ForwardStep, ClusterStep):
    """Let no new Pods come to nodes that will be off, and evict those that are there."""

    kind: ClassVar[str] = "drain"
    node: str
    uuid: UUID
    nodes: tuple[str, ...]
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        """An API that does not answer must not prevent a stop, so that is no failure."""
        agent = context.agent(self.uuid, self.node)
        try:
            left = ask_api(agent, "drain", self.nodes, deadline=Deadline.after(DRAIN_S))
        except AiHowError as error:
            context.warn(f"{', '.join(self.nodes)} could not be drained: {error.brief}")
            return Applied.KEPT
        for name in _names(left):
            context.warn(f"the Pod {name} was not evicted in time: it ends with its node")
        return Applied.MADE

    def describe(self) -> str:
        return f"drain {', '.join(self.nodes)}"


def wait_for_jobs(
    context: PlanContext, node: str, uuid: UUID, nodes: Sequence[str], limit_s: float
) -> None:
    """Keep new Pods from these nodes; wait until those of Jobs have ended, or the limit is over.

    Raises InterruptedRunError if the run is interrupted. After that, and after any failure, the
    nodes that were open take Pods again.
    """
    agent = context.agent(uuid, node)
    closed: Collection[str] = ()
    try:
        closed = _names(ask_api(agent, "close", nodes, deadline=Deadline.after(API_S)))
        is_over = _wait_until_free(context, agent, nodes, Deadline.after(limit_s))
    except BaseException:
        _open(context, agent, closed)
        raise
    if not is_over:
        _open(context, agent, closed)
        raise InterruptedRunError(
            "stop was interrupted while it waited for Jobs",
            details=f"taking Pods again: {', '.join(closed)}" if closed else None,
        )


def _wait_until_free(
    context: PlanContext, agent: GuestAgent, nodes: Sequence[str], deadline: Deadline
) -> bool:
    """Wait until no Pod of a Job is left or the limit is over; False if it was interrupted."""
    told = 0
    while jobs := _names(ask_api(agent, "jobs", nodes, deadline=Deadline.after(API_S))):
        if len(jobs) != told:
            told = len(jobs)
            context.warn(f"waiting for {', '.join(jobs)}")
        if deadline.has_passed:
            context.warn("the time limit of the wait has passed")
            return True
        if context.stop.wait(deadline.sooner_of(LOOK_S).remaining_s):
            return False
    return True


def _open(context: PlanContext, agent: GuestAgent, nodes: Collection[str]) -> None:
    if not nodes:
        return
    try:
        ask_api(agent, "open", tuple(nodes), deadline=Deadline.after(API_S))
    except AiHowError:
        remedy = f"ai-how cloud kubectl -- uncordon {' '.join(nodes)}"
        context.warn(f"{', '.join(nodes)} may still take no Pods; to let them: {remedy}")


def _await(
    context: PlanContext,
    agent: GuestAgent,
    what: str,
    verb: str,
    names: Sequence[str] = (),
    *,
    given: object = None,
) -> None:
    """Ask until the answer is there. Raises GuestError, with what was waited for, after that."""
    deadline = Deadline.after(context.timeouts.ready_s)

    def ask() -> object:
        return ask_api(agent, verb, names, deadline=deadline, given=given, stop=context.stop)

    try:
        retry_if_connection_lost(ask)
    except DeadlineError as error:
        if context.stop.is_set():
            raise
        raise GuestError(
            what,
            details=last_wait(agent) or None,
            hint=f"ai-how {context.cluster_kind} logs {agent.name}",
        ) from error


def _names(answer: object) -> tuple[str, ...]:
    """The names of an answer; what is no text is left out."""
    if not isinstance(answer, list):
        return ()
    return tuple(one for one in answer if isinstance(one, str) and one.isprintable())
