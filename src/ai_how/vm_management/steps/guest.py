"""The steps that bring the nodes of a cluster up: agent, identity, clocks."""

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
    """The guest's agent answers: the kernel and the image's system are up."""

    kind: ClassVar[str] = "agent"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        try:
            self._wait(world, Deadline.after(world.timeouts.agent_s))
        except DeadlineError as error:
            if world.stop.is_set():
                raise
            raise GuestError(f"the guest agent of {self.domain} did not come in time") from error
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"wait for the guest agent of {self.domain}"

    def _wait(self, world: PlanContext, deadline: Deadline) -> None:
        node = world.node_of(self.domain)
        try:
            wait_for_guest(world, node, self.uuid, deadline)
        except GuestError:
            seen = world.client.find_domain(self.uuid)
            if seen is None or not seen.was_ended_by_daemon:
                raise
            world.client.start_domain(self.uuid)
            wait_for_guest(world, node, self.uuid, deadline)


@dataclass(frozen=True, slots=True)
class GiveIdentity(DomainStep):
    """The node knows who it is, and its services are starting."""

    kind: ClassVar[str] = "services"
    node: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        make_archive = world.archives[self.node]
        agent = world.agent(self.uuid, self.node)

        def tell() -> None:
            _set_clock(agent)
            agent.check(
                ["/usr/lib/ai-how/become"],
                Deadline.after(world.timeouts.identity_s),
                stdin=make_archive(),
                stop=world.stop,
            )

        retry_if_connection_lost(tell)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """It goes with the node's disk; a node that keeps its disk keeps its identity."""

    def describe(self) -> str:
        return f"give {self.node} its identity and start its services"


@dataclass(frozen=True, slots=True)
class CheckClocks(ClusterStep):
    """Every node's clock agrees with the host's, else munge would refuse what they sign.

    One that does not is set anew.
    """

    kind: ClassVar[str] = "clocks"
    nodes: tuple[tuple[str, UUID], ...]
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        deadline = Deadline.after(world.timeouts.clock_s)
        for name, uuid in self.nodes:
            agent = world.agent(uuid, name)
            while (
                skew_s := abs(retry_if_connection_lost(partial(read_skew_s, agent)))
            ) > CLOCK_TOLERANCE_S:
                # Told the time, a guest that waited for a processor has set that of then.
                retry_if_connection_lost(partial(_set_clock, agent))
                if deadline.has_passed or world.stop.wait(0.2):
                    raise GuestError(
                        f"the clock of {name} is {skew_s:.1f} s off",
                        hint=f"ai-how {world.cluster_kind} exec {name} --"
                        " journalctl -b -u ai-how-clock -u chrony",
                    )
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"compare the clocks of {len(self.nodes)} nodes"


def _set_clock(agent: GuestAgent) -> None:
    agent.set_clock(time.time_ns())


def retry_if_connection_lost(ask: Callable[[], T]) -> T:
    """What `ask` returns: done once more where a libvirtd that ended took the answer with it.

    Only for what may be done twice. From a libvirtd that is silent no answer would come again.
    """
    try:
        return ask()
    except ConnectionLostError as error:
        if error.code is None:
            raise
    return ask()


LOOK_S = 2.0


def wait_for_guest(world: PlanContext, node: str, uuid: UUID, deadline: Deadline) -> None:
    """Return once the guest's agent is there.

    Raises GuestError as soon as its VM or its serial line says that it never will be, and
    DeadlineError where the deadline passes, or the run is to stop.
    """
    while True:
        try:
            return world.wait_for_agent(uuid, deadline.sooner_of(LOOK_S))
        except DeadlineError:
            if deadline.has_passed or world.stop.is_set():
                raise
        try:
            log = world.paths.console_log(node)
            said = read_console(log, world.console_offsets.get(node, 0))
        except OSError:
            continue  # of a libvirt that runs as another user
        if cause := find_console_cause(said):
            raise GuestError(f"{node}: {cause}", "its agent was waited for")
