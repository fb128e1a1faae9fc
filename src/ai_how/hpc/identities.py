"""Collects the identity of each node: its place in the cluster, and its secrets."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.secrets import (
    ensure_ssh_keys,
    find_lost_ssh_keys,
    host_keys,
    own_keys,
    public_key,
)
from ai_how.guest.base_identity import Entry, Neighbour, is_below_home, render_archive
from ai_how.guest.ssh import ensure_munge_key
from ai_how.hpc.gpus import cards_of, gpu_entries, gres_entries
from ai_how.hpc.mig import mig_entries
from ai_how.hpc.node_identity import NodeIdentity
from ai_how.hpc.real_gpus import RealGpus, real_gpus_of
from ai_how.hpc.section import hpc_of
from ai_how.hpc.slurm_config import SlurmNode, render_gres_conf, render_slurm_conf
from ai_how.hpc.versions import has_pmix_of, reloads_gres, slurm_version_of
from ai_how.spec.models import HpcSpec
from ai_how.spec.nodes import Node, Role, cpu_topology_for
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths

# CPU seconds that an emulated node needs from boot to its first job. A restored node needs half.
JOIN_CPU_S = 12
TIMER_S = 30


def ensure_secrets(state: ClusterState, paths: ClusterPaths) -> None:
    """Create the keys of the cluster and its nodes. Existing keys are kept."""
    ensure_ssh_keys(state, paths)
    ensure_munge_key(paths.munge_key)


def find_lost_secrets(previous: ClusterState | None, paths: ClusterPaths) -> tuple[str, ...]:
    """Descriptions of the keys that are missing from a cluster that was up."""
    is_lost = previous is not None and previous.was_up and not paths.munge_key.exists()
    return (*(["the munge key"] if is_lost else []), *find_lost_ssh_keys(previous, paths))


def build_archives(
    desired: DesiredCluster, paths: ClusterPaths, *, has_host_clock: bool
) -> Mapping[str, Callable[[], bytes]]:
    """For each node, a function that builds its identity archive with the current time."""
    identities = build_identities(desired, paths, has_host_clock=has_host_clock)
    return {name: partial(_archive, identity) for name, identity in identities.items()}


def _archive(identity: Callable[[], NodeIdentity]) -> bytes:
    return render_archive(identity(), now_s=int(time.time()))


def build_identities(
    desired: DesiredCluster, paths: ClusterPaths, *, has_host_clock: bool
) -> Mapping[str, Callable[[], NodeIdentity]]:
    """For each node, a function that builds its identity; it reads the secrets."""
    common = _Common(
        neighbours=tuple(Neighbour(other.name, other.ip) for other in desired.state.nodes),
        own_keys=own_keys(desired),
        slurm_conf=_slurm_conf(desired),
        slurm_nodes={one.name: one for one in slurm_nodes(desired)},
        host_keys=cache(lambda: host_keys(desired, paths)),
        home_points=_home_points(desired),
        has_host_clock=has_host_clock,
        wait_s=0 if has_host_clock else choose_wait_s(len(desired.nodes), os.cpu_count() or 1),
    )
    return {
        node.name: partial(_identity, desired, paths, node, one, common)
        for node, one in desired.nodes
    }


@dataclass(frozen=True, slots=True)
class _Common:
    """The parts that all nodes share: built once, as they have a line for each node."""

    neighbours: tuple[Neighbour, ...]
    own_keys: tuple[str, ...]
    slurm_conf: str
    slurm_nodes: Mapping[str, SlurmNode]
    host_keys: Callable[[], tuple[str, ...]]
    home_points: tuple[str, ...]
    has_host_clock: bool
    wait_s: int


def _home_points(desired: DesiredCluster) -> tuple[str, ...]:
    """The mount points of all nodes below a home that the controller exports, each once."""
    if hpc_of(desired.section).storage.home != "nfs":
        return ()
    points = (share.mount_point for node, _ in desired.nodes for share in node.virtio_fs_mounts)
    return tuple(dict.fromkeys(one for one in points if is_below_home(one)))


def choose_wait_s(nodes: int, cpus: int) -> int:
    """Seconds beyond TIMER_S until all emulated nodes have joined, on a host with so many CPUs.

    TIMER_S is what the timer in the image waits anyway.
    """
    return max(0, JOIN_CPU_S * nodes // cpus - TIMER_S)


def config_digest(desired: DesiredCluster) -> str:
    """SHA-256 of the configuration that all nodes get: SLURM's, members, accounts."""
    hpc = hpc_of(desired.section)
    told = (
        [(one.name, one.ip) for one in desired.state.nodes],
        [(node.name, node.virtio_fs_mounts) for node, _ in desired.nodes],
        desired.section.access,
        hpc.storage.home,
        own_keys(desired),
    )
    text = _slurm_conf(desired) + repr(told) + desired.outside.files.digest
    if any(one.gpus is not None for one in desired.state.nodes):
        text += repr([(node.name, node.gpus) for node, _ in desired.nodes])
    divided = [(node.name, node.cards.slices) for node, _ in desired.nodes if node.cards]
    if any(slices is not None for _, slices in divided):
        text += repr(divided)
    return hashlib.sha256(text.encode()).hexdigest()


