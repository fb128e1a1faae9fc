"""The guest agents: send commands and wait for them. Part of LibvirtClient."""

import json
import math
import queue
import threading
from collections.abc import Callable, Mapping
from uuid import UUID

import libvirt

from ai_how.errors import (
    AgentUnresponsiveError,
    AiHowError,
    ConnectionLostError,
    DeadlineError,
    GuestError,
    LibvirtError,
)
from ai_how.libvirt_client.agent_answer import read_agent_answer
from ai_how.libvirt_client.domains import Domains, find_raw_domain
from ai_how.libvirt_client.error_codes import Kind, classify
from ai_how.libvirt_client.facts import PAUSED_BY_CRASH, DomainEvent, DomainInfo
from ai_how.libvirt_client.session import JOB_LOCK_S, OnEvent, Session, Subscription
from ai_how.libvirt_client.vm_state import VmState
from ai_how.waiting import Deadline

AskAgent = Callable[[libvirt.virDomain, str, int, int], str]

# Events are lost while a daemon restarts, so a wait also polls at this interval.
LOST_EVENT_S = 2.0
SLICE_S = 0.2

# The guest, not libvirt, is why a command failed: the agent refused (INTERNAL_ERROR or, newer,
# AGENT_COMMAND_FAILED), the VM does not run, or it has no channel for an agent.
GUEST_CODES = {1, 113, 55, 74}
# SYSTEM_ERROR: the channel ended while libvirt waited for an answer, as QEMU has ended.
BROKEN = 38


class Agents(Domains):
    """The part of a client for guest agents."""

    _agent_link: Session
    _ask_agent: AskAgent

    def agent_command(
        self, uuid: UUID, command: Mapping[str, object], timeout_s: float = 5
    ) -> object:
        """The answer of a guest agent to one command; sent once, since commands have effects.

        Raises AgentUnresponsiveError if it does not answer within `timeout_s`, GuestError if it
        refuses or its answer is invalid, ConnectionLostError if the answer was lost.
        """
        text = json.dumps(command)
        # Never libvirt's -2, which waits forever, nor 0, which does not wait.
        seconds = max(1, math.ceil(timeout_s))
        try:
            answer = self._agent_link.once(
                f"asking the agent of VM {uuid}",
                lambda raw: self._ask_agent(find_raw_domain(raw, uuid), text, seconds, 0),
                timeout_s=seconds + JOB_LOCK_S,
            )
        except ConnectionLostError:
            raise
        except LibvirtError as error:
            failure = _guest_failure(error, self._names.of(uuid))
            if failure is None:
                raise
            raise failure from error
        return read_agent_answer(answer)

    def is_agent_connected(self, uuid: UUID) -> bool:
        """Whether the guest's agent has opened its end of the channel; False without a VM."""
        seen = self.find_domain(uuid)
        return seen is not None and seen.is_agent_connected

    def wait_for_agent(
        self, uuid: UUID, deadline: Deadline, stop: threading.Event | None = None
    ) -> None:
        """Return when the guest agent is connected; woken by libvirt's events, not by polling.

        Raises GuestError, with state and reason, as soon as the VM is off, crashed or stuck;
        DeadlineError if the deadline passes or `stop` is set first.
        """
        news: queue.SimpleQueue[DomainEvent] = queue.SimpleQueue()
        # Listening begins before looking, so that nothing falls in between.
        with self.subscribe(news.put):
            while not _is_agent_up(self.find_domain(uuid), self._names.of(uuid)):
                _wait_for_news(news, uuid, deadline, stop, self._names.of(uuid))

    def subscribe(self, on_event: OnEvent) -> Subscription:
        """Pass each event of any VM to `on_event`, until the subscription is closed.

        `on_event` runs in libvirt's event loop: it must be quick, not raise, and not call libvirt
        (a queue's `put` is intended). Events are lost while there is no connection.
        """
        return self._link.subscribe(on_event)


def _is_agent_up(seen: DomainInfo | None, name: str) -> bool:
    """Whether the agent is connected. Raises GuestError if it can no longer connect."""
    if seen is None:
        raise GuestError(f"VM {name} is gone", "This happened while waiting for its agent.")
    # Paused by an I/O error or a crash, it stays so.
    is_stuck = seen.waits_for_disk or (
        seen.state is VmState.PAUSED and seen.reason == PAUSED_BY_CRASH
    )
    if is_stuck or seen.state is VmState.CRASHED or not seen.state.is_on:
        raise GuestError(
            f"{seen.name} is {seen.state.value.replace('_', ' ')} ({seen.reason_text})",
            "This happened while waiting for its agent.",
        )
    return seen.is_agent_connected


def _wait_for_news(
    news: "queue.SimpleQueue[DomainEvent]",
    uuid: UUID,
    deadline: Deadline,
    stop: threading.Event | None,
    name: str,
) -> None:
    """Wait for an event of this VM, or until an event may have been lost."""
    look_again = deadline.sooner_of(LOST_EVENT_S)
    while not look_again.has_passed:
        if stop and stop.is_set():
            raise DeadlineError(f"stopped waiting for the agent of VM {name}")
        try:
            event = news.get(timeout=min(SLICE_S, look_again.remaining_s))
        except queue.Empty:
            continue
        if event.uuid == uuid:
            return
    if deadline.has_passed:
        raise DeadlineError(f"timed out waiting for the agent of VM {name}")


def _guest_failure(error: LibvirtError, name: str) -> AiHowError | None:
    """What a failed command means if it is the guest's fault; None if it is libvirt's own."""
    kind = classify(error.code)
    if kind in {Kind.AGENT, Kind.BUSY} or error.code == BROKEN:
        return AgentUnresponsiveError(f"the agent of VM {name} does not answer", error.details)
    if error.code in GUEST_CODES:
        return GuestError(f"the agent of VM {name} did not run the command", error.details)
    return None
