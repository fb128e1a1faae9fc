"""A wait for a guest's agent outlives a libvirtd that was killed while it started the VM."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.errors import GuestError
from ai_how.libvirt_client.facts import OFF_BY_DAEMON, DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import Applied
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.steps.guest import AwaitAgent
from ai_how.waiting import Deadline

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")
CRASHED = 3


def off(reason: int) -> DomainInfo:
    return DomainInfo(
        uuid=VM,
        name="hpc-compute-01",
        state=VmState.SHUT_OFF,
        state_number=5,
        reason=reason,
        is_persistent=True,
        domid=None,
        vcpus=1,
        memory_mib=64,
        mark=None,
        xml="<domain/>",
    )


@dataclass
class OffWorld:
    """A world where a VM is found off, for that reason, until it was started so many times."""

    reason: int
    starts_needed: int = 1
    starts: int = 0
    timeouts: Timeouts = field(default_factory=Timeouts)
    paths: ClusterPaths = field(default_factory=lambda: ClusterPaths(Path("/nowhere/hpc")))
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def client(self) -> "OffWorld":
        return self

    def node_of(self, domain: str) -> str:
        assert domain == STEP.domain
        return "compute-01"

    def wait_for_agent(self, _uuid: UUID, _deadline: Deadline) -> None:
        if self.starts < self.starts_needed:
            raise GuestError("hpc-compute-01 is shut off")

    def find_domain(self, _uuid: UUID) -> DomainInfo:
        return off(self.reason)

    def start_domain(self, _uuid: UUID) -> None:
        self.starts += 1


STEP = AwaitAgent("hpc-compute-01", VM)


@pytest.mark.fault("F27", "a VM that libvirtd ended when it was back")
def test_a_vm_that_libvirtd_ended_when_it_was_back_is_started_again() -> None:
    world = OffWorld(OFF_BY_DAEMON)
    assert STEP.apply(world) is Applied.MADE
    assert world.starts == 1


def test_a_vm_that_libvirtd_ends_again_is_given_up() -> None:
    world = OffWorld(OFF_BY_DAEMON, starts_needed=9)
    with pytest.raises(GuestError):
        STEP.apply(world)
    assert world.starts == 1


def test_a_vm_that_died_by_itself_is_not_started_again() -> None:
    world = OffWorld(CRASHED)
    with pytest.raises(GuestError):
        STEP.apply(world)
    assert world.starts == 0
