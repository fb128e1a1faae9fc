"""A node whose saved memory cannot be used boots, as a VM that libvirt has not seen before."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from ai_how.errors import ConnectionLostError, LibvirtError
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import Applied
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.steps.domains import RestoreDomain

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")
XML = "<domain>compute-01</domain>"
STEP = RestoreDomain(
    domain="hpc-compute-01",
    uuid=VM,
    cluster="hpc",
    node="compute-01",
    saved=SimpleNamespace(find=lambda _world: None),
)


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(World, "paths", ClusterPaths(tmp_path / "hpc"), raising=False)


@dataclass
class World:
    """Its starts fail so; what is asked of libvirt, and what has been said, is kept."""

    failure: LibvirtError | None = None
    asked: list[tuple[str, object]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def client(self) -> "World":
        return self

    def node_of(self, domain: str) -> str:
        assert domain == STEP.domain
        return STEP.node

    def warn(self, line: str) -> None:
        self.said.append(line)

    def read_sent_xml(self, name: str) -> str:
        assert name == STEP.domain
        return XML

    def get_domain(self, _uuid: UUID) -> SimpleNamespace:
        return SimpleNamespace(state=VmState.SHUT_OFF)

    def destroy_domain(self, uuid: UUID) -> None:
        self.asked.append(("destroy", uuid))

    def undefine_domain(self, uuid: UUID, *, snapshots_too: bool) -> None:
        assert not snapshots_too
        self.asked.append(("undefine", uuid))

    def define_domain(self, xml: str) -> None:
        self.asked.append(("define", xml))

    def start_domain(self, uuid: UUID, *, is_anew: bool) -> None:
        assert not is_anew
        self.asked.append(("start", uuid))
        if self.failure:
            raise self.failure


@pytest.mark.fault("W02", "libvirt ends the boot that follows a refused restore")
def test_a_vm_whose_restore_was_refused_is_defined_anew_before_it_boots() -> None:
    world = World()
    assert STEP.apply(world) is Applied.MADE
    assert world.asked == [("destroy", VM), ("undefine", VM), ("define", XML), ("start", VM)]
    assert world.said == ["compute-01 boots cold: the saved VM is gone"]


@pytest.mark.parametrize("failure", [LibvirtError("no"), ConnectionLostError("gone")])
def test_a_boot_that_fails_fails(failure: LibvirtError) -> None:
    world = World(failure)
    with pytest.raises(type(failure)):
        STEP.apply(world)
    assert world.asked[-1] == ("start", VM)
