"""Kubernetes clusters for tests: from a few lines of YAML to the draft that `cloud start` makes."""

from dataclasses import replace
from pathlib import Path

from ai_how.cloud.kind import KUBERNETES
from ai_how.cloud.workload import read_nodes
from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.images.manifest import Image, Manifest
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.models import CloudSpec
from ai_how.spec.reader import read_spec_text
from ai_how.state.models import ClusterState
from cluster_bench import DIGEST, MIB, NOW, domain_seen, draft_of, network_seen

WORKERS = "worker_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}"
PLANE = "control_plane: {cpu_cores: 2, memory_gb: 2, disk_gb: 10}"


def read_cloud(*lines: str, workers: str = WORKERS, plane: str = PLANE) -> CloudSpec:
    """The cluster of a file whose `clusters.cloud` has these lines besides its nodes."""
    body = "".join(f"    {line}\n" for line in ("name: sky", plane, workers, *lines))
    text = f'version: "1.0"\nclusters:\n  cloud:\n{body}'
    spec, problems = read_spec_text(text, "test.yaml", {})
    assert spec is not None, problems
    assert spec.clusters.cloud is not None, problems
    return spec.clusters.cloud


def image_of(version: str = "1.20.2") -> Image:
    """An image that says that it has this version of Kubernetes."""
    manifest = Manifest(
        digest=DIGEST,
        name="kubernetes",
        created_at=NOW,
        virtual_size_bytes=MIB,
        disk_sha256="0" * 64,
        identity="agent",
        kubernetes_version=version,
    )
    return Image(Path("/nowhere"), manifest)


def cloud_draft(
    cloud: CloudSpec, previous: ClusterState | None = None, version: str = "1.20.2"
) -> DesiredCluster:
    """What `cloud start` would make of it."""
    draft = draft_of(cloud, previous, kind=KUBERNETES)
    return replace(draft, images={DIGEST: image_of(version)})


def cloud_seen(draft: DesiredCluster, state: VmState = VmState.RUNNING, **nodes: str) -> Observed:
    """A cluster with all that it should have; `nodes` are not Ready, for that reason."""
    names = [node.name for node in draft.state.nodes]
    seen = Observed(
        domains={node.uuid: domain_seen(draft, node.name, state) for node in draft.state.nodes},
        network=network_seen(draft, is_active=state is VmState.RUNNING),
        disks=frozenset(names),
        has_disk_directory=True,
    )
    if state is not VmState.RUNNING:
        return seen
    told = [
        {"name": name, "ready": "False", "reason": nodes[key]}
        if (key := name.replace("-", "_")) in nodes
        else {"name": name, "ready": "True"}
        for name in names
    ]
    return replace(seen, readiness=read_nodes(told))
