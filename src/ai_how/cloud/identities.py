"""Collects the identity of each node of a Kubernetes cluster, and the objects that it starts with.

All of it is made on this side: nodes download nothing, and nothing secret is read back from them.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import IPv4Network
from pathlib import Path

from ai_how.cloud import components, manifests, pki
from ai_how.cloud.facts import KubeFacts, KubeNode
from ai_how.cloud.guest import PROGRAM, program
from ai_how.cloud.section import cloud_of
from ai_how.cloud.volumes import storage_manifests
from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.secrets import (
    ensure_ssh_keys,
    find_lost_ssh_keys,
    host_keys,
    own_keys,
    public_key,
)
from ai_how.errors import HostError, SpecError
from ai_how.guest.base_identity import BaseIdentity, Entry, Neighbour, render_archive
from ai_how.images.packages import packages_of
from ai_how.images.sets import DNSMASQ
from ai_how.spec.cloud_checks import POD_PREFIX
from ai_how.spec.cloud_nodes import pool_of
from ai_how.spec.kubernetes_versions import Version
from ai_how.spec.nodes import Node, Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths

# CPU seconds of an emulated control plane until its API answers, before which nothing else begins.
JOIN_CPU_S = 60
POOL_LABEL = "ai-how/pool"
GPU_LABEL = "ai-how/devices"


@dataclass(frozen=True, kw_only=True)
class KubernetesIdentity(BaseIdentity):
    """All that turns a VM without an identity into a node of Kubernetes. repr() hides secrets."""

    units: tuple[str, ...]
    files: tuple[Entry, ...] = field(repr=False)

    def services(self) -> tuple[str, ...]:
        return (*self.units, *super().services())

    def settings(self) -> dict[str, str]:
        # The image's scripts do for a `controller` what SLURM needs.
        role = "control-plane" if self.role is Role.CONTROLLER else "worker"
        return super().settings() | {"ROLE": role}

    def entries(self) -> Iterable[Entry]:
        yield from super().entries()
        yield from self.files
        if self.role is Role.CONTROLLER:
            yield Entry(PROGRAM.lstrip("/"), program(), 0o755)


@dataclass(frozen=True, slots=True)
class Check:
    """What shows that nodes are ready: objects as JSON, and the Pods among them."""

    objects: str
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloudObjects:
    """The objects that a start brings into the cluster."""

    facts: KubeFacts

    @property
    def manifests(self) -> str:
        base = json.loads(manifests.base_manifests(self.facts))["items"]
        return json.dumps([*base, *storage_manifests(self.facts)], sort_keys=True)

    @property
    def former(self) -> str:
        """What an earlier start with other settings may have made, as JSON."""
        return _items(manifests.former_manifests(self.facts))

    def labels_of(self, names: Collection[str]) -> str:
        """The labels of these nodes, by name, as JSON."""
        nodes = (self.facts.get_node(name) for name in names)
        labels = {one.name: dict(self.facts.labels_of(one)) for one in nodes}
        return json.dumps(labels, sort_keys=True)

    def check_of(self, names: Collection[str]) -> Check:
        """The check of these nodes."""
        nodes = tuple(names)
        objects = _items(manifests.ready_manifests(self.facts, nodes))
        return Check(objects, tuple(map(manifests.check_name, nodes)))


def _items(text: str) -> str:
    """The objects of a list, as JSON."""
    return json.dumps(json.loads(text)["items"], sort_keys=True)


def pki_of(paths: ClusterPaths) -> Path:
    """The directory of the cluster's certificates."""
    return paths.secrets / "pki"


def ensure_secrets(state: ClusterState, paths: ClusterPaths) -> None:
    """Create the keys of the cluster and its nodes. Existing keys are kept."""
    ensure_ssh_keys(state, paths)
    pki.ensure_authorities(pki_of(paths), state.name)


def find_lost_secrets(previous: ClusterState | None, paths: ClusterPaths) -> tuple[str, ...]:
    """Descriptions of the keys that are missing from a cluster that was up."""
    was_up = previous is not None and previous.was_up
    lost = pki.find_lost(pki_of(paths)) if was_up else ()
    return (*lost, *find_lost_ssh_keys(previous, paths))


def version_of(desired: DesiredCluster, one: NodeState) -> Version | None:
    """The version of Kubernetes in a node's image; None where it is not known."""
    image = desired.images.get(one.image_digest)
    text = image.manifest.kubernetes_version if image else None
    return Version.parse(text) if text else None


def facts_of(desired: DesiredCluster) -> KubeFacts:
    """What all nodes are told of the cluster. Raises HostError where no version is known."""
    state, config = desired.state, cloud_of(desired.section).kubernetes_config
    version = version_of(desired, state.get_controller())
    if version is None:
        raise HostError(
            f"the image of {state.get_controller().name} has no Kubernetes",
            hint="remove base_image_path to use the built-in image",
        )
    asked = {one.name: node for node, one in desired.nodes}
    return KubeFacts(
        cluster=state.name,
        version=version,
        nodes=tuple(
            KubeNode(
                name=one.name,
                address=one.ip,
                is_control_plane=one.role is Role.CONTROLLER,
                pod_subnet=pod_subnet_of(one, state.network.subnet, config.pods),
                labels=_labels(asked.get(one.name), one),
                disk_gib=one.disk_gib,
            )
            for one in state.nodes
        ),
        node_subnet=state.network.subnet,
        pod_subnet=config.pods,
        service_subnet=config.services,
        gateway=state.network.gateway,
        has_audit=config.audit,
        dns="none" if find_without_dnsmasq(desired) else config.dns,
        storage_class=config.default_class,
    )


