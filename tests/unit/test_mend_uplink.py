"""A way out of a network that does not come back."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network
from uuid import UUID

import pytest

from ai_how.errors import HostError
from ai_how.plan.step import Applied
from ai_how.vm_management.networks.host_networks import FORWARDING_OFF, RULES_MISSING
from ai_how.vm_management.steps import networks as network_steps
from cluster_bench import draft_of, network_seen, read_hpc

DRAFT = draft_of(read_hpc())
STEP = network_steps.RepairUplink("hpc", UUID(int=1), "10.77.0.0/24")


@dataclass
class Host:
    """A world, its libvirt and its networks, of which the way out stays as it is."""

    trouble: str
    said: list[str] = field(default_factory=list)
    restarts: int = 0

    def __post_init__(self) -> None:
        self.client = self.networks = self
        self.warn = self.said.append

    def find_uplink_problem(self, _subnet: IPv4Network) -> str:
        return self.trouble

    def forward(self) -> None:
        raise HostError(FORWARDING_OFF)

    def restart_libvirtd(self) -> None:
        self.restarts += 1

    def find_network(self, _uuid: UUID):
        return network_seen(DRAFT)


@pytest.mark.fault("H15", "firewall rules, or forwarding, that do not come back")
@pytest.mark.parametrize(
    ("trouble", "why", "restarts"),
    [
        (RULES_MISSING, "timed out waiting for the firewall rules of the network hpc", 1),
        (FORWARDING_OFF, FORWARDING_OFF, 0),
    ],
)
def test_a_way_out_that_stays_shut_is_said_and_fails_no_start(monkeypatch, trouble, why, restarts):
    monkeypatch.setattr(network_steps, "RULES_S", 0.0)
    host = Host(trouble)
    assert STEP.apply(host) is Applied.KEPT
    assert host.said == [f"the network hpc has no uplink yet: {why}"]
    assert host.restarts == restarts
