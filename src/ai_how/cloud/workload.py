"""Reads the state of nodes from the API of Kubernetes."""

from collections.abc import Mapping
from uuid import UUID

from ai_how.cloud.guest import ask_api
from ai_how.clusters.workload import NodeReadiness, Workload
from ai_how.errors import AiHowError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.serial_log import one_line
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState
from ai_how.waiting import Deadline

API_S = 30.0


def observe_workload(
    client: LibvirtClient, state: ClusterState, domains: Mapping[UUID, DomainInfo]
) -> Workload:
    """Ask the API on the first control plane that is on."""
    planes = [one for one in state.nodes if one.role is Role.CONTROLLER]
    on = [one for one in planes if (seen := domains.get(one.uuid)) and seen.state.is_on]
    if not on:
        return Workload(None, "the control plane is off")
    there = [one for one in on if domains[one.uuid].is_agent_connected]
    if not there:
        return Workload(None, f"the guest agent of {on[0].name} does not answer")
    deadline = Deadline.after(API_S)
    trouble = ""
    for one in there:
        agent = GuestAgent(client, one.uuid, one.name)
        try:
            return Workload(read_nodes(ask_api(agent, "nodes", deadline=deadline)))
        except AiHowError as error:
            trouble = trouble or one_line(error.details or error.brief)
    return Workload(None, trouble)


def read_nodes(answer: object) -> dict[str, NodeReadiness]:
    """The nodes of an answer to `kube nodes`, by name. A guest wrote it: what does not fit goes."""
    found = {}
    for one in answer if isinstance(answer, list) else []:
        if isinstance(one, dict) and (node := _node(one)):
            found[node.name] = node
    return found


def _node(one: Mapping[str, object]) -> NodeReadiness | None:
    name, ready = one.get("name"), one.get("ready")
    if not isinstance(name, str) or not isinstance(ready, str):
        return None
    is_ready, is_closed, is_ours = (
        ready == "True",
        one.get("closed") is True,
        one.get("ours") is True,
    )
    pressure = one.get("pressure")
    words = ["Ready" if is_ready else "NotReady"]
    words += [str(each) for each in pressure] if isinstance(pressure, list) else []
    words += ["SchedulingDisabled"] if is_closed else []
    return NodeReadiness(
        name=one_line(name),
        state=one_line(",".join(words)),
        reason=None if is_ready else _reason(one),
        is_working=is_ready and not is_closed,
        is_closed_by_us=is_closed and is_ours,
        is_drained=is_ready and is_closed and not is_ours,
    )


def _reason(one: Mapping[str, object]) -> str | None:
    """The API's own words: `KubeletNotReady: cni plugin not initialized`."""
    words = [str(text) for name in ("reason", "message") if (text := one.get(name))]
    return one_line(": ".join(words)) or None
