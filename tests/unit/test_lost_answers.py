"""What is told to a guest is told again where a libvirtd that ended took the answer with it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from uuid import UUID

import pytest

from ai_how.errors import ConnectionLostError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.hpc.steps import AwaitReady
from ai_how.plan.step import Applied
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.steps.guest import CheckClocks, GiveIdentity
from ai_how.waiting import Deadline

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")
STEPS = {
    "identity": GiveIdentity("hpc-compute-01", "compute-01", VM),
    "clocks": CheckClocks("hpc", (("compute-01", VM),)),
    "ready": AwaitReady("hpc", VM, ("compute-01",), "main", "nfs"),
}


def lost(code: int | None = 38) -> ConnectionLostError:
    error = ConnectionLostError("no connection to libvirt")
    error.code = code
    return error


@dataclass
class Guest:
    """A guest whose answer to the nth command is lost, having done what it was told."""

    nth: int
    code: int | None = 38
    programs: int = 0
    asked: int = 0
    told_end: set[object] = field(default_factory=set)

    def agent_command(
        self, _uuid: UUID, command: Mapping[str, object], _timeout_s: float = 5
    ) -> object:
        self.asked += 1
        answer = self._answer(command)
        if self.asked == self.nth:
            raise lost(self.code)
        return answer

    def _answer(self, command: Mapping[str, object]) -> object:
        match command:
            case {"execute": "guest-get-time"}:
                return time.time_ns()
            case {"execute": "guest-exec"}:
                self.programs += 1
                return {"pid": self.programs}
            case {"execute": "guest-exec-status", "arguments": {"pid": pid}}:
                if pid in self.told_end:
                    raise GuestError("PID does not exist")
                self.told_end.add(pid)
                return {"exited": True, "exitcode": 0}
        return {}

    def world(self) -> SimpleNamespace:
        return SimpleNamespace(
            agent=lambda uuid, name: GuestAgent(self, uuid, name),
            archives={"compute-01": lambda: b""},
            timeouts=Timeouts(),
            stop=None,
        )


@pytest.mark.fault("F27", "the nth answer of a guest's agent is lost")
@pytest.mark.parametrize("name", STEPS)
def test_a_step_goes_on_whichever_answer_is_lost(name: str, points) -> None:
    whole = Guest(nth=0)
    assert STEPS[name].apply(whole.world()) is Applied.MADE
    for nth in range(1, whole.asked + 1):
        assert STEPS[name].apply(Guest(nth).world()) is Applied.MADE
        points(1)


def test_a_libvirtd_that_is_silent_is_not_told_again() -> None:
    guest = Guest(1, code=None)
    with pytest.raises(ConnectionLostError):
        STEPS["identity"].apply(guest.world())
    assert guest.asked == 1


def test_how_a_program_ended_is_not_known_where_that_answer_was_lost() -> None:
    guest = Guest(2)
    with pytest.raises(ConnectionLostError):
        GuestAgent(guest, VM, "compute-01").run(["/bin/true"], Deadline.after(30))
    assert guest.programs == 1
