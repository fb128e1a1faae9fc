"""Which clusters have a card in the definition of one of their VMs, as it was sent to libvirt."""

from dataclasses import dataclass

from ai_how.errors import StateError
from ai_how.gpu.models import Gpu
from ai_how.host.reading import read_text
from ai_how.libvirt_client.host_devices import devices_in
from ai_how.state.every_cluster import read_every_state
from ai_how.state.paths import Roots


@dataclass(frozen=True, slots=True)
class Request:
    """A VM with devices of the host in its definition; whether it runs is not said."""

    cluster: str
    node: str
    devices: frozenset[str]
    """PCI addresses, and UUIDs of mediated devices."""


def read_requests(roots: Roots) -> tuple[Request, ...]:
    """Those of all clusters of this state directory whose state and definitions can be read."""
    found = []
    for name, state in read_every_state(roots).items():
        if isinstance(state, StateError):
            continue
        for node in state.nodes:
            text = read_text(roots.cluster(name).xml / f"{node.domain_name}.xml")
            if text and (devices := devices_in(text)):
                found.append(Request(name, node.name, devices))
    return tuple(found)


def defined_in(gpu: Gpu, requests: tuple[Request, ...]) -> tuple[str, ...]:
    """The nodes, as CLUSTER/NODE, that have the card, a VF or a mediated device of it."""
    of_card = {*gpu.mdev_uuids}
    of_card |= {one.address for one in gpu.functions} | {one.address for one in gpu.sriov.vfs}
    return tuple(f"{one.cluster}/{one.node}" for one in requests if one.devices & of_card)
