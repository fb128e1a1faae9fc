"""What guests are asked in passing, and what is made of their answers."""

import threading
from dataclasses import replace
from uuid import UUID

import pytest

from ai_how.clusters.file_systems import FileSystem, asked_file_systems, read_file_systems
from ai_how.clusters.status import status_of
from ai_how.errors import AgentUnresponsiveError
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.vm_state import VmState
from cluster_bench import draft_of, everything_seen, read_hpc

GIB = 2**30
STATE = draft_of(read_hpc()).state
SEEN = everything_seen(draft_of(read_hpc()))
NAMED = {one.name: one.uuid for one in STATE.nodes}


def entry(place: object, used: object, size: object, name: str = "vda") -> dict[str, object]:
    return {"name": name, "mountpoint": place, "used-bytes": used, "total-bytes": size}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, []),
        ({}, []),
        ([None, 3, "x", {}], []),
        ([entry("/", 9 * GIB, 10 * GIB)], ["/ is 90% full (9216 of 10240 MiB)"]),
        ([entry("/", True, 10)], []),
        ([entry("/", -1, 10)], []),
        ([entry("/", 11, 10)], []),
        ([entry("/", "9", 10)], []),
        ([entry(7, 9, 10)], []),
        (
            [entry("/b", GIB, GIB, "b"), entry("/a/twice", 0, GIB), entry("/a", 0, GIB)],
            ["/a is 0% full (0 of 1024 MiB)", "/b is 100% full (1024 of 1024 MiB)"],
        ),
    ],
)
def test_a_guests_word_on_its_file_systems_is_read_without_trust(answer, told):
    assert [str(one) for one in read_file_systems(answer)] == told


@pytest.mark.parametrize(
    ("used", "size", "is_full"), [(899, 1000, False), (900, 1000, True), (0, 0, False)]
)
def test_a_file_system_is_full_from_nine_tenths_on(used, size, is_full):
    assert FileSystem("/", used, size).is_full is is_full


@pytest.mark.fault("H21", "as guests tell it")
def test_a_full_file_system_is_its_nodes_problem_and_what_is_not_full_is_told_too():
    disks = {NAMED["compute-01"]: (FileSystem("/", 100, 100), FileSystem("/scratch", 1, 100))}
    nodes = {one.name: one for one in status_of(SLURM, STATE, SEEN, {}, {}, disks).nodes}
    assert "/ is 100% full (100 of 100 MiB)" in nodes["compute-01"].problems
    assert not any("/scratch" in problem for problem in nodes["compute-01"].problems)
    assert nodes["compute-01"].file_systems == disks[NAMED["compute-01"]]
    assert nodes["controller"].file_systems == ()


class Guests:
    """The channel to guests of which one refuses and one says nothing."""

    max_calls = 4

    def __init__(self) -> None:
        self.released = threading.Event()
        self.names = {one.uuid: one.name for one in STATE.nodes}

    def agent_command(self, uuid: UUID, _command: object, _timeout_s: float) -> object:
        if self.names[uuid] == "compute-01":
            self.released.wait(60)
        if self.names[uuid] == "compute-02":
            raise AgentUnresponsiveError("it does not answer")
        return [entry("/", 0, GIB)]


@pytest.mark.fault("S22", "an agent that hangs, one that refuses, and one that answers, in passing")
def test_a_guest_that_does_not_answer_keeps_nobody_waiting():
    guests = Guests()
    try:
        with asked_file_systems(guests, SEEN) as answers:
            pass
        assert {guests.names[uuid] for uuid in answers} == {"controller"}
    finally:
        guests.released.set()


def test_only_nodes_that_run_are_asked():
    off = everything_seen(draft_of(read_hpc()), VmState.SHUT_OFF)
    for seen in (off, replace(SEEN, domains={})):
        with asked_file_systems(Guests(), seen) as answers:
            pass
        assert answers == {}
