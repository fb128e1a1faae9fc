"""Guests that are asked in passing, of which some hang."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from ai_how.clusters.file_systems import asked_file_systems
from ai_how.errors import AgentUnresponsiveError
from ai_how.vm_management.nodes.clocks import polled_clocks
from ai_how.waiting import Deadline, wait_until
from cluster_bench import TWO_NODES, draft_of, everything_seen, read_hpc

SEEN = everything_seen(draft_of(read_hpc(nodes=TWO_NODES.replace("count: 2", "count: 9"))))


@dataclass
class Silent:
    """A libvirt whose guests answer nothing until it is over."""

    max_calls: int
    is_over: threading.Event = field(default_factory=threading.Event)
    timeouts_s: list[float] = field(default_factory=list)

    def agent_command(
        self, _uuid: UUID, _command: Mapping[str, object], timeout_s: float = 5
    ) -> object:
        self.timeouts_s.append(timeout_s)
        self.is_over.wait(60)
        raise AgentUnresponsiveError("silent")


@pytest.mark.parametrize(("max_calls", "asked"), [(4, 2), (2, 1), (32, 10)])
def test_guests_that_hang_leave_calls_to_others_and_are_soon_given_up(max_calls, asked):
    client = Silent(max_calls)
    before = threading.active_count()
    try:
        with polled_clocks(client, SEEN.domains.values()) as skews_s:
            wait_until(lambda: len(client.timeouts_s) == asked, Deadline.after(60), "questions")
        assert skews_s == {}
        with asked_file_systems(client, SEEN):
            wait_until(lambda: len(client.timeouts_s) == 2 * asked, Deadline.after(60), "questions")
    finally:
        client.is_over.set()
    wait_until(lambda: threading.active_count() <= before, Deadline.after(60), "the last answer")
    # Nobody is asked when nobody waits any more.
    assert len(client.timeouts_s) == 2 * asked
    assert max(client.timeouts_s) <= 3
