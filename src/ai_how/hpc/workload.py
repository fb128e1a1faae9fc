"""Reads the state of nodes from SLURM."""

from collections.abc import Mapping
from uuid import UUID

from ai_how.clusters.workload import NodeReadiness, Workload
from ai_how.errors import AiHowError
from ai_how.guest.agent import GuestAgent
from ai_how.hpc.jobs import OUR_REASON
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.state.models import ClusterState
from ai_how.waiting import Deadline

# The states of sinfo(1) for nodes that accept or run jobs; the last two are kept for certain ones.
WORKING = frozenset({"idle", "mixed", "allocated", "completing", "planned", "reserved"})
SINFO = ("sinfo", "-h", "-N", "-a", "-o", "%N|%T|%E")
SINFO_S = 30.0


def observe_workload(
    client: LibvirtClient, state: ClusterState, domains: Mapping[UUID, DomainInfo]
) -> Workload:
    """Ask sinfo(1) on the controller."""
    controller = state.find_controller()
    seen = domains.get(controller.uuid) if controller else None
    if controller is None or seen is None or not seen.state.is_on:
        return Workload(None, "the controller is off")
    if not seen.is_agent_connected:
        return Workload(None, "the controller's guest agent does not answer")
    try:
        answer = GuestAgent(client, controller.uuid, controller.name).run(
            list(SINFO), Deadline.after(SINFO_S), poll_s=0.05
        )
    except AiHowError as error:
        return Workload(None, error.brief)
    if answer.exit_code != 0:
        said = answer.errors.strip().splitlines()
        return Workload(None, said[-1][:200] if said else "no answer")
    return Workload(read_sinfo(answer.output))


def read_sinfo(text: str) -> dict[str, NodeReadiness]:
    """Parse the output of `SINFO`, by node. Other lines are ignored."""
    seen = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if name and state:
            seen[name] = node_readiness(
                name, state.lower(), None if reason in {"", "none"} else reason
            )
    return seen


def node_readiness(name: str, state: str, reason: str | None) -> NodeReadiness:
    """A node by its state in sinfo(1).

    A trailing `*` means that the node does not respond, and `-` that the scheduler has plans for
    it. SLURM may append to a reason, such as " : Not responding".
    """
    is_draining = state.startswith("drain")
    is_ours = is_draining and (reason or "").startswith(OUR_REASON)
    return NodeReadiness(
        name,
        state,
        reason,
        is_working=state.removesuffix("-") in WORKING,
        is_closed_by_us=is_ours,
        is_drained=is_draining and not is_ours,
    )
