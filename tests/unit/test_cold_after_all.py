"""A node whose saved memory cannot be used boots, also when libvirt ends that boot by mistake."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from uuid import UUID

import pytest

from ai_how.errors import ConnectionLostError, LibvirtError
from ai_how.plan.step import Applied
from ai_how.state.models import VmState
from ai_how.vm_management.steps import RestoreDomain

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")
# libvirt's words, when the end of the QEMU before reaches it while the next one starts.
ENDED = "qemu unexpectedly closed the monitor: terminating on signal 15 from pid 25 (libvirtd)"
STEP = RestoreDomain(
    domain="hpc-compute-01",
    uuid=VM,
    cluster="hpc",
    node="compute-01",
    saved=SimpleNamespace(find=lambda _world: None),
)


@dataclass
class World:
    """Its first starts fail so, in turn; what has been said is kept."""

    failures: list[LibvirtError]
    starts: int = 0
    said: list[str] = field(default_factory=list)
    refused: set[UUID] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def client(self) -> "World":
        return self

    def say(self, line: str) -> None:
        self.said.append(line)

    def get_domain(self, _uuid: UUID) -> SimpleNamespace:
        return SimpleNamespace(state=VmState.SHUT_OFF)

    def start_domain(self, _uuid: UUID, *, is_anew: bool) -> None:
        assert not is_anew
        self.starts += 1
        if self.failures:
            raise self.failures.pop(0)


@pytest.mark.fault("W02", "libvirt ends the boot that follows a refused restore")
def test_a_boot_that_libvirt_ended_for_the_restore_before_is_begun_again():
    world = World([LibvirtError(ENDED)])
    assert STEP.apply(world) is Applied.MADE
    assert world.starts == 2
    assert world.said == ["compute-01 boots cold: the saved machine is gone"]
    assert world.refused == {VM}


def test_a_boot_that_fails_twice_fails():
    world = World([LibvirtError(ENDED), LibvirtError("no")])
    with pytest.raises(LibvirtError, match="no"):
        STEP.apply(world)
    assert world.starts == 2


def test_a_lost_connection_and_an_interrupt_are_not_waited_out():
    lost = World([ConnectionLostError("gone")])
    with pytest.raises(ConnectionLostError):
        STEP.apply(lost)
    interrupted = World([LibvirtError(ENDED)])
    interrupted.stop.set()
    with pytest.raises(LibvirtError):
        STEP.apply(interrupted)
    assert (lost.starts, interrupted.starts) == (1, 1)