def find_without_dnsmasq(desired: DesiredCluster) -> NodeState | None:
    """A control plane that is to have a DNS server of ours, and whose image is too early for it.

    A node keeps the image that it was created with. Of images whose packages are not known, it is
    taken for granted.
    """
    if cloud_of(desired.section).kubernetes_config.dns != "own":
        return None
    planes = [one for one in desired.state.nodes if one.role is Role.CONTROLLER]
    return next((one for one in planes if _is_without_dnsmasq(desired, one)), None)


def _is_without_dnsmasq(desired: DesiredCluster, one: NodeState) -> bool:
    image = desired.images.get(one.image_digest)
    packages = packages_of(image) if image else None
    return packages is not None and all(each.name != DNSMASQ for each in packages)


def pod_subnet_of(one: NodeState, nodes: IPv4Network, pods: IPv4Network) -> IPv4Network:
    """The node's own part of the Pods' subnet, by its place in the nodes' subnet.

    It never changes, as the address of a node never does. Raises SpecError if there is none.
    """
    place = int(one.ip) - int(nodes.network_address)
    room = 2 ** (POD_PREFIX - pods.prefixlen)
    if place >= room:
        raise SpecError(
            f"{pods} has no /{POD_PREFIX} for {one.name}, which has {one.ip}",
            hint="set kubernetes_config.pod_subnet to a larger range",
        )
    return IPv4Network((int(pods.network_address) + place * 2 ** (32 - POD_PREFIX), POD_PREFIX))


def _labels(node: Node | None, one: NodeState) -> dict[str, str]:
    labels = {}
    if pool := pool_of(one.name):
        labels[POOL_LABEL] = pool
    if node is not None and node.has_host_devices:
        labels[GPU_LABEL] = "true"
    return labels


def config_digest(desired: DesiredCluster) -> str:
    """SHA-256 of what all nodes and the API are told: members, components, accounts, storage."""
    facts = facts_of(desired)
    told = (
        [(one.name, one.ip) for one in desired.state.nodes],
        [(node.name, node.virtio_fs_mounts) for node, _ in desired.nodes],
        desired.section.access,
        own_keys(desired),
        storage_manifests(facts),
    )
    text = components.digest(facts) + repr(told) + desired.outside.files.digest
    text += repr(program())
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Common:
    """The parts that all nodes share: built once, as they have a line for each node."""

    facts: KubeFacts
    neighbours: tuple[Neighbour, ...]
    own_keys: tuple[str, ...]
    host_keys: Callable[[], tuple[str, ...]]
    has_host_clock: bool
    wait_s: int


def build_archives(
    desired: DesiredCluster, paths: ClusterPaths, *, has_host_clock: bool
) -> Mapping[str, Callable[[], bytes]]:
    """For each node, a function that builds its identity archive with the current time."""
    common = _Common(
        facts=facts_of(desired),
        neighbours=tuple(Neighbour(other.name, other.ip) for other in desired.state.nodes),
        own_keys=own_keys(desired),
        host_keys=cache(lambda: host_keys(desired, paths)),
        has_host_clock=has_host_clock,
        wait_s=0 if has_host_clock else _wait_s(len(desired.nodes)),
    )
    return {
        node.name: partial(_archive, desired, paths, node, one, common)
        for node, one in desired.nodes
    }


def _wait_s(nodes: int) -> int:
    return JOIN_CPU_S * (nodes + 1) // (os.cpu_count() or 1)


def _archive(
    desired: DesiredCluster, paths: ClusterPaths, node: Node, one: NodeState, common: _Common
) -> bytes:
    identity = _identity(desired, paths, node, one, common)
    return render_archive(identity, now_s=int(time.time()))


def _identity(
    desired: DesiredCluster, paths: ClusterPaths, node: Node, one: NodeState, common: _Common
) -> KubernetesIdentity:
    state, facts = desired.state, common.facts
    here = next(each for each in facts.nodes if each.name == one.name)
    keys = pki.read_keys(pki_of(paths), facts, here)
    host_key = paths.host_key(one.name)
    return KubernetesIdentity(
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
        has_host_clock=common.has_host_clock,
        wait_s=common.wait_s,
        host_keys=common.host_keys(),
        shares=node.virtio_fs_mounts,
        outside=desired.outside.files,
        time_server=state.get_controller().name,
        host_key=host_key.read_bytes(),
        host_key_public=public_key(host_key),
        units=components.services(facts, here),
        files=tuple(components.entries(facts, here, keys)),
    )
