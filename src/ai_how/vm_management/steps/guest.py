"""The steps that turn a booting VM into a node: agent, identity, clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar
from uuid import UUID

from ai_how.errors import ConnectionLostError, DeadlineError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.serial_log import find_console_cause, read_console
from ai_how.plan.step import Applied
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.nodes.clocks import read_skew_s
from ai_how.vm_management.steps.subjects import ClusterStep, DomainStep
from ai_how.waiting import Deadline

CLOCK_TOLERANCE_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AwaitAgent(DomainStep):
    """Wait until the guest agent is connected: kernel and system have booted."""

    kind: ClassVar[str] = "agent"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        try:
            self._wait(context, Deadline.after(context.timeouts.agent_s))
        except DeadlineError as error:
            if context.stop.is_set():
                raise
            raise GuestError(f"the guest agent of {self.domain} did not connect in time") from error
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing."""

    def describe(self) -> str:
        return f"wait for the guest agent of {self.domain}"

    def _wait(self, context: PlanContext, deadline: Deadline) -> None:
        node = context.node_of(self.domain)
        try:
            wait_for_guest(context, node, self.uuid, deadline)
        except GuestError:
            info = context.client.find_domain(self.uuid)
            if info is None or not info.was_ended_by_daemon:
                raise
            context.client.start_domain(self.uuid)
            wait_for_guest(context, node, self.uuid, deadline)


@dataclass(frozen=True, slots=True)
class GiveIdentity(DomainStep):
    """Set the guest's clock, unpack the node's identity and start its services."""

    kind: ClassVar[str] = "services"
    node: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        make_archive = context.archives[self.node]
        agent = context.agent(self.uuid, self.node)

        def give() -> None:
            _set_clock(agent)
            agent.check(
                ["/usr/lib/ai-how/become"],
                Deadline.after(context.timeouts.identity_s),
                stdin=make_archive(),
                stop=context.stop,
            )

        retry_if_connection_lost(give)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: the identity is on the node's disk, and is removed with it."""

    def describe(self) -> str:
        return f"give {self.node} its identity and start its services"


@dataclass(frozen=True, slots=True)
class CheckClocks(ClusterStep):
    """Check that each node's clock is within a second of the host's; set those that are not.

    munge rejects credentials of nodes whose clocks differ.
    """

    kind: ClassVar[str] = "clocks"
    nodes: tuple[tuple[str, UUID], ...]
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        deadline = Deadline.after(context.timeouts.clock_s)
        for name, uuid in self.nodes:
            agent = context.agent(uuid, name)
            while (
                skew_s := abs(retry_if_connection_lost(partial(read_skew_s, agent)))
            ) > CLOCK_TOLERANCE_S:
                # A guest that got no CPU time sets its clock to the time of the request.
                retry_if_connection_lost(partial(_set_clock, agent))
                if deadline.has_passed or context.stop.wait(0.2):
                    raise GuestError(
                        f"the clock of {name} is {skew_s:.1f} s off",
                        hint=f"ai-how {context.cluster_kind} exec {name} --"
                        " journalctl -b -u ai-how-clock -u chrony",
                    )
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing."""

    def describe(self) -> str:
        return f"compare the clocks of {len(self.nodes)} nodes"


def _set_clock(agent: GuestAgent) -> None:
    agent.set_clock(time.time_ns())


def retry_if_connection_lost(ask: Callable[[], T]) -> T:
    """Call `ask`; call it a second time if libvirtd ended before it answered.

    `ask` must be idempotent. A libvirtd that hangs is not asked again: `code` is None then.
    """
    try:
        return ask()
    except ConnectionLostError as error:
        if error.code is None:
            raise
    return ask()


LOOK_S = 2.0


def wait_for_guest(context: PlanContext, node: str, uuid: UUID, deadline: Deadline) -> None:
    """Return when the guest agent is connected.

    Raises GuestError as soon as the state of the VM or its serial log shows that it will never
    connect, and DeadlineError after the deadline or an interrupt.
    """
    while True:
        try:
            return context.wait_for_agent(uuid, deadline.sooner_of(LOOK_S))
        except DeadlineError:
            if deadline.has_passed or context.stop.is_set():
                raise
        try:
            log = context.paths.console_log(node)
            text = read_console(log, context.console_offsets.get(node, 0))
        except OSError:
            continue  # another user's libvirt may write it
        if cause := find_console_cause(text):
            raise GuestError(f"{node}: {cause}", "while waiting for its guest agent")
