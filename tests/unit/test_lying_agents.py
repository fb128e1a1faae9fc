"""Guests whose agents hang, flood and lie: what we ask them ends in time, and does no harm."""

import base64
import json
import time
import tracemalloc
from collections.abc import Callable, Mapping
from uuid import UUID

import pytest

from ai_how.clusters.observation import observe
from ai_how.clusters.status import status_of
from ai_how.errors import AgentUnresponsiveError, DeadlineError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.agent_answer import read_agent_answer
from ai_how.libvirt_client.vm_state import VmState
from ai_how.waiting import Deadline
from cluster_bench import domain_seen, draft_of, network_seen, read_hpc
from fake_libvirt import FakeLibvirt

ID = UUID("11111111-1111-4111-8111-111111111111")
MIB = 1 << 20
DRAFT = draft_of(read_hpc())


def answer(value: object) -> str:
    return json.dumps({"return": value})


def ended(**fields: object) -> str:
    return answer({"exited": True, "exitcode": 0, **fields})


def of_text(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    return ended(**{"out-data": base64.b64encode(data).decode()})


# What the wire carries: libvirt hands us the agent's text as it came.
HOSTILE: dict[str, str] = {
    "10 MiB": answer("x" * 10 * MIB),
    "10 MiB of nesting": '{"return": ' + "[" * 10 * MIB,
    "nested 900 deep": answer(None).replace("null", "[" * 900 + "]" * 900),
    "a number of a million digits": '{"return": ' + "9" * 1_000_000 + "}",
    "half a JSON": '{"return": {"pid": 1',
    "two answers": answer({"pid": 1}) * 2,
    "no JSON": "\x00\xff\x1b]0;owned\x07",
    "an empty line": "\n",
    "keys given twice": '{"return": {"pid": 1, "pid": 2}}',
    "not a number": '{"return": {"pid": NaN}}',
    "an error": '{"error": {"class": "GenericError", "desc": "\\u001b[31mno"}}',
    "an error of no shape": '{"error": ["no"]}',
    "a pid that is text": answer({"pid": "1; reboot"}),
    "output that is no base64": ended(**{"out-data": "%%%%", "pid": 1}),
    "base64 of 900 KiB": of_text(b"\x00" * 600 * 1024),
    "an exit code that is text": ended(exitcode="0", pid=1),
    "a surrogate": '{"return": "\\ud800"}',
}


class Channel:
    """To a guest whose agent sends one text, whatever it is asked."""

    def __init__(self, text: str | Callable[[], str]) -> None:
        self.text = text
        self.asked = 0

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        self.asked += 1
        assert timeout_s > 0
        return read_agent_answer(self.text if isinstance(self.text, str) else self.text())


@pytest.mark.fault("S22", "floods, garbage, nesting, lies")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_answer_costs_little_and_is_the_guests_failure(case):
    agent = GuestAgent(Channel(HOSTILE[case]), ID, "compute-01")
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(GuestError):
            agent.run(["/bin/ls"], Deadline.after(0.2), poll_s=0.01)
        with pytest.raises(GuestError):
            agent.read_clock_ns()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 10
    assert peak < 64 * MIB


@pytest.mark.fault("S22", "an agent that never answers, or never says that a program ended")
@pytest.mark.parametrize("case", ["silent", "not yet", "not yet, slowly"])
def test_an_agent_that_hangs_is_given_up_at_the_deadline(case):
    def silent() -> str:
        raise AgentUnresponsiveError("no answer")

    def slowly() -> str:
        time.sleep(0.05)
        return answer({"pid": 1, "exited": False})

    text = {"silent": silent, "not yet": answer({"pid": 1, "exited": False})}.get(case, slowly)
    channel = Channel(text)
    wanted = AgentUnresponsiveError if case == "silent" else DeadlineError
    with pytest.raises(wanted):
        GuestAgent(channel, ID, "compute-01").run(["/bin/ls"], Deadline.after(0.3), poll_s=0.05)
    assert channel.asked <= 30


class Libvirt(FakeLibvirt):
    """A cluster that runs, and whose agents all send one text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.channel = Channel(text)

    def list_domains(self):
        return tuple(domain_seen(DRAFT, one.name) for one in DRAFT.state.nodes)

    def find_network(self, _uuid):
        return network_seen(DRAFT)

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        return self.channel.agent_command(uuid, command, timeout_s)


@pytest.mark.fault("S22", "status of a cluster whose agents lie")
@pytest.mark.parametrize("case", HOSTILE)
def test_status_says_that_slurm_was_not_asked_and_is_right_in_all_else(case, monkeypatch):
    monkeypatch.setattr("ai_how.hpc.workload.SINFO_S", 0.2)
    state = DRAFT.state
    seen = observe(Libvirt(HOSTILE[case]), state, SLURM)
    status = status_of(SLURM, state, seen, {}, {})
    assert status.slurm_trouble
    assert len(status.slurm_trouble) < 500
    assert not status.is_ready
    assert {node.state for node in status.nodes} == {VmState.RUNNING}
    # Never what a guest says: an address is the one that was reserved for it.
    assert [node.ip for node in status.nodes] == [one.ip for one in state.nodes]


LIES = {
    "unknown nodes": "evil|idle|none\n" * 2000,
    "all in one line": "compute-01|idle|none compute-02|idle|none",
    "an escape for a reason": "compute-01|down|\x1b]0;owned\x07\ncompute-02|idle|none",
    "no separators": "x" * 100_000,
    "bytes that are no text": "\udcff".encode("utf-8", "surrogateescape") * 1000,
    "states that are none": "compute-01|IDLE; reboot|none\ncompute-02|$(reboot)|none",
}


@pytest.mark.fault("S22", "a controller that lies about SLURM")
@pytest.mark.parametrize("case", LIES)
def test_a_controller_that_lies_makes_no_cluster_ready(case):
    text = of_text(LIES[case]).replace('"exited"', '"pid": 1, "exited"')
    seen = observe(Libvirt(text), DRAFT.state, SLURM)
    status = status_of(SLURM, DRAFT.state, seen, {}, {})
    assert not status.is_ready
    assert {node.name for node in status.nodes} == {one.name for one in DRAFT.state.nodes}
