"""Plans the suspend of a cluster of any kind (pure)."""

from ai_how.clusters.observation import Observed
from ai_how.errors import HostError
from ai_how.libvirt_client.xml import read_xml
from ai_how.plan.step import Plan
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.vm_management.steps.suspend import SuspendDomain


def plan_suspend(state: ClusterState, seen: Observed) -> Plan:
    """The steps that save the memory of all nodes that are on, that of controllers last.

    So no request of another node stays unanswered, and what runs there notices nothing. Raises
    HostError before the first change if a node cannot be suspended.
    """
    on = [one for one in state.nodes if seen.is_on(one)]
    for one in on:
        if why := _why_not(seen, one):
            raise HostError(
                f"{one.name} cannot be suspended: {why}", hint=f"ai-how {state.kind} stop"
            )
    others = [one for one in on if one.role is not Role.CONTROLLER]
    made = [SuspendDomain(one.domain_name, one.uuid, one.memory_mib) for one in others]
    after = frozenset(step.key for step in made)
    made += [
        SuspendDomain(one.domain_name, one.uuid, one.memory_mib, after)
        for one in on
        if one.role is Role.CONTROLLER
    ]
    return Plan("stop", tuple(made))


def _why_not(seen: Observed, one: NodeState) -> str | None:
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
