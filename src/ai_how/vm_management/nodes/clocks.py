"""The clocks of guests beside the host's, and what is said of one that is off."""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from uuid import UUID

from ai_how.guest.agent import ASK_TIMEOUT_S, LOOK_S, GuestAgent
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.vm_management.nodes.polling import ask_guests

# A guest sets its clock by itself when it is off by seconds, and may be one off afterwards.
TOLERANCE_S = 5.0
# A guest that is asked for the time and does not say it is no reason to wait for a status.
ANSWER_S = 2.0


def read_skew_s(agent: GuestAgent, timeout_s: float = ASK_TIMEOUT_S) -> float:
    """By how much a guest's clock is ahead at least: it was read at some moment between two looks.

    Negative where it is behind, zero where it may be right.
    """
    before = time.time_ns()
    guest = agent.read_clock_ns(timeout_s)
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


def polled_clocks(
    client: LibvirtClient, domains: Iterable[DomainInfo]
) -> AbstractContextManager[Mapping[UUID, float]]:
    """Ask all guests for their time while the body runs; whoever has answered then is in there."""
    ask = partial(read_skew_s, timeout_s=LOOK_S)
    return ask_guests(client, domains, ask, grace_s=ANSWER_S)
