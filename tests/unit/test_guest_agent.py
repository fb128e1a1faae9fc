"""The agent as a control channel: programs run in a guest, and no answer of a guest is trusted."""

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from uuid import UUID

import pytest

from ai_how.errors import AgentUnresponsiveError, DeadlineError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.libvirt_client.agent_answer import read_agent_answer
from ai_how.waiting import Deadline

ID = UUID("11111111-1111-4111-8111-111111111111")
GARBAGE = [None, True, 7, "text", [], [{"pid": 1}], {}, {"pid": None}, {"pid": "7"}, {"pid": True}]


def base64_of(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return base64.b64encode(data).decode()


class Guest:
    """A channel whose guest gives these answers; of a tuple one after the other."""

    def __init__(self, **answers: object) -> None:
        self.answers = {name.replace("_", "-"): value for name, value in answers.items()}
        self.asked: list[tuple[str, Mapping[str, object], float]] = []

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        assert uuid == ID
        name = str(command["execute"])
        self.asked.append((name, command.get("arguments", {}), timeout_s))
        answer = self.answers[name]
        if isinstance(answer, tuple):
            answer, *later = answer
            self.answers[name] = tuple(later)
        if isinstance(answer, Exception):
            raise answer
        return answer() if isinstance(answer, Callable) else answer


def agent_of(**answers: object) -> tuple[GuestAgent, Guest]:
    guest = Guest(**{"guest_exec": {"pid": 7}, **answers})
    return GuestAgent(guest, ID, "compute-01"), guest


def ended(**fields: object) -> dict[str, object]:
    return {"exited": True, "exitcode": 0, **fields}


def soon() -> Deadline:
    return Deadline.after(60)


def test_a_program_runs_to_its_end():
    agent, guest = agent_of(
        guest_exec_status=(
            {"exited": False},
            ended(**{"out-data": base64_of("out\n"), "err-data": base64_of("err"), "exitcode": 3}),
        )
    )
    done = agent.run(["/bin/ls", "-l"], soon(), stdin=b"\x00in", poll_s=0.001)
    assert (done.exit_code, done.output, done.errors) == (3, "out\n", "err")
    name, arguments, _ = guest.asked[0]
    assert name == "guest-exec"
    assert arguments == {
        "path": "/bin/ls",
        "arg": ["-l"],
        "capture-output": True,
        "input-data": base64_of(b"\x00in"),
    }
    json.dumps(arguments)
    assert [one[1] for one in guest.asked[1:]] == [{"pid": 7}] * 2


def test_a_program_that_a_signal_ended_has_no_good_exit_code():
    agent, _ = agent_of(guest_exec_status={"exited": True, "signal": 9})
    assert agent.run(["/bin/ls"], soon()).exit_code == -1


def test_output_that_is_no_text_is_shown_all_the_same():
    agent, _ = agent_of(guest_exec_status=ended(**{"out-data": base64_of(b"a\xffb")}))
    assert agent.run(["/bin/ls"], soon()).output == "a\N{REPLACEMENT CHARACTER}b"


def test_check_gives_the_output_or_the_end_of_what_went_wrong():
    agent, _ = agent_of(guest_exec_status=ended(**{"out-data": base64_of("fine")}))
    assert agent.check(["/bin/ls"], soon()) == "fine"
    long = "x" * 5000 + " no such unit"
    agent, _ = agent_of(guest_exec_status=ended(exitcode=1, **{"err-data": base64_of(long)}))
    with pytest.raises(GuestError) as caught:
        agent.check(["/bin/ls"], soon())
    assert caught.value.brief == "/bin/ls failed in compute-01 (exit code 1)"
    assert caught.value.details == long[-2000:]


@pytest.mark.fault("S22", "a program that hangs")
def test_a_program_that_hangs_is_given_up_at_the_deadline():
    agent, _ = agent_of(guest_exec_status={"exited": False})
    with pytest.raises(DeadlineError, match="timed out waiting for the end of /bin/sleep"):
        agent.run(["/bin/sleep"], Deadline.after(0.05), poll_s=0.001)


def test_a_wish_to_stop_ends_the_wait():
    stop = threading.Event()
    agent, _ = agent_of(guest_exec_status=lambda: stop.set() or {"exited": False})
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="stopped waiting for the end of /bin/sleep"):
        agent.run(["/bin/sleep"], Deadline.after(600), stop=stop, poll_s=600)
    assert time.monotonic() - began < 60


