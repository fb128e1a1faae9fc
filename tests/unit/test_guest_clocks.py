"""A clock that is off is set anew, for as long as patience lasts."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.steps.guest import CheckClocks

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")
STEP = CheckClocks("hpc", (("compute-01", VM),))
SECOND_NS = 10**9


@dataclass
class Guest:
    """It begins an hour off, and sets the time so many seconds after it was told, in turn."""

    lags_s: list[float]
    timeouts: Timeouts = field(default_factory=Timeouts)
    stop: threading.Event = field(default_factory=threading.Event)
    offset_ns: int = 3600 * SECOND_NS
    told: int = 0
    cluster_kind: str = "hpc"

    def agent(self, uuid: UUID, name: str) -> GuestAgent:
        return GuestAgent(self, uuid, name)

    def agent_command(
        self, _uuid: UUID, command: Mapping[str, object], _timeout_s: float = 5
    ) -> object:
        match command:
            case {"execute": "guest-get-time"}:
                return time.time_ns() + self.offset_ns
            case {"execute": "guest-set-time", "arguments": {"time": now_ns}}:
                lag_ns = int(self.lags_s[min(self.told, len(self.lags_s) - 1)] * SECOND_NS)
                self.told += 1
                self.offset_ns = now_ns - lag_ns - time.time_ns()
        return {}


@pytest.mark.parametrize(("lags_s", "told"), [([0.0], 1), ([5.0, 1.5, 0.1], 3)])
def test_a_clock_that_is_off_is_set_until_it_is_right(lags_s, told):
    guest = Guest(lags_s)
    STEP.apply(guest)
    assert guest.told == told
    assert abs(guest.offset_ns) < SECOND_NS


def test_a_clock_that_is_right_is_left_alone():
    guest = Guest([0.0], offset_ns=SECOND_NS // 2)
    STEP.apply(guest)
    assert guest.told == 0


def test_a_clock_that_cannot_be_set_fails_the_start():
    with pytest.raises(GuestError, match=r"the clock of compute-01 is .* s off") as caught:
        STEP.apply(Guest([60.0], timeouts=Timeouts(clock_s=0.3)))
    assert caught.value.hint.startswith("ai-how hpc exec compute-01 -- journalctl -b -u ")
