"""Calls the agents of many guests in parallel, while the caller does other work."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import TypeVar
from uuid import UUID

from ai_how.errors import AiHowError
from ai_how.guest.agent import GuestAgent
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.daemon_pool import DaemonPool
from ai_how.waiting import Deadline

MAX_THREADS = 16
# Of the client's parallel calls, so many stay free for other callers if agents hang.
RESERVED_CALLS = 2

T = TypeVar("T")


@contextmanager
def ask_guests(
    client: LibvirtClient,
    domains: Iterable[DomainInfo],
    ask: Callable[[GuestAgent], T],
    *,
    grace_s: float,
) -> Iterator[dict[UUID, T]]:
    """Call `ask` for every running guest while the block runs, and up to `grace_s` seconds longer.

    The dict has the answers by the UUID of the VM, after the block. A guest that does not answer in
    time, or answers with an error of ours, is left out. Guests that were not asked in time are
    never asked. Any other error of `ask` is raised.
    """
    running = [
        domain
        for domain in domains
        if domain.state is VmState.RUNNING and domain.is_agent_connected
    ]
    answers: dict[UUID, T] = {}
    if not running:
        yield answers
        return
    is_over = Event()

    def in_time(agent: GuestAgent) -> T | None:
        return None if is_over.is_set() else ask(agent)

    threads = min(MAX_THREADS, len(running), max(1, client.max_calls - RESERVED_CALLS))
    pool = DaemonPool[T | None](threads)
    for domain in running:
        pool.submit(
            str(domain.uuid), partial(in_time, GuestAgent(client, domain.uuid, domain.name))
        )
    pool.release_threads()
    try:
        yield answers
        deadline, left = Deadline.after(grace_s), len(running)
        while left and not deadline.has_passed:
            for ended in pool.wait(deadline.remaining_s):
                left -= 1
                if ended.error is None and ended.result is not None:
                    answers[UUID(ended.key)] = ended.result
                elif ended.error is not None and not isinstance(ended.error, AiHowError):
                    raise ended.error
    finally:
        is_over.set()