def test_what_must_fail_earlier_can():
    def look() -> None:
        raise GuestError("the VM is off")

    agent, _ = agent_of(guest_exec_status={"exited": False})
    with pytest.raises(GuestError, match="the VM is off"):
        agent.run(["/bin/sleep"], soon(), on_wait=look)


def test_no_single_answer_is_waited_for_longer_than_the_deadline():
    agent, guest = agent_of(guest_exec_status=ended())
    agent.run(["/bin/ls"], Deadline.after(4))
    agent.run(["/bin/ls"], Deadline.after(4000))
    agent.run(["/bin/ls"], Deadline.after(0))
    waits = [timeout_s for _, _, timeout_s in guest.asked[::2]]
    assert 1 <= waits[0] <= 4
    assert waits[1:] == [20.0, 1.0]


def test_the_agents_own_errors_pass_through():
    error = GuestError("refused")
    for answers in ({"guest_exec": error}, {"guest_exec_status": error}):
        agent, _ = agent_of(**answers)
        with pytest.raises(GuestError, match="refused"):
            agent.run(["/bin/ls"], soon())
    agent, _ = agent_of(guest_exec=AgentUnresponsiveError("gone"))
    with pytest.raises(AgentUnresponsiveError, match="gone"):
        agent.run(["/bin/ls"], soon())


def test_a_program_outlives_an_agent_that_is_silent_until_the_deadline_ends_it():
    agent, guest = agent_of(guest_exec_status=AgentUnresponsiveError("gone"))
    with pytest.raises(DeadlineError, match="the end of /bin/ls in compute-01"):
        agent.run(["/bin/ls"], Deadline.after(1))
    last = guest.asked[-1]
    assert "kill" in str(last)


@pytest.mark.fault("S22", "garbage for a pid")
@pytest.mark.parametrize("answer", GARBAGE, ids=repr)
def test_garbage_instead_of_a_pid_is_the_guests_failure(answer):
    agent, _ = agent_of(guest_exec=answer)
    with pytest.raises(GuestError, match="gave an invalid answer"):
        agent.run(["/bin/ls"], soon())


@pytest.mark.fault("S22", "garbage for an end")
@pytest.mark.parametrize(
    "answer",
    [
        *(None, 7, [], {}, {"exited": 1}, {"exited": "yes"}),
        ended(exitcode="0"),
        ended(exitcode=None),
        ended(exitcode=True),
        *(ended(**{"out-data": bad}) for bad in ("*", "AAA", "ä", 7, None, ["QQ=="], True)),
        ended(**{"err-data": "QQ==="}),
    ],
    ids=repr,
)
def test_garbage_instead_of_an_end_is_the_guests_failure(answer):
    agent, _ = agent_of(guest_exec_status=answer)
    with pytest.raises(GuestError, match="gave an invalid answer"):
        agent.run(["/bin/ls"], soon())


@pytest.mark.fault("S22", "an answer of more than 1 MiB")
def test_an_oversized_answer_is_refused_unread():
    text = json.dumps({"return": ended(**{"out-data": base64_of("x" * 2**20)})})
    agent, _ = agent_of(guest_exec_status=lambda: read_agent_answer(text))
    with pytest.raises(GuestError, match="sent more than 1 MiB in one answer"):
        agent.run(["/bin/ls"], soon())


@pytest.mark.fault("S22", "a clock that is no number")
def test_the_clock_is_a_number_or_a_failure():
    agent, _ = agent_of(guest_get_time=1_700_000_000_000_000_000)
    assert agent.read_clock_ns() == 1_700_000_000_000_000_000
    for answer in ("1700000000", None, 1.5, True, {}, -1, 2**63, 10**400):
        agent, _ = agent_of(guest_get_time=answer)
        with pytest.raises(GuestError, match="compute-01 does not report its time"):
            agent.read_clock_ns()


def test_setting_the_clock_passes_over_the_missing_hardware_clock_but_not_over_silence():
    agent, guest = agent_of(guest_set_time=GuestError("hwclock failed"))
    agent.set_clock(5)
    assert guest.asked[0][:2] == ("guest-set-time", {"time": 5})
    agent, _ = agent_of(guest_set_time=AgentUnresponsiveError("silent"))
    with pytest.raises(AgentUnresponsiveError, match="silent"):
        agent.set_clock(5)


def test_shutting_down_is_asked_of_systemd():
    agent, guest = agent_of(guest_exec={"pid": 1})
    agent.shut_down()
    assert guest.asked[0][1] == {"path": "/usr/bin/systemctl", "arg": ["poweroff"]}
