"""What keeps a node from being suspended (pure)."""

from ai_how.clusters.observation import Observed
from ai_how.libvirt_client.xml import read_xml
from ai_how.state.models import NodeState


def why_not_suspended(seen: Observed, one: NodeState) -> str | None:
    """What a VM has that its saved memory does not contain; None if nothing."""
    domain = seen.find_domain(one.uuid)
    if domain is None or not domain.is_persistent:
        return "it is no longer defined"
    devices = read_xml(domain.xml)
    if devices.find("./devices/hostdev") is not None:
        return "it has a device of the host"
    if devices.find("./devices/filesystem") is not None:
        return "it has virtiofs mounts"
    return None
