"""Which clusters have a card in the definition of one of their VMs, as it was sent to libvirt."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element  # only the type: the parser is ours

from ai_how.errors import HostError, StateError
from ai_how.gpu.models import Gpu
from ai_how.host.reading import read_text
from ai_how.libvirt_client.xml import read_xml
from ai_how.state.every_cluster import read_every_state
from ai_how.state.paths import Roots


@dataclass(frozen=True, slots=True)
class Request:
    """A VM with devices of the host in its definition; whether it runs is not said."""

    cluster: str
    node: str
    addresses: frozenset[str]
    mdev_uuids: frozenset[str]


def read_requests(roots: Roots) -> tuple[Request, ...]:
    """Those of all clusters of this state directory whose state and definitions can be read."""
    found = []
    for name, state in read_every_state(roots).items():
        if isinstance(state, StateError):
            continue
        for node in state.nodes:
            text = read_text(roots.cluster(name).xml / f"{node.domain_name}.xml")
            request = _read_request(name, node.name, text) if text else None
            if request:
                found.append(request)
    return tuple(found)


def defined_in(gpu: Gpu, requests: tuple[Request, ...]) -> tuple[str, ...]:
    """The nodes, as CLUSTER/NODE, that have the card, a VF or a mediated device of it."""
    addresses = {one.address for one in gpu.functions}
    addresses |= {one.address for one in gpu.sriov.vfs}
    uuids = set(gpu.mdev_uuids)
    return tuple(
        f"{one.cluster}/{one.node}"
        for one in requests
        if one.addresses & addresses or one.mdev_uuids & uuids
    )


def _read_request(cluster: str, node: str, text: str) -> Request | None:
    try:
        domain = read_xml(text)
    except HostError:
        return None
    addresses, uuids = set(), set()
    for device in domain.iterfind("./devices/hostdev"):
        source = device.find("./source/address")
        if source is None:
            continue
        if device.get("type") == "mdev":
            uuids.add(source.get("uuid", "").lower())
        elif address := _address(source):
            addresses.add(address)
    if not addresses and not uuids:
        return None
    return Request(cluster, node, frozenset(addresses), frozenset(uuids))


def _address(source: Element) -> str | None:
    """libvirt writes domain='0x0000' bus='0x65' slot='0x00' function='0x0'."""
    try:
        domain, bus, slot, function = (
            int(source.get(name, ""), 16) for name in ("domain", "bus", "slot", "function")
        )
    except ValueError:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