def slurm_nodes(desired: DesiredCluster) -> tuple[SlurmNode, ...]:
    """The compute nodes for slurm.conf, including those that are no longer in the spec."""
    hpc, asked = hpc_of(desired.section), {one.name: node for node, one in desired.nodes}
    return tuple(
        _slurm_node(hpc, asked.get(one.name), one, _real_gpus(desired, asked.get(one.name), one))
        for one in desired.state.nodes
        if one.role is Role.COMPUTE
    )


def _real_gpus(desired: DesiredCluster, node: Node | None, one: NodeState) -> RealGpus | None:
    if node is None:
        return None
    chosen = desired.device_hardware.get(node.name)
    foreign = chosen.foreign if chosen else ()
    return real_gpus_of(node, desired.images.get(one.image_digest), foreign)


def _slurm_node(
    hpc: HpcSpec, node: Node | None, one: NodeState, real: RealGpus | None
) -> SlurmNode:
    by_nvml = "nvml" if node and node.gpus and node.gpus.nvml else None
    layout = cpu_topology_for(hpc.hardware.acceleration.cpu_topology, one.cpu_cores)
    return SlurmNode(
        name=one.name,
        address=one.ip,
        sockets=layout.sockets if layout else 1,
        cores_per_socket=layout.cores if layout else one.cpu_cores,
        threads_per_core=layout.threads if layout else 1,
        memory_mib=one.memory_mib,
        is_left_off=node is None or not node.auto_start,
        gpus=real.counts if real else one.gpus or {},
        autodetect=real.autodetect if real else by_nvml,
    )


def _identity(
    desired: DesiredCluster, paths: ClusterPaths, node: Node, one: NodeState, common: _Common
) -> NodeIdentity:
    state, hpc = desired.state, hpc_of(desired.section)
    host_key = paths.host_key(one.name)
    return NodeIdentity(
        cluster=state.name,
        name=one.name,
        role=one.role,
        uuid=one.uuid,
        mac=one.mac,
        address=one.ip,
        subnet=state.network.subnet,
        gateway=state.network.gateway,
        neighbours=common.neighbours,
        login=state.user,
        authorized_keys=(public_key(paths.ssh_key), *common.own_keys),
        home_is_nfs=hpc.storage.home == "nfs",
        home_points=common.home_points,
        has_host_clock=common.has_host_clock,
        wait_s=common.wait_s,
        slurm_conf=common.slurm_conf,
        has_gpus=any(other.gpus for other in common.slurm_nodes.values()),
        gpu_files=_gpu_files(desired, node, one, common),
        host_keys=common.host_keys(),
        shares=node.virtio_fs_mounts,
        outside=desired.outside.files,
        host_key=host_key.read_bytes(),
        host_key_public=public_key(host_key),
        munge_key=paths.munge_key.read_bytes(),
    )


def _gpu_files(
    desired: DesiredCluster, node: Node, one: NodeState, common: _Common
) -> tuple[Entry, ...]:
    if one.role is Role.CONTROLLER:
        nodes = common.slurm_nodes.values()
        had_gpus = any(other.gpus is not None for other in desired.state.nodes)
        if not had_gpus and not any(other.gpus for other in nodes):
            return ()
        needs_restart = not reloads_gres(slurm_version_of(desired, one))
        conf = render_gres_conf(nodes)
        return (Entry("etc/slurm/gres.conf", conf), *(gres_entries() if needs_restart else ()))
    slices = node.cards.slices if node.cards else None
    divided = () if slices is None else tuple(mig_entries(slices))
    if one.gpus is None:
        return divided
    cards = cards_of(node.gpus, one.uuid) if node.gpus else ()
    return (*divided, *gpu_entries(cards, common.slurm_nodes[one.name]))


def _slurm_conf(desired: DesiredCluster) -> str:
    state = desired.state
    controller = state.get_controller()
    nodes = slurm_nodes(desired)
    return render_slurm_conf(
        state.name,
        controller.ip,
        nodes,
        hpc_of(desired.section).slurm_config,
        has_pmix=has_pmix_of(desired, controller),
    )
