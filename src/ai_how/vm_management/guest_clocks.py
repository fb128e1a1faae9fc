"""The clocks of guests beside the host's, and what is said of one that is off."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from ai_how.errors import AiHowError
from ai_how.guest.agent import GuestAgent
from ai_how.plan.crew import Crew
from ai_how.state.models import VmState
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.seen import DomainSeen
from ai_how.waiting import Deadline

# A guest sets its clock by itself when it is off by seconds, and may be one off afterwards.
TOLERANCE_S = 5.0
# A guest that is asked for the time and does not say it is no reason to wait for a status.
ANSWER_S = 2.0
MAX_THREADS = 16


def read_skew_s(agent: GuestAgent) -> float:
    """By how much a guest's clock is ahead at least: it was read at some moment between two looks.

    Negative where it is behind, zero where it may be right.
    """
    before = time.time_ns()
    guest = agent.read_clock_ns()
    after = time.time_ns()
    return (min(guest - before, 0) + max(guest - after, 0)) / 1e9


def is_off(skew_s: float) -> bool:
    """Whether a clock is so far off that somebody should know."""
    return abs(skew_s) > TOLERANCE_S


def describe_skew(skew_s: float) -> str:
    """`20 min 3 s behind`."""
    seconds = round(abs(skew_s))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return f"{' '.join(parts[:2]) or '0 s'} {'ahead' if skew_s > 0 else 'behind'}"


@contextmanager
def watched_clocks(
    client: LibvirtClient, domains: Iterable[DomainSeen]
) -> Iterator[Mapping[UUID, float]]:
    """Ask all guests for their time while the body runs; whoever has answered then is in there."""
    asked = [one for one in domains if one.state is VmState.RUNNING and one.is_agent_connected]
    skews_s: dict[UUID, float] = {}
    if not asked:
        yield skews_s
        return

    def ask(one: DomainSeen) -> None:
        skews_s[one.uuid] = read_skew_s(GuestAgent(client, one.uuid, one.name))

    crew = Crew[None](min(MAX_THREADS, len(asked)))
    for one in asked:
        crew.submit(one.name, partial(ask, one))
    crew.dismiss()
    yield skews_s
    deadline, left = Deadline.after(ANSWER_S), len(asked)
    while left and not deadline.has_passed:
        for ended in crew.wait(deadline.remaining_s):
            left -= 1
            if ended.error and not isinstance(ended.error, AiHowError):
                raise ended.error
