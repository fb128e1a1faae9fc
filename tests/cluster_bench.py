"""Clusters for tests: from a few lines of YAML to the draft and the plan that `hpc start` makes."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster, HostChoices, plan_desired_cluster
from ai_how.clusters.kind import ClusterKind, ClusterSection
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.rendering import PlanInputs, build_plan_inputs
from ai_how.host.place import HypervisorHost
from ai_how.hpc.kind import SLURM
from ai_how.hpc.workload import node_readiness
from ai_how.images.manifest import DISK, Image, Manifest
from ai_how.libvirt_client.facts import DomainInfo, Mark, NetworkInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.spec.models import HpcSpec
from ai_how.spec.reader import read_spec_text
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.networks.definition import define_network, render_network
from ai_how.vm_management.nodes.domain_definition import Accel

CLUSTER_ID = UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f001")
DIGEST = hashlib.sha256(b"tiny").hexdigest()
SUBNET = IPv4Network("10.77.0.0/24")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MIB = 1 << 20

TWO_NODES = "compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}"


def read_hpc(*lines: str, name: str = "hpc", nodes: str = TWO_NODES, memory_gb: int = 1) -> HpcSpec:
    """The cluster of a file whose `clusters.hpc` has these lines besides its nodes."""
    controller = f"controller: {{cpu_cores: 1, memory_gb: {memory_gb}, disk_gb: 10}}"
    body = "".join(f"    {line}\n" for line in (f"name: {name}", controller, nodes, *lines))
    text = f'version: "1.0"\nclusters:\n  hpc:\n{body}'
    spec, problems = read_spec_text(text, "test.yaml", {})
    assert spec is not None, problems
    assert spec.clusters.hpc is not None, problems
    return spec.clusters.hpc


def draft_of(
    hpc: ClusterSection,
    previous: ClusterState | None = None,
    *,
    kind: ClusterKind = SLURM,
    cluster_id: UUID = CLUSTER_ID,
    subnet: IPv4Network = SUBNET,
    storage: Path = Path("/srv/ai-how"),
    cards: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> DesiredCluster:
    """What a start would make of it, on a host whose storage is there."""
    return plan_desired_cluster(
        hpc,
        previous,
        kind=kind,
        cluster_id=cluster_id,
        host_uri="embedded",
        choices=HostChoices(
            subnet=lambda: subnet,
            disk_of=lambda node: StoragePaths(storage).disk(hpc.name, node),
            digest_of=lambda _node: DIGEST,
            cards=cards,
        ),
        now=NOW,
    )


def make_image(directory: Path, *, kubernetes: str | None = None) -> Image:
    """An image of 1 MiB with nothing on it, that calls itself one for nodes.

    These are SLURM's, or those of this version of Kubernetes.
    """
    directory.mkdir(parents=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", directory / DISK, "1M"])
    manifest = Manifest(
        digest=DIGEST,
        name="tiny",
        created_at=NOW,
        virtual_size_bytes=MIB,
        disk_sha256=hashlib.sha256((directory / DISK).read_bytes()).hexdigest(),
        identity="agent",
        kubernetes_version=kubernetes,
    )
    return Image(directory, manifest)


def rendering_of(
    draft: DesiredCluster, storage: StoragePaths, paths: ClusterPaths, images: Mapping[str, Image]
) -> PlanInputs:
    """The real templates, for guests under emulation."""
    place = HypervisorHost("embedded", "test:///default", "test", storage)
    return build_plan_inputs(draft, place, paths, images, Accel.TCG)


def domain_seen(
    draft: DesiredCluster, name: str, state: VmState = VmState.RUNNING, *, agent: bool = True
) -> DomainInfo:
    """A VM of the draft, as libvirt would show it."""
    node = draft.state.get_node(name)
    word = "connected" if agent else "disconnected"
    channel = f"<target name='org.qemu.guest_agent.0' state='{word}'/>"
    return DomainInfo(
        uuid=node.uuid,
        name=node.domain_name,
        state=state,
        state_number=1,
        reason=1,
        is_persistent=True,
        domid=None,
        vcpus=node.cpu_cores,
        memory_mib=node.memory_mib,
        mark=Mark(draft.state.name, draft.state.lineage, name),
        xml=f"<domain><devices><channel>{channel}</channel></devices></domain>",
    )


def network_seen(draft: DesiredCluster, *, is_active: bool = True) -> NetworkInfo:
    """The network of the draft, as libvirt would show it."""
    network = draft.state.network
    mark = Mark(draft.state.name, draft.state.lineage, "")
    xml = render_network(define_network(draft.state))
    return NetworkInfo(network.uuid, network.name, network.bridge, is_active, mark, xml)


def everything_seen(draft: DesiredCluster, state: VmState = VmState.RUNNING) -> Observed:
    """A cluster with all that it should have; SLURM answers where it runs."""
    nodes = draft.state.nodes
    seen = Observed(
        domains={node.uuid: domain_seen(draft, node.name, state) for node in nodes},
        network=network_seen(draft, is_active=state is VmState.RUNNING),
        disks=frozenset(node.name for node in nodes),
        has_disk_directory=True,
    )
    if state is not VmState.RUNNING:
        return seen
    slurm = {
        node.name: node_readiness(node.name, "idle", None)
        for node in nodes
        if node.role == "compute"
    }
    return replace(seen, readiness=slurm)
