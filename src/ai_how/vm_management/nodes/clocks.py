"""Compares the clocks of guests with the host's."""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from uuid import UUID

from ai_how.guest.agent import ASK_TIMEOUT_S, LOOK_S, GuestAgent
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.vm_management.nodes.polling import ask_guests

# A guest corrects a clock that is off by seconds by itself, to within a second.
TOLERANCE_S = 5.0
# A status does not wait longer than this for the answer of a guest.
ANSWER_S = 2.0


def read_skew_s(agent: GuestAgent, timeout_s: float = ASK_TIMEOUT_S) -> float:
    """The skew of a guest's clock in seconds: positive if it is ahead, negative if it is behind.

    The host's clock is read before and after. The result is the smallest skew that explains both
    readings: zero if the clock may be right.
    """
    before = time.time_ns()
    guest = agent.read_clock_ns(timeout_s)
    after = time.time_ns()
    return (min(guest - before, 0) + max(guest - after, 0)) / 1e9


def is_off(skew_s: float) -> bool:
    """Whether a skew is large enough to be reported."""
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
    """Read the skew of all guests while the block runs; the result has those that answered."""
    ask = partial(read_skew_s, timeout_s=LOOK_S)
    return ask_guests(client, domains, ask, grace_s=ANSWER_S)
