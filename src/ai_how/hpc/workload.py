"""Reads the state of nodes from SLURM."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from ai_how.clusters.workload import GpuUse, NodeReadiness, Workload
from ai_how.errors import AiHowError
from ai_how.guest.agent import GuestAgent
from ai_how.hpc.jobs import OUR_REASON
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.state.models import ClusterState
from ai_how.waiting import Deadline

# The states of sinfo(1) for nodes that accept or run jobs; the last two are kept for certain ones.
WORKING = frozenset({"idle", "mixed", "allocated", "completing", "planned", "reserved"})
GPU_REASON = "gres/gpu count"
"""Why SLURM drains a node with other GPUs than slurm.conf has. As long as that lasts, the node is
`inval`; then it stays drained, until somebody undrains it.
"""
# The count is that of slurm.conf; a node that reports fewer is out of service.
GPUS = "sinfo -h -N -a -O 'NodeList:80|,Gres:400|,GresUsed:800'"
_COLUMNS = 3
_GPU = re.compile(r"gpu:(?:([A-Za-z0-9][A-Za-z0-9_.+-]{0,63}):)?([0-9]{1,6})(?=[,(]|$)")
SINFO = ("sinfo", "-h", "-N", "-a", "-o", "%N|%T|%E")
# A blank line is between the answers.
_WITH_GPUS = f"{GPUS} && echo && exec {shlex.join(SINFO)}"
SINFO_S = 30.0


def observe_workload(
    client: LibvirtClient, state: ClusterState, domains: Mapping[UUID, DomainInfo]
) -> Workload:
    """Ask sinfo(1) on the controller, in one call; also for GPUs, if any node has some."""
    controller = state.find_controller()
    seen = domains.get(controller.uuid) if controller else None
    if controller is None or seen is None or not seen.state.is_on:
        return Workload(None, "the controller is off")
    if not seen.is_agent_connected:
        return Workload(None, "the controller's guest agent does not answer")
    try:
        answer = GuestAgent(client, controller.uuid, controller.name).run(
            _words(state), Deadline.after(SINFO_S), poll_s=0.05
        )
    except AiHowError as error:
        return Workload(None, error.brief)
    if answer.exit_code != 0:
        said = answer.errors.strip().splitlines()
        return Workload(None, said[-1][:200] if said else "no answer")
    gpus, _, nodes = answer.output.rpartition("\n\n")
    used = read_gpus(gpus)
    return Workload(
        {name: replace(node, gpus=used.get(name, ())) for name, node in read_sinfo(nodes).items()}
    )


def _words(state: ClusterState) -> list[str]:
    if not any(node.gpus for node in state.nodes):
        return list(SINFO)
    return ["/bin/sh", "-c", _WITH_GPUS]


def read_gpus(text: str) -> dict[str, tuple[GpuUse, ...]]:
    """Parse the output of `GPUS`, by node. Other lines are ignored.

    `gpu:a100:8(S:0)` is what a node has, `gpu:a100:2(IDX:0-1)` what jobs have. Types are sorted,
    since SLURM changes their order.
    """
    seen = {}
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) != _COLUMNS or "gpu:" not in words[1]:
            continue
        used = {kind: int(count) for kind, count in _GPU.findall(words[2])}
        seen[words[0]] = tuple(
            GpuUse(kind or "gpu", int(count), used.get(kind, 0))
            for kind, count in sorted(_GPU.findall(words[1]))
        )
    return seen


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
    it. SLURM may append to a reason, such as " : Not responding". Nodes that SLURM drained for
    missing GPUs are as those that we drained: to be undrained when they are ready.
    """
    is_draining = state.startswith("drain")
    is_ours = is_draining and (reason or "").startswith((OUR_REASON, GPU_REASON))
    return NodeReadiness(
        name,
        state,
        reason,
        is_working=state.removesuffix("-") in WORKING,
        is_closed_by_us=is_ours,
        is_drained=is_draining and not is_ours,
    )
